"""Tasks on whole trees that somebody else filled: copy, remove, measure. Depth and width are the tree's choice, so nothing recurses and the
number of open descriptors is fixed.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from itertools import count, islice
from typing import Any

from moorage.server.supervisor.confine import (
    FILE_CAPABILITIES,
    XATTR_CAPABILITIES,
    enter,
    open_plain_directory,
)

BATCH = 10_000
"""Directory entries held in memory at a time."""

DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(args: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    """Delete all that is in the directory fds[0]; it stays itself, empty."""
    (root,) = fds
    enter(root, FILE_CAPABILITIES)
    empty_directory(root)
    return {}


def copy_tree(args: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    """Copy all that is in the directory fds[0], and its own attributes, to the empty directory fds[1]."""
    source, target = fds
    enter(target, XATTR_CAPABILITIES)
    TreeCopy(source, target).run()
    return {}


def inherit(args: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    """Give the directories `paths` below fds[1] the attributes they have below fds[0]. Answers those that are `missing` there; where
    something else has the name, they stay as they are."""
    source, target = fds
    enter(target, XATTR_CAPABILITIES)
    missing = [path for path in args["paths"] if not inherit_attributes(source, target, os.fsencode(path))]
    return {"missing": missing}


def measure_trees(args: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    """Answer as `trees` the bytes on disk and the inodes of each of the directories `fds`, with all that is in it.

    They may change meanwhile, and what has gone is not counted.
    """
    # Into any of them: no name is looked up but beneath one of the descriptors.
    enter(fds[0], FILE_CAPABILITIES)
    return {"trees": [measure(root) for root in fds]}


def empty_directory(root: int) -> None:
    """Delete everything in a directory.

    A directory that is not empty moves up to the top first, so that at any depth one descriptor and one name is all that is needed.
    """
    pending = set(_clear(root, None))
    names = (name for name in (b"moorage-%d" % number for number in count()) if name not in pending)

    def move_up(name: bytes, directory: int) -> bytes:
        moved = next(names)
        os.rename(name, moved, src_dir_fd=directory, dst_dir_fd=root)
        return moved

    while pending:
        name = pending.pop()
        fd = os.open(name, DIRECTORY_FLAGS, dir_fd=root)
        try:
            pending.update(_clear(fd, move_up))
        finally:
            os.close(fd)
        os.rmdir(name, dir_fd=root)


def _clear(fd: int, move: Callable[[bytes, int], bytes] | None) -> list[bytes]:
    """Delete what is no directory or an empty one. The others are moved away, or stay without `move`; answers how they are called now."""
    left: list[bytes] = []
    staying: set[bytes] = set()
    while True:
        with os.scandir(fd) as entries:
            batch = [
                (os.fsencode(entry.name), entry.is_dir(follow_symlinks=False))
                for entry in islice(entries, BATCH + len(staying))
            ]
        batch = [(name, is_directory) for name, is_directory in batch if name not in staying]
        if not batch:
            return left
        for name, is_directory in batch:
            if not is_directory:
                os.unlink(name, dir_fd=fd)
            elif not _remove_empty(name, fd):
                left.append(move(name, fd) if move else name)
                if not move:
                    staying.add(name)


def _remove_empty(name: bytes, fd: int) -> bool:
    try:
        os.rmdir(name, dir_fd=fd)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


def remove_entry(directory: int, name: bytes) -> None:
    """Delete a file or a whole tree called `name` in `directory`."""
    try:
        os.unlink(name, dir_fd=directory)
    except IsADirectoryError:
        fd = os.open(name, DIRECTORY_FLAGS, dir_fd=directory)
        try:
            empty_directory(fd)
        finally:
            os.close(fd)
        os.rmdir(name, dir_fd=directory)


def measure(root: int) -> tuple[int, int]:
    """Bytes on disk of all that is in a directory, and its inodes with the directory's own; hard links are counted once."""
    total, inodes, seen, pending = 0, 1, set(), [b""]
    while pending:
        path = pending.pop()
        try:
            fd = open_plain_directory(root, path)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
                continue
            raise
        try:
            for name in os.listdir(fd):
                status = _status(name, fd)
                if status is None or (status.st_nlink > 1 and status.st_ino in seen):
                    continue
                if stat.S_ISDIR(status.st_mode):
                    pending.append(os.path.join(path, os.fsencode(name)))
                elif status.st_nlink > 1:
                    seen.add(status.st_ino)
                total += status.st_blocks * 512
                inodes += 1
        finally:
            os.close(fd)
    return total, inodes


