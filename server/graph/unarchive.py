"""Image archives on the way in: a tar from strangers, read in one pass. Its files become blobs of the content store or, where small and
named like documents, are kept in memory; nothing is ever written under a name that the archive gives.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Protocol, cast

import zstandard
from isal import igzip

from moorage.server.cancel import CancelToken
from moorage.server.errors import DataLoss, InvalidArgument, MoorageError, ResourceExhausted
from moorage.server.graph.content import ContentStore
from moorage.server.graph.documents import MAX_DOCUMENT
from moorage.server.graph.packing import PackingSink
from moorage.server.model import LayerBlob
from moorage.server.supervisor import tarstream
from moorage.server.supervisor.tarstream import Entry, TarError, TarStream

MAX_ENTRIES = 100_000
MAX_DOCUMENTS = 32 << 20
"""Bytes that the documents kept in memory may have together."""
MAX_BYTES = 256 << 30

_BLOB = re.compile(rb"blobs/sha256/([0-9a-f]{64})")
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_MAX_WINDOW = 128 << 20
_MAX_RATIO = 400
_SMALL = 64 << 20
"""Below this many bytes nothing is called a bomb."""
_DAMAGE = (zstandard.ZstdError, EOFError, OSError)


class Reader(Protocol):
    """Answers exactly what was asked for unless the end comes first."""

    def read(self, size: int) -> bytes: ...


@dataclass
class Contents:
    """What an archive held: documents by name, layers of older archives by name (links to them resolved), and every blob that it added
    to the content store."""

    documents: dict[str, bytes] = field(default_factory=dict)
    layers: dict[str, LayerBlob] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    added: list[str] = field(default_factory=list)

    def layer(self, name: str) -> LayerBlob | None:
        """The layer of that name, through at most one link."""
        return self.layers.get(self.links.get(name, name))


def plain(stream: Reader) -> BinaryIO:
    """The stream, decompressed where it begins like gzip or zstd; buffered. What unpacks to too many times its size raises
    ResourceExhausted when it does."""
    first = stream.read(4)
    source = _Replayed(first, stream)
    raw = cast(BinaryIO, io.BufferedReader(source, 1 << 20))
    kind = next((kind for magic, kind in _MAGIC.items() if first.startswith(magic)), "")
    if kind == "gzip":
        unzipped = igzip.IGzipFile(fileobj=raw)  # type: ignore[no-untyped-call]
        return cast(BinaryIO, io.BufferedReader(_Bounded(unzipped, source), 1 << 20))
    if kind == "zstd":
        decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)
        reader = decompressor.stream_reader(raw, read_size=1 << 20, read_across_frames=True)
        return cast(BinaryIO, io.BufferedReader(_Bounded(reader, source), 1 << 20))
    return raw


def take(tar: BinaryIO, size: int) -> bytes:
    """The next bytes of what `plain` answers. Raises InvalidArgument when they cannot be decompressed."""
    try:
        return tar.read(size)
    except _DAMAGE as error:
        raise InvalidArgument(f"cannot decompress the archive: {error}", reason="MALFORMED_ARCHIVE") from error


def read(stream: Reader, content: ContentStore, cancel: CancelToken, progress: Callable[[int], None]) -> Contents:
    """Take an archive in. `progress` is told the bytes read so far.

    Raises InvalidArgument for a hostile or damaged archive, DataLoss for a blob that is not what its name says, each naming entry and
    offset; ResourceExhausted beyond a cap or for a full disk. What was added by then is gone again.
    """
    contents = Contents()
    reading = _Reading(contents, content, cancel)
    try:
        tar = TarStream(plain(stream))
        for entry in tar:
            cancel.check()
            reading.entry(entry, tar)
            progress(tar.offset)
        tar.drain(MAX_BYTES)
    except BaseException as error:
        for digest in contents.added:
            content.delete(digest)
        cancel.check()
        if isinstance(error, TarError):
            raise InvalidArgument(f"cannot read the archive: {error}", reason="MALFORMED_ARCHIVE") from None
        if isinstance(error, _DAMAGE) and not isinstance(error, MoorageError):
            raise InvalidArgument(f"cannot decompress the archive: {error}", reason="MALFORMED_ARCHIVE") from error
        raise
    return contents


class _Reading:
    """One archive under way."""

    def __init__(self, contents: Contents, content: ContentStore, cancel: CancelToken) -> None:
        self._contents, self._content, self._cancel = contents, content, cancel
        self._names: set[bytes] = set()
        self._documents = 0
        self._bytes = 0

    def entry(self, entry: Entry, tar: TarStream) -> None:
        name = _checked(entry)
        if entry.kind == tarstream.DIRECTORY:
            return
        if name in self._names:
            raise refused(entry, "it is there twice")
        self._names.add(name)
        self._bytes += entry.size
        if len(self._names) > MAX_ENTRIES or self._bytes > MAX_BYTES:
            raise ResourceExhausted(f"cannot load {entry.describe()}: the archive has too many entries or bytes")
        blob = _BLOB.fullmatch(name)
        text = name.decode("utf-8", "backslashreplace")
        if entry.kind == tarstream.SYMLINK:
            self._contents.links[text] = _target(entry, name)
        elif entry.kind != tarstream.REGULAR or entry.segments is not None:
            raise refused(entry, "an image's archive has plain files, directories and links only")
        elif blob:
            self._blob(entry, f"sha256:{blob[1].decode()}", tar)
        elif text.endswith(".tar"):
            self._layer(entry, text, tar)
        elif entry.size <= MAX_DOCUMENT:
            self._documents += entry.size
            if self._documents > MAX_DOCUMENTS:
                raise ResourceExhausted(f"cannot load {entry.describe()}: the archive's documents are too large")
            self._contents.documents[text] = b"".join(tar.data())
        else:
            raise refused(entry, f"it is no layer, and larger than {MAX_DOCUMENT} bytes")

    def _blob(self, entry: Entry, digest: str, tar: TarStream) -> None:
        with self._content.draft() as draft:
            for piece in tar.data():
                self._cancel.check()
                draft.write(piece)
            if draft.digest != digest:
                message = f"cannot load {entry.describe()}: its digest is {draft.digest}"
                raise DataLoss(message, reason="WRONG_DIGEST", digest=digest)
            if not self._content.exists(digest):
                draft.commit()
                self._contents.added.append(digest)

    def _layer(self, entry: Entry, name: str, tar: TarStream) -> None:
        """A layer that is not named by its digest: compressed for the content store, its diff ID found on the way."""
        before = self._content.digests()
        with self._content.draft() as draft:
            sink = PackingSink(draft, "gzip")
            pieces = io.BufferedReader(_Pieces(tar), 1 << 20)
            layer = plain(cast(Reader, pieces))
            while data := take(layer, 1 << 20):
                self._cancel.check()
                sink.write(data)
                if draft.size > MAX_BYTES:
                    raise ResourceExhausted(f"cannot load {entry.describe()}: it is larger than {MAX_BYTES} bytes")
            found = sink.finish()
        self._contents.layers[name] = found
        if found.digest not in before:
            self._contents.added.append(found.digest)


class _Pieces(io.RawIOBase):
    """The present entry's data as a stream."""

    def __init__(self, tar: TarStream) -> None:
        super().__init__()
        self._pieces = tar.data()
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        if not self._rest:
            self._rest = memoryview(next(self._pieces, b""))
        count = min(len(view), len(self._rest))
        view[:count], self._rest = self._rest[:count], self._rest[count:]
        return count


