"""The context of a build on this side: the list of a directory's files, and their contents when the daemon wants them."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from moorage.client.dockerignore import Ignore
from moorage.v1 import build_pb2 as pb

LIST_LENGTH = 2_000
"""Files in one message."""
PIECE = 1 << 20
"""Bytes in one message, about."""


@dataclass
class LocalContext:
    """The files of a directory that a .dockerignore leaves; none without a directory."""

    files: list[pb.BuildContextFile] = field(default_factory=list)
    paths: dict[str, Path] = field(default_factory=dict)
    """Where a content is, by its digest."""
    named: dict[str, LocalContext] = field(default_factory=dict)
    """The contexts beside it, by name."""

    @classmethod
    def read(cls, directory: Path | None, ignore: Ignore) -> LocalContext:
        """Read and hash a directory. Raises OSError, ValueError for a name that is not UTF-8."""
        context = cls()
        if directory is not None:
            context._walk(directory, "", ignore)
        return context

    def _walk(self, directory: Path, prefix: str, ignore: Ignore) -> None:
        for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
            path = f"{prefix}{entry.name}"
            _check_name(path)
            status = entry.stat(follow_symlinks=False)
            excluded = ignore.excludes(path)
            if stat.S_ISDIR(status.st_mode):
                if not excluded:
                    self._add(path, pb.BUILD_CONTEXT_FILE_KIND_DIRECTORY, status)
                if not (excluded and ignore.excludes_all_below(path)):
                    self._walk(directory / entry.name, f"{path}/", ignore)
            elif excluded:
                continue
            elif stat.S_ISLNK(status.st_mode):
                self._add(path, pb.BUILD_CONTEXT_FILE_KIND_LINK, status, target=os.readlink(entry.path))
            elif stat.S_ISREG(status.st_mode):
                digest = _digest(entry.path)
                self.paths[digest] = directory / entry.name
                kind = pb.BUILD_CONTEXT_FILE_KIND_FILE
                self._add(path, kind, status, digest=digest, size_bytes=status.st_size)

    def _add(
        self,
        path: str,
        kind: pb.BuildContextFileKind,
        status: os.stat_result,
        *,
        digest: str = "",
        size_bytes: int = 0,
        target: str = "",
    ) -> None:
        file = pb.BuildContextFile(
            path=path,
            kind=kind,
            mode=stat.S_IMODE(status.st_mode),
            size_bytes=size_bytes,
            modified_nanos=status.st_mtime_ns,
            digest=digest,
            target=target,
        )
        self.files.append(file)

    def lists(self) -> Iterator[pb.BuildRequest]:
        """The lists, in messages."""
        for name, context in (*self.named.items(), ("", self)):
            for at in range(0, max(1, len(context.files)), LIST_LENGTH):
                last = not name and at + LIST_LENGTH >= len(context.files)
                files = context.files[at : at + LIST_LENGTH]
                yield pb.BuildRequest(list=pb.BuildContextList(files=files, last=last, context=name))

    def contents(self, digests: Iterable[str]) -> Iterator[pb.BuildRequest]:
        """The contents that are wanted; small files share messages. Raises KeyError for one that is not of this context."""
        pieces: list[pb.BuildContextPiece] = []
        size = 0
        paths = {digest: path for each in (self, *self.named.values()) for digest, path in each.paths.items()}
        for digest in digests:
            for data in _read(paths[digest]):
                pieces.append(pb.BuildContextPiece(digest=digest, data=data))
                size += len(data)
                if size >= PIECE:
                    yield pb.BuildRequest(contents=pb.BuildContextContents(pieces=pieces))
                    pieces, size = [], 0
        if pieces:
            yield pb.BuildRequest(contents=pb.BuildContextContents(pieces=pieces))


def _check_name(path: str) -> None:
    try:
        path.encode()
    except UnicodeEncodeError:
        raise ValueError(f"context file {os.fsencode(path)!r}: its name is not UTF-8") from None


def _digest(path: str) -> str:
    with open(path, "rb", buffering=0) as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _read(path: Path) -> Iterator[bytes]:
    with open(path, "rb", buffering=0) as file:
        while data := file.read(PIECE):
            yield data
