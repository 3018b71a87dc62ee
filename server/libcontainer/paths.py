"""Paths inside a container's root file system, which is hostile: symbolic links lead anywhere, and other processes swap
them while we look.

Everything is resolved by the kernel in one openat2(2) below a descriptor of the root, and used by descriptor from then on.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from contextlib import suppress

from moorage.server.libcontainer import syscalls
from moorage.server.libcontainer.errors import StartError

_ATTEMPTS = 32
_CHUNK = 64 << 10
_SYSTEM = ("proc", "sys", "dev")


def clean(path: str) -> str:
    """An absolute path without `.`, `..` and repeated slashes, by its letters alone."""
    return posixpath.normpath("/" + path.lstrip("/"))


def system_path(path: str) -> bool:
    """Whether a clean path is in one of the directories that programs trust to be the kernel's."""
    return path.split("/")[1] in _SYSTEM


def open_in_root(root: int, path: str, flags: int = os.O_PATH) -> int:
    """Open `path` as a process sees it whose root directory is `root`; never follows the magic links of procfs.

    Below /proc, /sys and /dev symbolic links are refused as well (ELOOP).
    """
    resolve = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS
    if system_path(clean(path)):
        resolve |= syscalls.RESOLVE_NO_SYMLINKS
    for _ in range(_ATTEMPTS):
        # The kernel gives up with EAGAIN when something was renamed while it resolved a `..`.
        with suppress(BlockingIOError):
            return syscalls.openat2(root, path, flags, resolve)
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), path)


def open_directory(root: int, path: str) -> int:
    """Open a directory (O_PATH) inside `root`; it and its parents are made when missing, root's with mode 0755."""
    flags = os.O_PATH | os.O_DIRECTORY
    with suppress(FileNotFoundError):
        return open_in_root(root, path, flags)
    parent = open_directory(root, posixpath.dirname(path))
    try:
        name = posixpath.basename(path)
        with suppress(FileExistsError):
            os.mkdir(name, 0o755, dir_fd=parent)
        # A dangling link is there, too: it ends here, for a link is not followed.
        return syscalls.openat2(parent, name, flags, syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS)
    finally:
        os.close(parent)


def open_file(root: int, path: str) -> int:
    """Open a file of any kind (O_PATH) inside `root`; an empty one is made when it is missing."""
    with suppress(FileNotFoundError):
        return open_in_root(root, path)
    parent = open_directory(root, posixpath.dirname(path))
    try:
        name = posixpath.basename(path)
        with suppress(FileExistsError):
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=parent))
        return syscalls.openat2(parent, name, os.O_PATH, syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS)
    finally:
        os.close(parent)


def read_file(root: int, path: str, limit: int) -> bytes:
    """Read a regular file inside `root` that is no symbolic link; one that is masked is empty.

    Raises FileNotFoundError when there is none, StartError when it is of another kind or has more than `limit` bytes.
    """
    # Not to be held up by a FIFO, nor to get a terminal.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    try:
        fd = open_in_root(root, path, flags)
    except FileNotFoundError:
        raise
    except OSError as error:
        number = error.errno or 0
        raise StartError(f"cannot read {path}: {os.strerror(number).lower()}", errno=number, path=path) from error
    try:
        status = os.fstat(fd)
        if stat.S_ISCHR(status.st_mode) and status.st_rdev == os.makedev(1, 3):
            # The null device, which covers what is masked.
            return b""
        if not stat.S_ISREG(status.st_mode):
            raise StartError(f"cannot read {path}: it is not a regular file", path=path)
        if status.st_size > limit:
            raise StartError(f"cannot read {path}: it has more than {limit} bytes", errno=errno.EFBIG, path=path)
        content = b""
        # It may grow while it is read, and a network's file system gives less than asked for.
        while len(content) < limit and (chunk := os.read(fd, min(limit - len(content), _CHUNK))):
            content += chunk
        return content
    finally:
        os.close(fd)