class _Replayed(io.RawIOBase):
    """A stream whose first bytes were looked at already."""

    def __init__(self, first: bytes, stream: Reader) -> None:
        super().__init__()
        self._first, self._stream = first, stream
        self.taken = len(first)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        data = self._first[: len(view)]
        if not data:
            data = self._stream.read(len(view))
            self.taken += len(data)
        self._first = self._first[len(view) :]
        view[: len(data)] = data
        return len(data)


class _Bounded(io.RawIOBase):
    """What a decompressor gives, as long as that is in proportion to what it took."""

    def __init__(self, decompressed: Any, source: _Replayed) -> None:
        super().__init__()
        self._decompressed, self._source = decompressed, source
        self._given = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        count = int(self._decompressed.readinto(buffer))
        self._given += count
        if self._given > max(_SMALL, self._source.taken * _MAX_RATIO):
            message = f"the archive unpacks to more than {_MAX_RATIO} times its size"
            raise ResourceExhausted(message, reason="ARCHIVE_TOO_LARGE", hint="it looks like a decompression bomb")
        return count


def refused(entry: Entry, why: str) -> InvalidArgument:
    """The error for an entry that no archive of images has."""
    return InvalidArgument(
        f"cannot load {entry.describe()}: {why}",
        reason="MALFORMED_ARCHIVE",
        entry=tarstream.printable(entry.name),
        offset=entry.offset,
    )


def _checked(entry: Entry) -> bytes:
    """The entry's name, without `./` in front. Nothing is written there; a name that leads out says that something is wrong."""
    parts = [part for part in entry.name.split(b"/") if part not in (b"", b".")]
    if entry.name.startswith(b"/") or b".." in parts or b"\0" in entry.name:
        raise refused(entry, "its name leads out of the archive")
    return b"/".join(parts)


def _target(entry: Entry, name: bytes) -> str:
    """Where a link inside the archive leads: older archives have layers once, and links for the other places."""
    parts = name.split(b"/")[:-1]
    for part in entry.link.split(b"/"):
        if part == b".." and parts:
            parts.pop()
        elif part in (b"", b"..") or entry.link.startswith(b"/"):
            raise refused(entry, "it links out of the archive")
        elif part != b".":
            parts.append(part)
    return b"/".join(parts).decode("utf-8", "backslashreplace")
