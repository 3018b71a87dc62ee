"""Writes a tar archive (POSIX ustar, with pax records where ustar has no room) to a descriptor.

The same entries always give the same bytes: no names of users, no time of access, nothing of the process that writes. Standard library
only, and names are bytes, as in `tarstream.py`.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

from moorage.server.supervisor.tarstream import BLOCK, CHUNK, DIRECTORY, REGULAR, Entry

_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")
_MAGIC = b"ustar\x0000"
_NO_SUM = b" " * 8
_PAX_NAME = b"PaxHeaders.0/entry"
_ZEROS = bytes(CHUNK)

_SMALL_LIMIT = 0o7777777
_LARGE_LIMIT = 0o77777777777


class TarWriter:
    """Appends entries; `close` writes the end of the archive. `offset` counts the bytes written."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._pending: list[bytes] = []
        self._pending_size = 0
        self.offset = 0

    def add(self, entry: Entry, data: Iterator[bytes] | None = None) -> None:
        """One entry; a regular file's `data` must be `entry.size` bytes."""
        for block in header(entry):
            self._write(block)
        if entry.kind == REGULAR and entry.size:
            for piece in data or ():
                self._write(piece)
            self._write(_ZEROS[: -entry.size % BLOCK])

    def close(self) -> None:
        """Two blocks of zeros, and all that is still pending."""
        self._write(_ZEROS[: 2 * BLOCK])
        self._flush()

    def _write(self, data: bytes) -> None:
        self.offset += len(data)
        self._pending.append(data)
        self._pending_size += len(data)
        if self._pending_size >= CHUNK:
            self._flush()

    def _flush(self) -> None:
        view = memoryview(b"".join(self._pending))
        self._pending, self._pending_size = [], 0
        while view:
            view = view[os.write(self._fd, view) :]


def header(entry: Entry) -> list[bytes]:
    """The blocks in front of an entry's data."""
    name = entry.name + b"/" if entry.kind == DIRECTORY and not entry.name.endswith(b"/") else entry.name
    seconds, fraction = divmod(entry.mtime_ns, 10**9)
    records: list[tuple[bytes, bytes]] = []
    if len(name) > 100:
        records.append((b"path", name))
    if len(entry.link) > 100:
        records.append((b"linkpath", entry.link))
    if entry.size > _LARGE_LIMIT:
        records.append((b"size", b"%d" % entry.size))
    if entry.uid > _SMALL_LIMIT:
        records.append((b"uid", b"%d" % entry.uid))
    if entry.gid > _SMALL_LIMIT:
        records.append((b"gid", b"%d" % entry.gid))
    if fraction or not 0 <= seconds <= _LARGE_LIMIT:
        records.append((b"mtime", _time(entry.mtime_ns)))
    records += [(b"SCHILY.xattr." + key, value) for key, value in sorted(entry.xattrs.items())]
    plain = _block(entry, name, min(max(seconds, 0), _LARGE_LIMIT))
    if not records:
        return [plain]
    body = b"".join(_record(key, value) for key, value in records)
    extension = Entry(_PAX_NAME, b"x", 0o644, 0, 0, len(body), 0, b"", 0, 0, 0)
    return [_block(extension, _PAX_NAME, 0), body, _ZEROS[: -len(body) % BLOCK], plain]


def _block(entry: Entry, name: bytes, seconds: int) -> bytes:
    fields = (
        name[:100],
        b"%07o\0" % entry.mode,
        b"%07o\0" % (entry.uid if entry.uid <= _SMALL_LIMIT else 0),
        b"%07o\0" % (entry.gid if entry.gid <= _SMALL_LIMIT else 0),
        b"%011o\0" % (entry.size if entry.size <= _LARGE_LIMIT else 0),
        b"%011o\0" % seconds,
    )
    rest = (entry.kind, entry.link[:100], _MAGIC, b"", b"", b"%07o\0" % entry.major, b"%07o\0" % entry.minor, b"")
    block = _HEADER.pack(*fields, _NO_SUM, *rest)
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _time(nanoseconds: int) -> bytes:
    """Seconds as pax writes them, with as many decimals as are needed."""
    sign = b"-" if nanoseconds < 0 else b""
    seconds, fraction = divmod(abs(nanoseconds), 10**9)
    return sign + b"%d" % seconds + (b".%09d" % fraction).rstrip(b"0").rstrip(b".")


def _record(key: bytes, value: bytes) -> bytes:
    """`LENGTH KEY=VALUE\\n`, where LENGTH counts itself too."""
    rest = len(key) + len(value) + 3
    length = rest + len(b"%d" % rest)
    length = rest + len(b"%d" % length)
    return b"%d %s=%s\n" % (length, key, value)
