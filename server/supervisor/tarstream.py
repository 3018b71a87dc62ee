"""Reads a tar archive (POSIX ustar and pax, GNU, v7) from a stream that is never sought, entry by entry, trusting nothing in it.

    archive = header block, data padded to 512 | ... | two zero blocks
    before a header may stand: pax 'x' (records for the next entry), pax 'g' (for all that follow), GNU 'L' and 'K' (long name, long link)

Names are bytes throughout, so that no codec is needed and none can fail. Sparse files come in four notations (GNU 'S', pax 0.0, 0.1, 1.0),
all answered as a list of (offset, length). Standard library only: this runs in a process that is confined in a hostile tree.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

BLOCK = 512
CHUNK = 1 << 20
MAX_EXTENSION = 1 << 20
"""Bytes that one pax or long name header may have."""
MAX_SEGMENTS = 100_000
"""Pieces that one sparse file may have."""

REGULAR, HARDLINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"

KINDS = {
    REGULAR: "file",
    HARDLINK: "hard link",
    SYMLINK: "symbolic link",
    CHARACTER: "character device",
    BLOCK_DEVICE: "block device",
    DIRECTORY: "directory",
    FIFO: "fifo",
}
_REGULAR_KINDS = {REGULAR, b"\0", b"7", b"S"}

# name mode uid gid size mtime checksum type link magic+version uname gname major minor prefix
_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")

Segments = list[tuple[int, int]]
Records = list[tuple[bytes, bytes]]


class TarError(Exception):
    """The archive is damaged, cut short, or uses what is not supported; the message names entry and offset."""


class Entry:
    """One member. `size` is the length of its data in the archive, `real_size` the file's length, `offset` where its header stands."""

    __slots__ = (
        *("name", "kind", "mode", "uid", "gid", "size", "mtime_ns", "link", "major", "minor", "offset"),
        *("real_size", "xattrs", "segments"),
    )

    def __init__(
        self,
        name: bytes,
        kind: bytes,
        mode: int,
        uid: int,
        gid: int,
        size: int,
        mtime_ns: int,
        link: bytes,
        major: int,
        minor: int,
        offset: int,
        *,
        real_size: int = 0,
        xattrs: dict[bytes, bytes] | None = None,
        segments: Segments | None = None,
    ) -> None:
        self.name = name
        self.kind = kind
        self.mode = mode
        self.uid, self.gid = uid, gid
        self.size = size
        self.mtime_ns = mtime_ns
        self.link = link
        self.major, self.minor = major, minor
        self.offset = offset
        self.real_size = real_size
        self.xattrs: dict[bytes, bytes] = {} if xattrs is None else xattrs
        self.segments = segments

    def replace(self, **changes: Any) -> Entry:
        """Another with other values."""
        return Entry(**{name: getattr(self, name) for name in self.__slots__} | changes)

    def describe(self) -> str:
        return f'entry "{printable(self.name)}" at offset {self.offset}'


