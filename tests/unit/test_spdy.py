"""SPDY/3.1 framing: what is encoded is decoded, however it is cut, and nothing that comes from outside does more than end it."""

from __future__ import annotations

import itertools
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage.server.streaming import spdy
from moorage.server.streaming.dictionary import DICTIONARY
from tests.streamclient import SpdyFramer

names = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=20)
values = st.text(st.characters(max_codepoint=127), max_size=40)
headers = st.dictionaries(names, values, max_size=8)
streams = st.integers(1, 0x7FFFFFFF)
words = st.integers(0, 0xFFFFFFFF)
frames = st.one_of(
    st.builds(spdy.SynStream, streams, headers, st.booleans()),
    st.builds(spdy.SynReply, streams, headers, st.booleans()),
    st.builds(spdy.Headers, streams, headers, st.booleans()),
    st.builds(spdy.Data, streams, st.binary(max_size=300), st.booleans()),
    st.builds(spdy.RstStream, streams, words),
    st.builds(spdy.Ping, words),
    st.builds(spdy.GoAway, st.integers(0, 0x7FFFFFFF), words),
)


def encode(framer: SpdyFramer, frame: spdy.Frame) -> bytes:
    match frame:
        case spdy.SynStream():
            return framer.syn_stream(frame.stream, dict(frame.headers), int(frame.fin))
        case spdy.SynReply() | spdy.Headers():
            kind = 2 if isinstance(frame, spdy.SynReply) else 8
            payload = struct.pack(">I", frame.stream) + framer.headers(dict(frame.headers))
            return framer.control(kind, payload, int(frame.fin))
        case spdy.Data():
            return framer.data(frame.stream, frame.data, int(frame.fin))
        case spdy.RstStream():
            return framer.control(3, struct.pack(">II", frame.stream, frame.status))
        case spdy.Ping():
            return framer.control(6, struct.pack(">I", frame.id))
        case spdy.GoAway():
            return framer.control(7, struct.pack(">II", frame.last_stream, frame.status))


def encode_all(sequence: list[spdy.Frame]) -> bytes:
    framer = SpdyFramer()
    return b"".join(encode(framer, frame) for frame in sequence)


def decode(pieces: list[bytes]) -> list[spdy.Frame]:
    decoder = spdy.Decoder()
    return [frame for piece in pieces for frame in decoder.feed(piece)]


def joined(sequence: list[spdy.Frame]) -> list[spdy.Frame]:
    """With the parts of each data frame put together. Only a frame's last part may carry its end, so it never hides a cut."""
    whole: list[spdy.Frame] = []
    for frame in sequence:
        last = whole[-1] if whole else None
        if (
            isinstance(frame, spdy.Data)
            and isinstance(last, spdy.Data)
            and last.stream == frame.stream
            and not last.fin
        ):
            whole[-1] = spdy.Data(frame.stream, last.data + frame.data, frame.fin)
        else:
            whole.append(frame)
    return whole


def cut(data: bytes, places: list[int]) -> list[bytes]:
    marks = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in itertools.pairwise(marks)]


def test_the_dictionary_is_the_published_one() -> None:
    """A peer's inflater finds it by this number; the draft gives its length."""
    assert (len(DICTIONARY), zlib.adler32(DICTIONARY)) == (1423, 0xE3C6A7C2)


@given(st.lists(frames, max_size=12), st.lists(st.integers(0), max_size=12))
def test_frames_survive_the_wire_however_it_cuts_them(sequence: list[spdy.Frame], places: list[int]) -> None:
    assert joined(decode(cut(encode_all(sequence), places))) == joined(sequence)


@given(st.lists(st.binary(max_size=400), max_size=8))
def test_random_bytes_raise_only_the_protocol_error(pieces: list[bytes]) -> None:
    decoder = spdy.Decoder()
    for piece in pieces:
        try:
            for frame in decoder.feed(piece):
                assert isinstance(frame, spdy.Frame)
        except spdy.SpdyError:
            return
    assert len(decoder._buffer) <= spdy.MAX_CONTROL + 8


@given(
    st.lists(frames, min_size=1, max_size=8),
    st.lists(st.tuples(st.integers(0), st.integers(0, 255)), min_size=1, max_size=6),
    st.lists(st.integers(0), max_size=6),
)
def test_damaged_streams_raise_only_the_protocol_error(
    sequence: list[spdy.Frame], changes: list[tuple[int, int]], places: list[int]
) -> None:
    data = bytearray(encode_all(sequence))
    for place, value in changes:
        data[place % len(data)] = value
    decoder = spdy.Decoder()
    try:
        for piece in cut(bytes(data), places):
            for frame in decoder.feed(piece):
                assert isinstance(frame, spdy.Frame)
    except spdy.SpdyError:
        return
    assert len(decoder._buffer) <= spdy.MAX_CONTROL + 8


