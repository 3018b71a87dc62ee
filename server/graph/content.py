"""The content store: blobs by digest, verified before they have a name.

    ROOT/blobs/sha256/<hex>      whole blobs, read-only
    ROOT/ingest/<hex>            a blob on its way; stays when the writer goes without commit, so that the next one resumes
    ROOT/drafts/<n>              a blob made here, whose digest is known at its end only; goes with its writer

A commit writes the blob to the disk (fsync of the file, its name, fsync of the directory) unless the writer was opened with
`durable=False`, for what is verified again when it is used. The daemon's death never leaves half a blob under its digest; nor does a
power loss, for a durable one.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from moorage.server.errors import (
    DataLoss,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    MoorageError,
    NotFound,
    ResourceExhausted,
)
from moorage.server.graph.syncing import sync_directory

DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
CHUNK = 1 << 20


def check_digest(digest: str) -> str:
    """The digest's hex digits. Raises InvalidArgument for anything but `sha256:` and 64 of them: nothing else may become a path."""
    if not DIGEST.fullmatch(digest):
        raise InvalidArgument(f"digest {digest[:100]!r} is malformed: not sha256: and 64 hexadecimal digits")
    return digest[7:]


@dataclass(frozen=True)
class Ingest:
    """A blob that is not whole yet."""

    digest: str
    size: int
    modified_ns: int


class ContentStore:
    """Thread-safe; one writer at a time for a digest."""

    def __init__(self, root: Path) -> None:
        self._blobs = root / "blobs" / "sha256"
        self._ingests = root / "ingest"
        self._drafts = root / "drafts"
        self._numbers = count()
        for directory in (root, root / "blobs", self._blobs, self._ingests, self._drafts):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._writing: set[str] = set()

    def path(self, digest: str) -> Path:
        """Where the blob is, or would be."""
        return self._blobs / check_digest(digest)

    def exists(self, digest: str) -> bool:
        return self.path(digest).is_file()

    def size(self, digest: str) -> int:
        """Bytes. Raises NotFound."""
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError:
            raise NotFound(f"no content with digest {digest}") from None

    def open(self, digest: str) -> BinaryIO:
        """A reader; it goes on working when the blob is deleted. Raises NotFound."""
        try:
            return open(self.path(digest), "rb")
        except FileNotFoundError:
            raise NotFound(f"no content with digest {digest}") from None

    def read(self, digest: str, limit: int) -> bytes:
        """A small blob, whole. Raises NotFound; ResourceExhausted above `limit` bytes; DataLoss when it is not what its name says."""
        with self.open(digest) as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise ResourceExhausted(f"content {digest} is larger than {limit} bytes")
        if f"sha256:{hashlib.sha256(data).hexdigest()}" != digest:
            raise DataLoss(f"content {digest} is damaged: its digest differs", path=self.path(digest))
        return data

    def delete(self, digest: str) -> int:
        """Delete a blob; answers the bytes it had, 0 when it was not there."""
        path = self.path(digest)
        try:
            size = path.stat().st_size
            path.unlink()
        except FileNotFoundError:
            return 0
        return size

    def digests(self) -> set[str]:
        """Every whole blob."""
        return {f"sha256:{name}" for name in os.listdir(self._blobs)}

    def modified_ns(self, digest: str) -> int:
        """When the blob was written; 0 when it is not there."""
        try:
            return self.path(digest).stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def ingests(self) -> list[Ingest]:
        """What waits to be resumed, or is being written."""
        found = []
        with os.scandir(self._ingests) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                found.append(Ingest(f"sha256:{entry.name}", status.st_size, status.st_mtime_ns))
        return found

    def drop_ingests(self, older_than_ns: int) -> int:
        """Delete ingests that nobody writes and that were last written before a time; answers their bytes."""
        dropped = 0
        for ingest in self.ingests():
            with self._lock:
                if ingest.modified_ns < older_than_ns and ingest.digest not in self._writing:
                    (self._ingests / ingest.digest[7:]).unlink()
                    dropped += ingest.size
        return dropped

    def writer(self, digest: str, expected_size: int, *, resume: bool = True, durable: bool = True) -> ContentWriter:
        """Begin, or go on with, a blob of `expected_size` bytes. With `resume`, what is here already is kept and hashed (`offset`).

        Raises FailedPrecondition when it is being written already.
        """
        name = check_digest(digest)
        with self._lock:
            if digest in self._writing:
                raise FailedPrecondition(f"content {digest} is being written already", reason="IN_USE")
            self._writing.add(digest)
        try:
            return ContentWriter(self, digest, self._ingests / name, expected_size, resume, durable)
        except BaseException:
            self._finished(digest)
            raise

    @contextmanager
    def draft(self) -> Iterator[Draft]:
        """Begin a blob that is made here. Without `commit` by the end of the block nothing is left of it."""
        path = self._drafts / f"{os.getpid()}-{next(self._numbers)}"
        try:
            with open(path, "xb", buffering=0) as file:
                yield Draft(self, path, file.fileno())
        finally:
            path.unlink(missing_ok=True)

    def drop_drafts(self) -> int:
        """Delete what a dead daemon was making; answers the bytes. For a start."""
        dropped = 0
        for path in list(self._drafts.iterdir()):
            dropped += path.stat().st_size
            path.unlink()
        return dropped

    def _finished(self, digest: str) -> None:
        with self._lock:
            self._writing.discard(digest)