class TarStream:
    """Iterate for the entries; take an entry's data with `data` before the next one (what is left is skipped)."""

    def __init__(self, stream: BinaryIO) -> None:
        """`stream` must be buffered: a read answers all that was asked for unless the end comes first."""
        self._read = stream.read
        self.offset = 0
        self._left = 0
        self._padding = 0
        self._entry: Entry | None = None

    def __iter__(self) -> Iterator[Entry]:
        shared: dict[bytes, bytes] = {}
        while True:
            start = self.offset
            records: Records = []
            entry = self._next_header()
            while entry is not None and entry.kind in (b"x", b"g", b"L", b"K"):
                body = self._extension(entry)
                if entry.kind == b"g":
                    shared.update(parse_records(body, entry.offset))
                elif entry.kind == b"x":
                    records += parse_records(body, entry.offset)
                else:
                    records.append((b"path" if entry.kind == b"L" else b"linkpath", body.split(b"\0", 1)[0]))
                entry = self._next_header()
            if entry is None:
                if records:
                    raise TarError(f"archive ends after an extended header at offset {start}")
                return
            with self._naming(entry):
                self._finish(entry, [*shared.items(), *records])
            yield entry

    def data(self) -> Iterator[bytes]:
        """The present entry's data, in pieces of at most 1 MiB."""
        while self._left:
            piece = self._take(min(self._left, CHUNK))
            self._left -= len(piece)
            yield piece

    def drain(self, limit: int) -> None:
        """Read on to the stream's end, as whoever feeds it waits for that; TarError after `limit` bytes."""
        end = self.offset
        while piece := self._read(CHUNK):
            self.offset += len(piece)
            if self.offset - end > limit:
                raise TarError(f"more than {limit} bytes follow the end of the archive at offset {end}")

    def _next_header(self) -> Entry | None:
        """The next header as it stands; None at the end of the archive."""
        self._skip()
        self._entry = None
        block = self._read(BLOCK)
        if not block:
            return None
        self.offset += len(block)
        if len(block) < BLOCK:
            raise TarError(f"archive ends inside the header at offset {self.offset - len(block)}")
        if block.count(0) == BLOCK:
            return None
        self._entry = entry = parse_header(block, self.offset - BLOCK)
        if entry.kind == b"S":
            with self._naming(entry):
                entry.segments, entry.real_size = self._old_sparse_map(block)
        if entry.kind not in KINDS or entry.kind == REGULAR:
            self._left, self._padding = entry.size, -entry.size % BLOCK
        return entry

    @contextmanager
    def _naming(self, entry: Entry) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            raise TarError(f"{entry.describe()} is damaged: {error}") from None

    def _skip(self) -> None:
        for _ in self.data():
            continue
        if self._padding:
            self._take(self._padding)
            self._padding = 0

    def _take(self, count: int) -> bytes:
        data = self._read(count)
        self.offset += len(data)
        if len(data) < count:
            where = self._entry.describe() if self._entry else "a header"
            raise TarError(f"archive ends inside {where}: offset {self.offset}, {count - len(data)} bytes missing")
        return data

    def _extension(self, entry: Entry) -> bytes:
        if entry.size > MAX_EXTENSION:
            raise TarError(
                f"extended header of {entry.size} bytes at offset {entry.offset}: at most {MAX_EXTENSION} allowed"
            )
        return b"".join(self.data())

    def _finish(self, entry: Entry, records: Records) -> None:
        """Lay the extended headers over the plain one."""
        values = apply_records(entry, records) if records else {}
        if entry.kind in _REGULAR_KINDS:
            if entry.kind == b"\0" and entry.name.endswith(b"/"):
                entry.kind, entry.size = DIRECTORY, 0
            else:
                entry.kind = REGULAR
            self._left, self._padding = entry.size, -entry.size % BLOCK
            self._new_sparse_map(entry, values, records)
        elif entry.kind in KINDS:
            entry.size = 0
        else:
            raise TarError(f"{entry.describe()} has unsupported type {entry.kind!r}")
        if entry.segments is None:
            entry.real_size = entry.size
        else:
            check_segments(entry)

    def _old_sparse_map(self, block: bytes) -> tuple[Segments, int]:
        """GNU 'S': 4 segments in the header, 21 in each block that follows while the one before says so."""
        real_size = number(block[483:495])
        segments = _old_segments(block[386:482])
        more = block[482]
        while more:
            block = self._take(BLOCK)
            segments += _old_segments(block[:504])
            more = block[504]
            limit_segments(segments)
        return segments, real_size

    def _new_sparse_map(self, entry: Entry, values: dict[bytes, bytes], records: Records) -> None:
        """The three notations in pax headers (GNU tar manual, "Storing Sparse Files")."""
        if values.get(b"GNU.sparse.major") == b"1" and values.get(b"GNU.sparse.minor", b"0") == b"0":
            entry.segments = self._sparse_map_in_data(entry)
        elif b"GNU.sparse.map" in values:
            numbers = [decimal(text) for text in values[b"GNU.sparse.map"].split(b",") if text]
            if len(numbers) % 2:
                raise TarError(f"{entry.describe()} has a damaged sparse map")
            entry.segments = list(zip(numbers[::2], numbers[1::2], strict=True))
        elif b"GNU.sparse.numblocks" in values:
            offsets = [decimal(value) for key, value in records if key == b"GNU.sparse.offset"]
            lengths = [decimal(value) for key, value in records if key == b"GNU.sparse.numbytes"]
            if len(offsets) != len(lengths):
                raise TarError(f"{entry.describe()} has a damaged sparse map")
            entry.segments = list(zip(offsets, lengths, strict=True))
        else:
            return
        limit_segments(entry.segments)
        entry.name = values.get(b"GNU.sparse.name", entry.name)
        entry.real_size = decimal(values.get(b"GNU.sparse.realsize", values.get(b"GNU.sparse.size", b"")))

    def _sparse_map_in_data(self, entry: Entry) -> Segments:
        """Decimal numbers, a line each, their count first, in blocks before the data."""
        text, lines = b"", -1
        while lines < 0 or text.count(b"\n") <= 2 * lines:
            if self._left < BLOCK:
                raise TarError(f"{entry.describe()} has a damaged sparse map")
            text += self._take(BLOCK)
            self._left -= BLOCK
            entry.size -= BLOCK
            if lines < 0 and b"\n" in text:
                lines = decimal(text.split(b"\n", 1)[0])
                if lines > MAX_SEGMENTS:
                    raise TarError(f"{entry.describe()} has more than {MAX_SEGMENTS} segments")
            elif lines < 0:
                raise TarError(f"{entry.describe()} has a damaged sparse map")
        numbers = [decimal(line) for line in text.split(b"\n")[1 : 2 * lines + 1]]
        return list(zip(numbers[::2], numbers[1::2], strict=True))


