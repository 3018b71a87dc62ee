"""A tar unpacked into a directory: nothing is followed or written outside of it, and all of it is the caller's own.

Every name is walked from the directory's own descriptor, one part after the other, and no symbolic link is followed on the way.
"""

from __future__ import annotations

import lzma
import os
import stat
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Literal, cast

import click

CHUNK = 1 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def extract(pieces: Iterator[bytes], directory: Path, *, mode: Literal["r|", "r|*"] = "r|") -> int:
    """Unpack into `directory`, which is made when the first piece has come; files that are there are replaced. `mode` is
    tarfile's: "r|*" for an archive that may be compressed.

    Answers how many devices and pipes were left out. Raises ClickException for what cannot be written.
    """
    first = next(pieces, None)
    if first is None:
        return 0
    try:
        directory.mkdir(parents=True, exist_ok=True)
        top = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with tarfile.open(fileobj=cast(Any, _Pieces(first, pieces)), mode=mode, bufsize=CHUNK) as archive:
                return _Extraction(top, archive).run()
        finally:
            os.close(top)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise click.ClickException(f"cannot write {error.filename or ''} in {directory}: {reason}") from None
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise click.ClickException(f"cannot unpack the archive: {error}") from None


class _Pieces:
    """Pieces as a file."""

    def __init__(self, first: bytes, rest: Iterator[bytes]) -> None:
        self._piece, self._rest = first, rest

    def read(self, size: int) -> bytes:
        if not self._piece:
            self._piece = next(self._rest, b"")
        data, self._piece = self._piece[:size], self._piece[size:]
        return data


class _Extraction:
    def __init__(self, top: int, archive: tarfile.TarFile) -> None:
        self._top = top
        self._archive = archive
        self._directories: list[tuple[list[str], tarfile.TarInfo]] = []

    def run(self) -> int:
        left_out = 0
        for member in self._archive:
            parts = _parts(member.name)
            if not parts:
                continue
            with ExitStack() as stack:
                parent = self._open(parts[:-1], stack)
                left_out += not self._make(member, parts, parent, stack)
        # Last, as what is made in a directory needs its mode, and changes its time.
        for parts, member in reversed(self._directories):
            with ExitStack() as stack:
                fd = self._open(parts, stack)
                os.fchmod(fd, member.mode & 0o777)
                os.utime(fd, (member.mtime, member.mtime))
        return left_out

    def _open(self, parts: list[str], stack: ExitStack) -> int:
        """A directory below the top, made where it is missing."""
        fd = self._top
        for part in parts:
            with suppress(FileExistsError):
                os.mkdir(part, 0o755, dir_fd=fd)
            fd = os.open(part, _DIRECTORY, dir_fd=fd)
            stack.callback(os.close, fd)
        return fd

    def _make(self, member: tarfile.TarInfo, parts: list[str], parent: int, stack: ExitStack) -> bool:
        name = parts[-1]
        if member.isdir():
            os.fchmod(self._open([*parts], stack), 0o700)
            self._directories.append((parts, member))
            return True
        if not (member.isreg() or member.issym() or member.islnk()):
            return False
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=parent)
        if member.issym():
            os.symlink(member.linkname, name, dir_fd=parent)
            os.utime(name, (member.mtime, member.mtime), dir_fd=parent, follow_symlinks=False)
        elif member.islnk():
            target = _parts(member.linkname)
            if not target:
                raise tarfile.TarError(f"{member.name!r} is a link to the directory itself")
            source = self._open(target[:-1], stack)
            os.link(target[-1], name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        else:
            self._write(member, name, parent)
        return True

    def _write(self, member: tarfile.TarInfo, name: str, parent: int) -> None:
        with open(os.open(name, _FILE, 0o600, dir_fd=parent), "wb") as file:
            data = self._archive.extractfile(member)
            while data is not None and (piece := data.read(CHUNK)):
                file.write(piece)
            file.flush()
            os.fchmod(file.fileno(), stat.S_IMODE(member.mode) & 0o777)
            os.utime(file.fileno(), (member.mtime, member.mtime))


def _parts(name: str) -> list[str]:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts or name.startswith("/"):
        raise tarfile.TarError(f"{name!r} leads out of the directory")
    return parts
