"""Compares two trees that somebody else filled: what one has, and what the other should have.

Runs as a task, chrooted into the first of them. Depth and width are the trees' choice, so nothing recurses.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import Any

from moorage.server.supervisor.confine import XATTR_CAPABILITIES, enter, open_plain_directory
from moorage.server.supervisor.layerentry import KEPT_XATTRS, OPAQUE_XATTRS, is_whiteout
from moorage.server.supervisor.tarstream import printable

SHOWN = 20
"""Differences that are told one by one."""
CHUNK = 1 << 20

_KEPT = tuple(prefix.decode() for prefix in KEPT_XATTRS)
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def compare(args: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    """Compare the directory fds[0] with fds[1], which it should be like: names, kinds, contents, modes, owners, targets, the extended
    attributes that layers carry; no times, and no sockets. The directories `implicit` have attributes of no account.

    Answers the `count` of differences and the first of them as `shown`: [path, what].
    """
    actual, expected = fds
    enter(actual, XATTR_CAPABILITIES)
    count = 0
    shown: list[list[str]] = []
    for path, what in Comparison(actual, expected, {os.fsencode(path) for path in args["implicit"]}).run():
        count += 1
        if len(shown) < SHOWN:
            shown.append([printable(path) or "/", what])
    return {"count": count, "shown": shown}


class Comparison:
    """One comparison."""

    def __init__(self, actual: int, expected: int, implicit: set[bytes]) -> None:
        self._actual, self._expected, self._implicit = actual, expected, implicit

    def run(self) -> Iterator[tuple[bytes, str]]:
        """Every path that differs, and in what."""
        if what := self._attributes(
            b"", os.fstat(self._actual), os.fstat(self._expected), self._actual, self._expected
        ):
            yield b"", what
        pending = [b""]
        while pending:
            path = pending.pop()
            actual = open_plain_directory(self._actual, path)
            expected = open_plain_directory(self._expected, path)
            try:
                for name in sorted({*map(os.fsencode, os.listdir(actual)), *map(os.fsencode, os.listdir(expected))}):
                    below = path + b"/" + name if path else name
                    here, there = _status(actual, name), _status(expected, name)
                    if what := self._entry(below, name, here, there, actual, expected):
                        yield below, what
                    if here and there and stat.S_ISDIR(here.st_mode) and stat.S_ISDIR(there.st_mode):
                        pending.append(below)
            finally:
                os.close(actual)
                os.close(expected)

    def _entry(
        self,
        path: bytes,
        name: bytes,
        here: os.stat_result | None,
        there: os.stat_result | None,
        actual: int,
        expected: int,
    ) -> str:
        """What is different, empty for nothing."""
        if here is None or there is None:
            present = here or there
            if present is None or stat.S_ISSOCK(present.st_mode):
                return ""
            return "is missing" if here is None else "is not of the layer"
        if stat.S_IFMT(here.st_mode) != stat.S_IFMT(there.st_mode):
            return "is of another kind"
        if stat.S_ISLNK(here.st_mode):
            same = os.readlink(name, dir_fd=actual) == os.readlink(name, dir_fd=expected)
            return self._owner(here, there) if same else "leads elsewhere"
        if here.st_rdev != there.st_rdev:
            return "is another device"
        if not (stat.S_ISREG(here.st_mode) or stat.S_ISDIR(here.st_mode)):
            return "" if is_whiteout(here) else self._owner(here, there)
        return self._opened(path, name, here, there, actual, expected)

    def _opened(
        self, path: bytes, name: bytes, here: os.stat_result, there: os.stat_result, actual: int, expected: int
    ) -> str:
        """Of a file or directory that both have."""
        mine, other = os.open(name, _FILE_FLAGS, dir_fd=actual), os.open(name, _FILE_FLAGS, dir_fd=expected)
        try:
            if stat.S_ISREG(here.st_mode) and (here.st_size != there.st_size or not _same_contents(mine, other)):
                return "has other contents"
            return self._attributes(path, here, there, mine, other)
        finally:
            os.close(mine)
            os.close(other)

    def _attributes(self, path: bytes, here: os.stat_result, there: os.stat_result, actual: int, expected: int) -> str:
        if path not in self._implicit and (what := self._owner(here, there)):
            return what
        return "" if _xattrs(actual) == _xattrs(expected) else "has other extended attributes"

    @staticmethod
    def _owner(here: os.stat_result, there: os.stat_result) -> str:
        if stat.S_IMODE(here.st_mode) != stat.S_IMODE(there.st_mode):
            return "has another mode"
        return "" if (here.st_uid, here.st_gid) == (there.st_uid, there.st_gid) else "has another owner"


def _status(directory: int, name: bytes) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _same_contents(first: int, second: int) -> bool:
    """Two regular files of one size are never read past each other: a read is short only at the end."""
    while data := os.read(first, CHUNK):
        if data != os.read(second, CHUNK):
            return False
    return True


def _xattrs(fd: int) -> dict[str, bytes]:
    """Those that layers carry, and overlay's mark of a directory that hides what is below."""
    return {name: os.getxattr(fd, name) for name in os.listxattr(fd) if _is_compared(name)}


def _is_compared(name: str) -> bool:
    return name in OPAQUE_XATTRS.values() or (name.startswith(_KEPT) and not name.startswith("user.overlay."))
