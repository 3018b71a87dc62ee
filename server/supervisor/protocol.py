"""The wire between the daemon, the spawner and the supervisors: frames on a Unix stream socket.

    frame    = length (u32, big endian, of the payload) kind (u8) payload
    kind 0   = a message: one JSON object; its member "fds" counts the descriptors (SCM_RIGHTS) sent with it
    kind 1-3 = bytes of stdin, stdout, stderr

A request is a message with "op" (and "id" where several may be under way); its answer repeats "id" and has "error" when it failed:

    {"kind": "FailedPrecondition", "message": …, "stage": …, "path": …, "errno": 2, "exit_code": 127}

"kind" is the name of the error class the daemon raises, the rest but "message" its metadata. A request to a supervisor has "version":
VERSION; when that differs it is answered by an error and the end of the connection. An unknown op is answered with an error of kind
Unimplemented.
"""

from __future__ import annotations

import array
import json
import os
import socket
import struct
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

VERSION = 1

MESSAGE = 0
STDIN = 1
STDOUT = 2
STDERR = 3

STREAM_NAMES = {STDOUT: "stdout", STDERR: "stderr"}

MAX_PAYLOAD = 16 << 20
MAX_FDS = 16
CHUNK = 64 << 10
"""Bytes read or written at a time, and so the largest frame of stream data either side sends."""

BEGUN = {"begun": True}
"""A task's first message: from now on it must not be run once more."""

SOCKET_NAME = "supervisor.sock"
EXIT_SUFFIX = ".exit.json"
STATE_SUFFIX = ".json"
CRASH_LOG = "supervisor.log"

_HEADER = struct.Struct(">IB")
_encode = json.JSONEncoder(separators=(",", ":")).encode


class ProtocolError(Exception):
    """The other side sent what makes no sense; the connection is of no use any more."""


class Frame(NamedTuple):
    """One frame. `message` is {} for stream data, `data` empty for messages."""

    kind: int
    message: dict[str, Any]
    data: bytes
    fds: tuple[int, ...] = ()


def pack_message(message: Mapping[str, Any], fds: Sequence[int] = ()) -> bytes:
    """The frame of a message. The descriptors themselves go into `sendmsg` with the frame's first byte."""
    payload = _encode({**message, "fds": len(fds)} if fds else message).encode()
    if len(payload) > MAX_PAYLOAD:
        raise ProtocolError(f"message of {len(payload)} bytes is larger than {MAX_PAYLOAD}")
    return _HEADER.pack(len(payload), MESSAGE) + payload


def pack_data(kind: int, data: bytes) -> bytes:
    """The frame of stream data."""
    return _HEADER.pack(len(data), kind) + data


class Decoder:
    """Puts frames together from what `recvmsg` returned. Owns descriptors until a frame takes them."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._fds: deque[int] = deque()

    def feed(self, data: bytes, fds: Sequence[int] = ()) -> Iterator[Frame]:
        """Add what arrived and answer the frames that are whole now. Raises ProtocolError."""
        self._buffer += data
        self._fds.extend(fds)
        while len(self._buffer) >= _HEADER.size:
            length, kind = _HEADER.unpack_from(self._buffer)
            if length > MAX_PAYLOAD or kind > STDERR:
                raise ProtocolError(f"frame of kind {kind} and {length} bytes")
            end = _HEADER.size + length
            if len(self._buffer) < end:
                return
            payload = bytes(self._buffer[_HEADER.size : end])
            del self._buffer[:end]
            yield self._frame(kind, payload)

    def _frame(self, kind: int, payload: bytes) -> Frame:
        if kind != MESSAGE:
            return Frame(kind, {}, payload)
        try:
            message = json.loads(payload)
        except ValueError as error:
            raise ProtocolError(f"message is not JSON: {error}") from error
        if not isinstance(message, dict):
            raise ProtocolError("message is not an object")
        count = message.pop("fds", 0)
        if not isinstance(count, int) or not 0 <= count <= len(self._fds):
            raise ProtocolError(f"message names {count} descriptors, {len(self._fds)} came")
        return Frame(MESSAGE, message, b"", tuple(self._fds.popleft() for _ in range(count)))

    @property
    def pending(self) -> bool:
        """Whether part of a frame is here."""
        return bool(self._buffer or self._fds)

    def close(self) -> None:
        """Close descriptors that nobody took."""
        while self._fds:
            os.close(self._fds.popleft())


def receive(sock: socket.socket, size: int = CHUNK) -> tuple[bytes, list[int]]:
    """recvmsg(2) with descriptors, close-on-exec set. Empty bytes are the end."""
    space = socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)
    data, ancillary, _flags, _address = sock.recvmsg(size, space, socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    return data, fds.tolist()


def send(sock: socket.socket, frame: bytes | memoryview, fds: Sequence[int] = ()) -> int:
    """sendmsg(2) with descriptors; answers how many bytes went (the descriptors go with the first)."""
    if not fds:
        return sock.send(frame)
    return sock.sendmsg([frame], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])


def send_all(sock: socket.socket, frame: bytes, fds: Sequence[int] = ()) -> None:
    """Send the whole frame on a blocking socket."""
    sent = send(sock, frame, fds)
    if sent < len(frame):
        sock.sendall(memoryview(frame)[sent:])


class Channel:
    """A blocking connection: messages out, frames in."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._decoder = Decoder()
        self._ready: deque[Frame] = deque()

    def send(self, message: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
        send_all(self.sock, pack_message(message, fds), fds)

    def receive(self) -> Frame | None:
        """The next frame, or None at the end. Raises OSError (TimeoutError), ProtocolError."""
        while not self._ready:
            if not self._read():
                return None
        return self._ready.popleft()

    def arrived(self) -> list[Frame]:
        """The frames that were read together with others and not yet asked for."""
        frames = list(self._ready)
        self._ready.clear()
        return frames

    def read(self) -> list[Frame] | None:
        """Read once, and answer the frames that are whole now; None at the end. For a socket that does not block."""
        return self.arrived() if self._read() else None

    def _read(self) -> bool:
        data, fds = receive(self.sock)
        self._ready.extend(self._decoder.feed(data, fds))
        return bool(data)

    def close(self) -> None:
        self._decoder.close()
        for frame in self._ready:
            for fd in frame.fds:
                os.close(fd)
        self._ready.clear()
        self.sock.close()


def socket_address(directory: int) -> str:
    """The address of a supervisor's socket in an open directory: short enough for sun_path wherever the directory is."""
    return f"/proc/self/fd/{directory}/{SOCKET_NAME}"