class ContentWriter:
    """An ingest under way; a context manager. Left without `commit` or `abort`, it stays to be resumed."""

    def __init__(
        self, store: ContentStore, digest: str, path: Path, expected_size: int, resume: bool, durable: bool
    ) -> None:
        self.digest = digest
        self.expected_size = expected_size
        self.offset = 0
        """Bytes here, and hashed."""
        self._store = store
        self._path = path
        self._durable = durable
        self._hash = hashlib.sha256()
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._fd = os.open(path, flags if resume else flags | os.O_TRUNC, 0o600)
        except OSError as error:
            raise _failure("open", path, error) from error
        try:
            self._rehash()
        except BaseException:
            os.close(self._fd)
            raise

    def _rehash(self) -> None:
        if os.fstat(self._fd).st_size > self.expected_size:
            os.ftruncate(self._fd, 0)
        while data := os.read(self._fd, CHUNK):
            self._hash.update(data)
            self.offset += len(data)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append. Raises DataLoss (and drops the ingest) beyond the expected size, ResourceExhausted when the disk is full."""
        view = memoryview(data)
        if self.offset + len(view) > self.expected_size:
            self.abort()
            raise DataLoss(f"content {self.digest} has more than its {self.expected_size} bytes")
        while view:
            try:
                written = os.write(self._fd, view)
            except OSError as error:
                raise _failure("write", self._path, error) from error
            self._hash.update(view[:written])
            self.offset += written
            view = view[written:]

    def restart(self) -> None:
        """Throw away what is here and begin at 0 (a server that does not resume)."""
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        self._hash = hashlib.sha256()
        self.offset = 0

    def commit(self) -> None:
        """Give the blob its name. Raises DataLoss, and drops the ingest, when size or digest are not as expected."""
        actual = f"sha256:{self._hash.hexdigest()}"
        if self.offset != self.expected_size or actual != self.digest:
            self.abort()
            what = f"{self.offset} of {self.expected_size} bytes" if self.offset != self.expected_size else actual
            raise DataLoss(f"content {self.digest} is not what was promised: got {what}")
        final = self._store.path(self.digest)
        try:
            os.fchmod(self._fd, 0o400)
            if self._durable:
                os.fsync(self._fd)
            self._path.rename(final)
            if self._durable:
                sync_directory(final.parent)
        except OSError as error:
            raise _failure("commit", self._path, error) from error
        self.close()

    def abort(self) -> None:
        """Throw away what is here."""
        self._path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Let go; safe to call twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._store._finished(self.digest)

    def __enter__(self) -> ContentWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Draft:
    """A blob being made, hashed on the way."""

    def __init__(self, store: ContentStore, path: Path, fd: int) -> None:
        self.size = 0
        self._store, self._path, self._fd = store, path, fd
        self._hash = hashlib.sha256()

    @property
    def digest(self) -> str:
        """Of what was written so far."""
        return f"sha256:{self._hash.hexdigest()}"

    def write(self, data: bytes) -> None:
        """Append. Raises ResourceExhausted when the disk is full."""
        self._hash.update(data)
        self.size += len(data)
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._fd, view) :]
            except OSError as error:
                raise _failure("write", self._path, error) from error

    def commit(self) -> str:
        """Give the blob its name, which is its digest. Who needs it after a power loss syncs the file system (`Graph.register`)."""
        try:
            os.fchmod(self._fd, 0o400)
            self._path.rename(self._store.path(self.digest))
        except OSError as error:
            raise _failure("commit", self._path, error) from error
        return self.digest


def _failure(action: str, path: Path, error: OSError) -> MoorageError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    message = f"cannot {action} {path}: {(error.strerror or '').lower()}"
    return (ResourceExhausted if full else Internal)(message, path=path, errno=error.errno)


def days_ago_ns(days: float) -> int:
    return time.time_ns() - int(days * 86_400 * 1_000_000_000)
