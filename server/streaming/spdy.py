"""SPDY/3.1 frames from and to bytes, without any input or output (SPDY draft 3, section 2).

    control frame   1 | version 3 (15 bits) | type (16) | flags (8) | length (24) | payload
    data frame      0 | stream (31)                     | flags (8) | length (24) | payload

A header block is zlib-compressed, and all the blocks of one direction share one compression context: each has to go through the
decompressor in its turn, that of a refused stream too. SPDY/3.1's flow control is not spoken here, as no peer of CRI's speaks it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum

from moorage.server.streaming.dictionary import DICTIONARY

VERSION = 3
FIN = 0x01
CONTROL = 0x80000000
STREAM_MASK = 0x7FFFFFFF
HEAD = struct.Struct(">II")
PAIR = struct.Struct(">II")
SYN_STREAM_HEAD = struct.Struct(">IIH")
WORD = struct.Struct(">I")

MAX_CONTROL = 16 << 10
"""Bytes of a control frame's payload."""
MAX_HEADER_BLOCK = 16 << 10
"""Bytes of a header block, inflated."""
MAX_HEADERS = 64
WINDOW_BITS = 11
"""2 KiB: just enough for the dictionary. What is compressed here are empty header blocks; a client inflates any window."""


class Type(IntEnum):
    """Control frames that mean something here."""

    SYN_STREAM = 1
    SYN_REPLY = 2
    RST_STREAM = 3
    PING = 6
    GOAWAY = 7
    HEADERS = 8


class Status(IntEnum):
    """Why a stream is reset (2.6.3)."""

    PROTOCOL_ERROR = 1
    REFUSED_STREAM = 3
    CANCEL = 5


class GoAwayStatus(IntEnum):
    """Why a connection ends (2.6.6)."""

    OK = 0
    PROTOCOL_ERROR = 1


class SpdyError(Exception):
    """The peer does not speak SPDY/3.1, or goes beyond a limit: the connection is of no more use."""


@dataclass(frozen=True, slots=True)
class SynStream:
    """The peer opens a stream. Header names are lower-case."""

    stream: int
    headers: Mapping[str, str]
    fin: bool = False


@dataclass(frozen=True, slots=True)
class SynReply:
    """The peer accepts a stream of ours."""

    stream: int
    headers: Mapping[str, str]
    fin: bool = False