def test_data_of_any_length_is_passed_on_as_it_comes() -> None:
    decoder = spdy.Decoder()
    assert list(decoder.feed(struct.pack(">II", 1, 1 << 24 | 0xFFFFFF))) == []
    left = 0xFFFFFF
    while left:
        piece = bytes(min(left, 65536))
        left -= len(piece)
        assert list(decoder.feed(piece)) == [spdy.Data(1, piece, fin=not left)]
        assert not decoder._buffer


@pytest.mark.parametrize("kind", [4, 9, 10, 5, 77])
def test_frames_without_meaning_are_skipped_without_being_held(kind: int) -> None:
    decoder = spdy.Decoder()
    assert list(decoder.feed(struct.pack(">HHI", 0x8003, kind, 0xFFFFFF))) == []
    for _ in range(0xFFFFFF // 65535):
        assert list(decoder.feed(bytes(65535))) == []
        assert not decoder._buffer
    left = 0xFFFFFF % 65535
    assert list(decoder.feed(bytes(left) + SpdyFramer.control(6, b"\0\0\0\1"))) == [spdy.Ping(1)]


def test_a_header_block_that_inflates_without_end_is_refused() -> None:
    framer = SpdyFramer()
    bomb = framer.control(1, struct.pack(">IIH", 1, 0, 0) + framer.block(bytes(4 << 20)))
    assert len(bomb) < spdy.MAX_CONTROL
    with pytest.raises(spdy.SpdyError, match="longer"):
        decode([bomb])


def words_block(*parts: str | int) -> bytes:
    packed = [struct.pack(">I", p) if isinstance(p, int) else struct.pack(">I", len(p)) + p.encode() for p in parts]
    return b"".join(packed)


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"\0\0",
        words_block(1),
        words_block(1, "name"),
        words_block(1, "name", 5),
        words_block(0xFFFFFFFF, "name", "value"),
        words_block(1, "name", "value", "more"),
        words_block(2, "name", "value", "name", "value"),
        words_block(1, "Name", "value"),
        words_block(1, "", "value"),
    ],
)
def test_bad_header_blocks_are_refused(block: bytes) -> None:
    with pytest.raises(spdy.SpdyError):
        spdy.parse_headers(block)


@pytest.mark.parametrize(
    "data",
    [
        SpdyFramer.control(6, b"\0\0\0\1", version=2),
        SpdyFramer.control(6, b""),
        SpdyFramer.control(6, bytes(5)),
        SpdyFramer.control(3, bytes(4)),
        SpdyFramer.control(3, bytes(8)),
        SpdyFramer.control(7, bytes(4)),
        SpdyFramer.control(1, bytes(9)),
        SpdyFramer.control(1, struct.pack(">IIH", 1, 0, 0) + b"not deflated"),
        SpdyFramer.control(2, struct.pack(">I", 0)),
        struct.pack(">HHI", 0x8003, 1, 0xFFFFFF),
        SpdyFramer.data(0, b"x"),
    ],
)
def test_bad_frames_are_refused(data: bytes) -> None:
    with pytest.raises(spdy.SpdyError):
        decode([data])


def test_the_end_of_the_compression_is_refused() -> None:
    deflate = zlib.compressobj(zdict=DICTIONARY)
    block = deflate.compress(bytes(4)) + deflate.flush(zlib.Z_FINISH)
    with pytest.raises(spdy.SpdyError, match="ended"):
        decode([SpdyFramer.control(1, struct.pack(">IIH", 1, 0, 0) + block)])


def test_replies_share_one_compression() -> None:
    encoder, inflate = spdy.Encoder(), zlib.decompressobj(zdict=DICTIONARY)
    for stream in (1, 3, 5):
        reply = encoder.syn_reply(stream)
        assert struct.unpack_from(">HHII", reply) == (0x8003, 2, len(reply) - 8, stream)
        assert inflate.decompress(reply[12:]) == bytes(4)


def test_what_is_encoded_here_is_decoded_here() -> None:
    encoder = spdy.Encoder()
    wire = [
        encoder.syn_reply(5),
        spdy.data_frame(5, b"data", fin=True),
        spdy.rst_stream(7, spdy.Status.CANCEL),
        spdy.ping(9),
        spdy.go_away(5, spdy.GoAwayStatus.PROTOCOL_ERROR),
    ]
    assert decode(wire) == [
        spdy.SynReply(5, {}),
        spdy.Data(5, b"data", fin=True),
        spdy.RstStream(7, 5),
        spdy.Ping(9),
        spdy.GoAway(5, 1),
    ]