def _status(name: str, fd: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return None


def inherit_attributes(source: int, target: int, path: bytes) -> bool:
    """Whether the question is settled: False when there is nothing of this name below `source`."""
    try:
        reader = open_plain_directory(source, path)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise
        return error.errno != errno.ENOENT
    try:
        writer = open_plain_directory(target, path)
        try:
            copy_attributes(reader, writer)
        finally:
            os.close(writer)
    finally:
        os.close(reader)
    return True


def copy_attributes(reader: int, writer: int) -> None:
    """Owner, mode, extended attributes (but overlay's own, which are about content) and times."""
    status = os.fstat(reader)
    os.fchown(writer, status.st_uid, status.st_gid)
    os.fchmod(writer, stat.S_IMODE(status.st_mode))
    for key in os.listxattr(reader):
        if not key.startswith(("trusted.overlay.", "user.overlay.")):
            os.setxattr(writer, key, os.getxattr(reader, key))
    os.utime(writer, ns=(status.st_atime_ns, status.st_mtime_ns))


class TreeCopy:
    """One copy under way. Owners, modes, times, extended attributes, hard links, devices and holes are kept."""

    def __init__(self, source: int, target: int) -> None:
        self._source = source
        self._target = target
        self._links: dict[int, bytes] = {}
        """Where the first name of a file with several is in the target, by its inode in the source."""
        self._directories: list[tuple[bytes, os.stat_result]] = []

    def run(self) -> None:
        pending = [b""]
        while pending:
            path = pending.pop()
            source, target = open_plain_directory(self._source, path), open_plain_directory(self._target, path)
            try:
                pending += self._directory(path, source, target)
            finally:
                os.close(source)
                os.close(target)
        # The times of a directory change as it is filled.
        for path, status in reversed(self._directories):
            fd = open_plain_directory(self._target, path)
            try:
                os.utime(fd, ns=(status.st_atime_ns, status.st_mtime_ns))
            finally:
                os.close(fd)

    def _directory(self, path: bytes, source: int, target: int) -> list[bytes]:
        """Copy a directory's attributes and entries; answer the directories in it."""
        status = os.fstat(source)
        os.fchown(target, status.st_uid, status.st_gid)
        os.fchmod(target, stat.S_IMODE(status.st_mode))
        copy_xattrs(source, target)
        self._directories.append((path, status))
        found = []
        for text in os.listdir(source):
            name = os.fsencode(text)
            entry = os.stat(name, dir_fd=source, follow_symlinks=False)
            if stat.S_ISDIR(entry.st_mode):
                os.mkdir(name, 0o700, dir_fd=target)
                found.append(os.path.join(path, name))
            else:
                self._entry(os.path.join(path, name), name, entry, source, target)
        return found

    def _entry(self, path: bytes, name: bytes, status: os.stat_result, source: int, target: int) -> None:
        if status.st_nlink > 1:
            first = self._links.setdefault(status.st_ino, path)
            if first != path:
                os.link(first, name, src_dir_fd=self._target, dst_dir_fd=target, follow_symlinks=False)
                return
        if stat.S_ISREG(status.st_mode):
            self._file(name, status, source, target)
            return
        if stat.S_ISLNK(status.st_mode):
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        else:
            os.mknod(name, status.st_mode, status.st_rdev, dir_fd=target)
        os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
        self._copy_special_xattrs(name, source, target)
        os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=target, follow_symlinks=False)

    def _copy_special_xattrs(self, name: bytes, source: int, target: int) -> None:
        # There is no call that takes a directory's descriptor and a name.
        os.fchdir(source)
        values = {
            key: os.getxattr(name, key, follow_symlinks=False) for key in os.listxattr(name, follow_symlinks=False)
        }
        os.fchdir(target)
        for key, value in values.items():
            os.setxattr(name, key, value, follow_symlinks=False)

    def _file(self, name: bytes, status: os.stat_result, source: int, target: int) -> None:
        reader = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            writer = os.open(name, flags, 0o600, dir_fd=target)
            try:
                copy_content(reader, writer, status.st_size)
                os.fchown(writer, status.st_uid, status.st_gid)
                os.fchmod(writer, stat.S_IMODE(status.st_mode))
                copy_xattrs(reader, writer)
                os.utime(writer, ns=(status.st_atime_ns, status.st_mtime_ns))
            finally:
                os.close(writer)
        finally:
            os.close(reader)


def copy_content(reader: int, writer: int, size: int) -> None:
    """Copy a file's data, in the kernel and shared on disk where the file system can, and leave its holes out."""
    position = 0
    while position < size:
        try:
            start = os.lseek(reader, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            break
        end = os.lseek(reader, start, os.SEEK_HOLE)
        while start < end:
            copied = os.copy_file_range(reader, writer, end - start, start, start)
            if not copied:
                break
            start += copied
        position = end
    os.ftruncate(writer, size)


def copy_xattrs(source: int, target: int) -> None:
    for key in os.listxattr(source):
        os.setxattr(target, key, os.getxattr(source, key))