@dataclass(frozen=True, slots=True)
class Headers:
    """More headers for a stream."""

    stream: int
    headers: Mapping[str, str]
    fin: bool = False


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes of a stream: a data frame, or the part of it that has come. `fin` comes with the last part."""

    stream: int
    data: bytes
    fin: bool = False


@dataclass(frozen=True, slots=True)
class RstStream:
    """The stream has ended in both directions."""

    stream: int
    status: int


@dataclass(frozen=True, slots=True)
class Ping:
    """To be sent back if its sender opened it: odd from a client."""

    id: int


@dataclass(frozen=True, slots=True)
class GoAway:
    """The peer opens no more streams."""

    last_stream: int
    status: int


Frame = SynStream | SynReply | Headers | Data | RstStream | Ping | GoAway


class Decoder:
    """Frames of one direction. Holds at most what was fed last plus one control frame, whatever lengths the peer tells."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)
        self._data: Data | None = None
        self._left = 0
        self._skip = 0

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are complete with these bytes; take all of them. Raises SpdyError; then nothing more can be fed."""
        self._buffer += data
        while True:
            if self._skip:
                self._take(min(self._skip, len(self._buffer)), skip=True)
            if self._left:
                if not self._buffer:
                    return
                yield self._data_part()
            elif self._skip or len(self._buffer) < HEAD.size:
                return
            else:
                first, second = HEAD.unpack_from(self._buffer)
                length = second & 0xFFFFFF
                if first & CONTROL and _known(first, length) and len(self._buffer) < HEAD.size + length:
                    return
                self._take(HEAD.size)
                frame = self._control(first, second) if first & CONTROL else self._data_head(first, second)
                if frame is not None:
                    yield frame

    def _take(self, size: int, *, skip: bool = False) -> bytes:
        taken = b"" if skip else bytes(self._buffer[:size])
        del self._buffer[:size]
        if skip:
            self._skip -= size
        return taken

    def _data_head(self, first: int, second: int) -> Data | None:
        """A frame without bytes is answered here; otherwise its bytes come as parts."""
        stream, fin, length = first & STREAM_MASK, bool(second >> 24 & FIN), second & 0xFFFFFF
        if not stream:
            raise SpdyError("data for stream 0")
        self._data = Data(stream, b"", fin)
        self._left = length
        return None if length else self._data

    def _data_part(self) -> Data:
        assert self._data is not None
        part = self._take(min(self._left, len(self._buffer)))
        self._left -= len(part)
        return Data(self._data.stream, part, self._data.fin and not self._left)

    def _control(self, first: int, second: int) -> Frame | None:
        kind, fin, length = first & 0xFFFF, bool(second >> 24 & FIN), second & 0xFFFFFF
        if not _known(first, length):
            self._skip = length
            return None
        payload = self._take(length)
        try:
            return self._parse(Type(kind), fin, payload)
        except struct.error as error:
            raise SpdyError(f"{Type(kind).name} frame has {length} bytes") from error

    def _parse(self, kind: Type, fin: bool, payload: bytes) -> Frame:
        if kind is Type.SYN_STREAM:
            stream, _associated, _priority = SYN_STREAM_HEAD.unpack_from(payload)
            return SynStream(_stream_id(stream), self._headers(payload[SYN_STREAM_HEAD.size :]), fin)
        if kind in (Type.SYN_REPLY, Type.HEADERS):
            (stream,) = WORD.unpack_from(payload)
            headers = self._headers(payload[WORD.size :])
            return (SynReply if kind is Type.SYN_REPLY else Headers)(_stream_id(stream), headers, fin)
        if kind is Type.PING:
            return Ping(*WORD.unpack(payload))
        stream, status = PAIR.unpack(payload)
        if kind is Type.GOAWAY:
            return GoAway(stream & STREAM_MASK, status)
        return RstStream(_stream_id(stream), status)

    def _headers(self, block: bytes) -> dict[str, str]:
        try:
            inflated = self._inflate.decompress(block, MAX_HEADER_BLOCK + 1)
        except zlib.error as error:
            raise SpdyError(f"cannot inflate header block: {error}") from error
        if len(inflated) > MAX_HEADER_BLOCK or self._inflate.unconsumed_tail:
            raise SpdyError(f"header block is longer than {MAX_HEADER_BLOCK} bytes")
        if self._inflate.eof:
            raise SpdyError("the compression of header blocks was ended")
        return parse_headers(inflated)


def _known(first: int, length: int) -> bool:
    """Whether to parse this control frame. The others (SETTINGS, WINDOW_UPDATE, CREDENTIAL, unknown ones) are skipped as they come."""
    version, kind = first >> 16 & 0x7FFF, first & 0xFFFF
    if version != VERSION:
        raise SpdyError(f"SPDY version is {version}, not {VERSION}")
    if kind not in Type.__members__.values():
        return False
    if length > MAX_CONTROL:
        raise SpdyError(f"{Type(kind).name} frame has {length} bytes")
    return True


def _stream_id(word: int) -> int:
    stream = word & STREAM_MASK
    if not stream:
        raise SpdyError("stream 0 does not exist")
    return stream


def parse_headers(block: bytes) -> dict[str, str]:
    """A header block (2.6.10), inflated: a count, and names and values behind their lengths. Several values of a name are NUL-joined."""
    try:
        (count,) = WORD.unpack_from(block)
    except struct.error as error:
        raise SpdyError("header block is cut off") from error
    if count > MAX_HEADERS:
        raise SpdyError(f"header block has {count} headers")
    headers: dict[str, str] = {}
    offset = WORD.size
    for _ in range(count):
        name, offset = _text(block, offset)
        value, offset = _text(block, offset)
        if not name or name != name.lower() or name in headers:
            raise SpdyError("header name is empty, not lower-case, or there twice")
        headers[name] = value
    if offset != len(block):
        raise SpdyError("header block has bytes behind its headers")
    return headers


def _text(block: bytes, offset: int) -> tuple[str, int]:
    if offset + WORD.size > len(block):
        raise SpdyError("header block is cut off")
    (length,) = WORD.unpack_from(block, offset)
    start, end = offset + WORD.size, offset + WORD.size + length
    if end > len(block):
        raise SpdyError("header block is cut off")
    return block[start:end].decode("latin-1"), end


class Encoder:
    """Frames of one direction, to bytes."""

    def __init__(self) -> None:
        self._deflate = zlib.compressobj(wbits=WINDOW_BITS, memLevel=1, zdict=DICTIONARY)

    def syn_reply(self, stream: int) -> bytes:
        """Accepts a stream, without headers."""
        block = self._deflate.compress(WORD.pack(0)) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
        return control(Type.SYN_REPLY, WORD.pack(stream) + block)


def control(kind: int, payload: bytes, flags: int = 0) -> bytes:
    """Any control frame."""
    return HEAD.pack(CONTROL | VERSION << 16 | kind, flags << 24 | len(payload)) + payload


def data_frame(stream: int, data: bytes, *, fin: bool = False) -> bytes:
    """Bytes of a stream, at most 16 MiB - 1."""
    return HEAD.pack(stream, (FIN if fin else 0) << 24 | len(data)) + data


def rst_stream(stream: int, status: Status) -> bytes:
    """Ends a stream in both directions."""
    return control(Type.RST_STREAM, PAIR.pack(stream, status))


def ping(ping_id: int) -> bytes:
    """Sends a PING, or one back."""
    return control(Type.PING, WORD.pack(ping_id))


def go_away(last_stream: int, status: GoAwayStatus) -> bytes:
    """Ends the connection; `last_stream` is the last one that was accepted."""
    return control(Type.GOAWAY, PAIR.pack(last_stream, status))