def limit_segments(segments: Segments) -> None:
    if len(segments) > MAX_SEGMENTS:
        raise ValueError(f"it has more than {MAX_SEGMENTS} segments")


def parse_header(block: bytes, offset: int) -> Entry:
    """One header block, extended headers not regarded."""
    fields = _HEADER.unpack(block)
    name, mode, uid, gid, size, mtime, checksum, kind, link, magic, _, _, major, minor, prefix = fields
    try:
        # The checksum counts its own field as spaces.
        expected = number(checksum)
        if sum(block) - sum(checksum) + 256 != expected:
            raise ValueError("checksum differs")
        name = name.split(b"\0", 1)[0]
        if magic[:6] == b"ustar\0" and prefix[0]:
            name = prefix.split(b"\0", 1)[0] + b"/" + name
        entry = Entry(
            name,
            kind,
            number(mode) & 0o7777,
            number(uid),
            number(gid),
            number(size),
            number(mtime) * 1_000_000_000,
            link.split(b"\0", 1)[0],
            0,
            0,
            offset,
        )
        if kind in (CHARACTER, BLOCK_DEVICE):
            entry.major, entry.minor = number(major), number(minor)
    except ValueError as error:
        raise TarError(f"damaged header at offset {offset}: {error}") from None
    if entry.size < 0:
        raise TarError(f"damaged header at offset {offset}: size {entry.size}")
    return entry


def number(text: bytes) -> int:
    """A numeric field: octal digits, or GNU's base 256 where the first bit is set."""
    if text[0] & 0x80:
        value = int.from_bytes(text, "big", signed=True)
        # The first byte is 0x80 for positive numbers, and all ones for negative ones.
        return value if text[0] == 0xFF else value + (1 << (8 * len(text) - 1))
    digits = text.split(b"\0", 1)[0].strip(b" ")
    try:
        return int(digits, 8) if digits else 0
    except ValueError:
        raise ValueError(f"{text!r} is not a number") from None


def decimal(text: bytes) -> int:
    """A non-negative number in a pax header."""
    if not text.isdigit() or len(text) > 20:
        raise ValueError(f"{text[:40]!r} is not a number")
    return int(text)


def parse_records(body: bytes, offset: int) -> Records:
    """pax records: `LENGTH KEY=VALUE\\n`, where LENGTH counts the whole record (POSIX pax, "Extended Header")."""
    records = []
    start = 0
    while start < len(body) and body[start]:
        space = body.find(b" ", start, start + 20)
        digits = body[start:space] if space > start else b""
        end = start + int(digits) if digits.isdigit() else 0
        key, equals, value = body[space + 1 : end - 1].partition(b"=")
        if end > len(body) or end <= space or body[end - 1 : end] != b"\n" or not equals or not key:
            raise TarError(f"damaged extended header at offset {offset}")
        records.append((key, value))
        start = end
    return records


def apply_records(entry: Entry, records: Records) -> dict[bytes, bytes]:
    """Lay pax records over a header; answer the last value of each key."""
    values = dict(records)
    for key, value in values.items():
        if key == b"path":
            entry.name = value
        elif key == b"linkpath":
            entry.link = value
        elif key == b"size":
            entry.size = decimal(value)
        elif key == b"uid":
            entry.uid = decimal(value)
        elif key == b"gid":
            entry.gid = decimal(value)
        elif key == b"mtime":
            entry.mtime_ns = nanoseconds(value)
        elif key.startswith(b"SCHILY.xattr."):
            entry.xattrs[key[13:]] = value
    return values


def nanoseconds(text: bytes) -> int:
    """A pax time: seconds as a decimal fraction, maybe negative."""
    whole, _, fraction = text.removeprefix(b"-").partition(b".")
    if not whole.isdigit() or len(whole) > 20 or (fraction and not fraction.isdigit()):
        raise ValueError(f"{text[:40]!r} is not a time")
    value = int(whole) * 1_000_000_000 + int(fraction[:9].ljust(9, b"0"))
    return -value if text.startswith(b"-") else value


def check_segments(entry: Entry) -> None:
    """Segments must ascend without overlap, lie within the file, and be as long as the data."""
    end = total = 0
    for offset, length in entry.segments or ():
        if offset < end or length < 0:
            raise TarError(f"{entry.describe()} has a damaged sparse map")
        end = offset + length
        total += length
    if end > entry.real_size or total != entry.size:
        raise TarError(f"{entry.describe()} has a sparse map that does not fit its size")


def _old_segments(text: bytes) -> Segments:
    pairs = [(text[at : at + 12], text[at + 12 : at + 24]) for at in range(0, len(text), 24)]
    return [(number(offset), number(length)) for offset, length in pairs if offset[0] and length[0]]


def printable(name: bytes) -> str:
    """A name for a message: what is not printable is escaped, and long ones are cut."""
    text = name.decode("utf-8", "backslashreplace")
    text = "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
    return text if len(text) <= 200 else f"{text[:200]}…"
