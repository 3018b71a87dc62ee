"""A netlink socket kept open: requests with acknowledgement, batches, and dumps (RFC 3549; include/uapi/linux/netlink.h).

Messages are built and read with `struct`: a general netlink library costs 20 MB, 160 ms of start-up and an event loop per thread,
and the one message of the hot path three times as long.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Sequence

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12

NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_DUMP_INTR = 0x10
NLM_F_DUMP = 0x300
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_ACK_TLVS = 0x200
NLMSG_ERROR = 2
NLMSG_DONE = 3
NLMSGERR_ATTR_MSG = 1
NLA_F_NESTED = 0x8000
NLA_TYPE_MASK = 0x3FFF

SOL_NETLINK = 270
NETLINK_CAP_ACK = 10
NETLINK_EXT_ACK = 11

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_ERROR = struct.Struct("=i16x")
_RECEIVE = 1 << 18
_DUMP_TRIES = 5

Message = tuple[int, int, bytes]
"""Type, flags beside REQUEST, and what follows the header."""


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    size = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(size, kind) + value + bytes(-size % 4)


def attribute_u32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


def attribute_text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def nested(kind: int, *attributes: bytes) -> bytes:
    return attribute(kind | NLA_F_NESTED, b"".join(attributes))


def attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """The attributes of `data` from `offset` on, by kind; of a kind given twice the last."""
    found: dict[int, bytes] = {}
    while offset + _ATTRIBUTE.size <= len(data):
        size, kind = _ATTRIBUTE.unpack_from(data, offset)
        if size < _ATTRIBUTE.size:
            break
        found[kind & NLA_TYPE_MASK] = data[offset + _ATTRIBUTE.size : offset + size]
        offset += (size + 3) & ~3
    return found


def text(value: bytes) -> str:
    """The string an attribute holds."""
    return value.rstrip(b"\0").decode(errors="replace")


class Netlink:
    """One socket of one protocol, in the network namespace of the thread that made it. Thread-safe."""

    def __init__(self, protocol: int = NETLINK_ROUTE) -> None:
        self._lock = threading.Lock()
        self._sequence = 0
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._socket.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
        self._socket.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
        self._socket.bind((0, 0))

    def close(self) -> None:
        self._socket.close()

    def request(self, *messages: Message) -> None:
        """Send all messages in one packet; the kernel works them off in order. The first that failed is raised as OSError.

        A failed message does not stop those behind it.
        """
        failure: OSError | None = None
        with self._lock:
            waiting = self._send([(kind, flags | NLM_F_ACK, body) for kind, flags, body in messages])
            while waiting:
                for kind, flags, sequence, body in self._receive():
                    if kind == NLMSG_ERROR and sequence in waiting:
                        waiting.discard(sequence)
                        failure = failure or _failure(flags, body)
        if failure is not None:
            raise failure

    def get(self, kind: int, body: bytes) -> bytes:
        """The body of the one answer to a request. OSError as the kernel says."""
        with self._lock:
            waiting = self._send([(kind, 0, body)])
            while True:
                for answer, flags, sequence, data in self._receive():
                    if sequence in waiting:
                        return _body(answer, flags, data)

    def dump(self, kind: int, body: bytes) -> list[bytes]:
        """The bodies of all answers to a dump; asked for again when something changed meanwhile."""
        for _ in range(_DUMP_TRIES):
            found, consistent = self._dump(kind, body)
            if consistent:
                break
        return found

    def _dump(self, kind: int, body: bytes) -> tuple[list[bytes], bool]:
        found: list[bytes] = []
        consistent = True
        with self._lock:
            waiting = self._send([(kind, NLM_F_DUMP, body)])
            while True:
                for answer, flags, sequence, data in self._receive():
                    if sequence not in waiting:
                        continue
                    consistent = consistent and not flags & NLM_F_DUMP_INTR
                    if answer == NLMSG_DONE:
                        return found, consistent
                    found.append(_body(answer, flags, data))

    def _send(self, messages: Sequence[Message]) -> set[int]:
        packet = bytearray()
        first = self._sequence + 1
        for kind, flags, body in messages:
            self._sequence = (self._sequence + 1) & 0xFFFFFFFF
            packet += _HEADER.pack(_HEADER.size + len(body), kind, flags | NLM_F_REQUEST, self._sequence, 0) + body
            packet += bytes(-len(body) % 4)
        self._socket.send(packet)
        return {number & 0xFFFFFFFF for number in range(first, first + len(messages))}

    def _receive(self) -> list[tuple[int, int, int, bytes]]:
        """The messages of one packet: type, flags, sequence, body."""
        data = self._socket.recv(_RECEIVE)
        found = []
        offset = 0
        while offset + _HEADER.size <= len(data):
            size, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
            found.append((kind, flags, sequence, data[offset + _HEADER.size : offset + size]))
            offset += max((size + 3) & ~3, _HEADER.size)
        return found


def _body(kind: int, flags: int, data: bytes) -> bytes:
    if kind == NLMSG_ERROR:
        failure = _failure(flags, data)
        if failure is not None:
            raise failure
    return data


def _failure(flags: int, body: bytes) -> OSError | None:
    (code,) = _ERROR.unpack_from(body)
    if code == 0:
        return None
    reason = os.strerror(-code)
    if flags & NLM_F_ACK_TLVS:
        said = attributes(body, _ERROR.size).get(NLMSGERR_ATTR_MSG)
        if said:
            reason = f"{reason} ({text(said)})"
    return OSError(-code, reason)
