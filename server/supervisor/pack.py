"""Packs a tree that somebody else filled into a tar stream: a layer's changes (OCI image spec, layer.md), or all of it.

Runs as a task, chrooted into the tree. Three forms of it:

    overlay   an upper directory of the overlay file system: its marks (character device 0:0, `trusted.overlay.opaque`) become whiteouts
    compare   a whole tree beside the one below it (fds): what differs is packed, what is gone becomes a whiteout
    plain     a whole tree, as it is

A layer's tree is made what the archive says, so that it is the same as the archive unpacked: times to the second, only the extended
attributes that a layer carries. The order is a directory, its files by name, then its directories by name: the same tree gives the same
bytes. Sockets are left out; they mean nothing without the process that listens.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from typing import Any

from moorage.server.libcontainer import rootfs, syscalls
from moorage.server.supervisor.confine import XATTR_CAPABILITIES, enter, open_plain_directory
from moorage.server.supervisor.failures import Failure
from moorage.server.supervisor.layerentry import KEPT_XATTRS, is_whiteout
from moorage.server.supervisor.tarstream import (
    BLOCK_DEVICE,
    CHARACTER,
    CHUNK,
    DIRECTORY,
    FIFO,
    HARDLINK,
    REGULAR,
    SYMLINK,
    Entry,
    printable,
)
from moorage.server.supervisor.tarwriter import TarWriter

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"
OVERLAY_MARKS = ("trusted.overlay.", "user.overlay.")
INCOMPLETE = ("metacopy", "redirect")
"""Overlay marks of an entry whose data or name is elsewhere: such an upper directory is no record of what changed."""

_KINDS = {
    stat.S_IFREG: REGULAR,
    stat.S_IFDIR: DIRECTORY,
    stat.S_IFLNK: SYMLINK,
    stat.S_IFCHR: CHARACTER,
    stat.S_IFBLK: BLOCK_DEVICE,
    stat.S_IFIFO: FIFO,
}
_KEPT = tuple(prefix.decode() for prefix in KEPT_XATTRS)
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_SECOND = 10**9


def pack(args: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    """Pack the directory fds[0] into the descriptor fds[1]; for "compare", fds[2] is the directory below.

    `form` is "overlay", "compare" or "plain"; `clamp_seconds` is the latest time that an entry may have, None for any; `root` is
    [mode, uid, gid] of the root directory below, which has an entry only where it differs (None: it always has one). Answers the
    `bytes` of file content, the number of `entries`, and whether the `root` had one. Raises Failure FailedPrecondition for what a layer
    cannot hold.
    """
    tree, out = fds[:2]
    enter(tree, XATTR_CAPABILITIES)
    packer = Packer(tree, TarWriter(out), args, fds[2] if len(fds) > 2 else -1)
    packer.run()
    return {"bytes": packer.bytes, "entries": packer.entries, "root": packer.root}


def export(args: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    """Pack what the mounts `layers` show into the descriptor fds[0], as it is. Answers what `pack` does."""
    (out,) = fds
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.set_propagation("/", syscalls.MS_REC | syscalls.MS_PRIVATE)
    # What is mounted goes with the process.
    shown = rootfs.mount_root(rootfs.plan_layers(args["layers"]), None)
    tree = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=shown)
    return pack({"form": "plain"}, [tree, out])


class Packer:
    """One tree on its way into one archive."""

    def __init__(self, tree: int, tar: TarWriter, args: dict[str, Any], lower: int) -> None:
        self.bytes = 0
        self.entries = 0
        self.root = False
        self._tree = tree
        self._tar = tar
        self._lower = lower
        self._overlay = args["form"] == "overlay"
        self._layer = args["form"] != "plain"
        self._clamp: int | None = args.get("clamp_seconds")
        self._below: list[int] | None = args.get("root")
        self._links: dict[tuple[int, int], bytes] = {}
        self._times: list[tuple[bytes, int]] = []

    def run(self) -> None:
        pending = [b""]
        while pending:
            path = pending.pop()
            fd = open_plain_directory(self._tree, path)
            try:
                pending += reversed(self._directory(path, fd))
            finally:
                os.close(fd)
        self._tar.close()
        # A directory's time may have changed with its entries' attributes.
        for path, seconds in self._times:
            fd = open_plain_directory(self._tree, path)
            try:
                os.utime(fd, ns=(seconds * _SECOND, seconds * _SECOND))
            finally:
                os.close(fd)

    def _directory(self, path: bytes, fd: int) -> list[bytes]:
        """Pack a directory and what is in it; answer the paths of the directories in it, by name."""
        status = os.fstat(fd)
        marks, xattrs = self._xattrs(path, fd)
        lower = self._open_lower(path)
        try:
            if self._wants_directory(path, fd, status, xattrs, lower):
                self._add(self._entry(path or b"./", status, xattrs))
                self.root = self.root or not path
                if self._layer:
                    self._times.append((path, self._seconds(status)))
            names = sorted(os.fsencode(name) for name in os.listdir(fd))
            if self._overlay and "opaque" in marks:
                self._whiteout(path, OPAQUE, status)
            elif lower >= 0:
                for gone in sorted({os.fsencode(name) for name in os.listdir(lower)} - set(names)):
                    self._whiteout(path, WHITEOUT + gone, status)
            return [_join(path, name) for name in names if self._inside(path, name, fd, lower, status)]
        finally:
            if lower >= 0:
                os.close(lower)

    def _wants_directory(
        self, path: bytes, fd: int, status: os.stat_result, xattrs: dict[bytes, bytes], lower: int
    ) -> bool:
        if not path:
            return self._below is None or self._below != [stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid]
        if lower < 0:
            return True
        return _differs(status, os.fstat(lower)) or xattrs != self._kept(lower)

    def _inside(self, path: bytes, name: bytes, fd: int, lower: int, above: os.stat_result) -> bool:
        """Pack what is called `name` unless it is a directory; answer whether it is one. `above` is the directory that it is in."""
        try:
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        if stat.S_ISDIR(status.st_mode):
            self._check_name(path, name)
            return True
        if stat.S_ISSOCK(status.st_mode):
            if self._layer:
                os.unlink(name, dir_fd=fd)
            return False
        if self._overlay and is_whiteout(status):
            # Its own time is that of its making, here or at an unpacking.
            self._whiteout(path, WHITEOUT + name, above)
            return False
        self._check_name(path, name)
        if lower < 0 or self._changed(name, status, fd, lower):
            self._file(_join(path, name), name, status, fd)
        return False

    def _check_name(self, path: bytes, name: bytes) -> None:
        if self._layer and name.startswith(WHITEOUT):
            raise self._refused(_join(path, name), 'in a layer, names that begin with ".wh." mean deletions')

    def _file(self, path: bytes, name: bytes, status: os.stat_result, fd: int) -> None:
        """Anything but a directory."""
        if status.st_nlink > 1:
            first = self._links.setdefault((status.st_dev, status.st_ino), path)
            if first != path:
                self._add(self._entry(path, status, {}).replace(kind=HARDLINK, link=first, size=0))
                return
        if stat.S_ISREG(status.st_mode):
            self._regular(path, name, status, fd)
            return
        entry = self._entry(path, status, {})
        if entry.kind == SYMLINK:
            entry.link = os.readlink(name, dir_fd=fd)
        elif entry.kind in (CHARACTER, BLOCK_DEVICE):
            entry.major, entry.minor = os.major(status.st_rdev), os.minor(status.st_rdev)
        self._add(entry)
        if self._layer:
            stamp = self._seconds(status) * _SECOND
            os.utime(name, ns=(stamp, stamp), dir_fd=fd, follow_symlinks=False)

    def _regular(self, path: bytes, name: bytes, status: os.stat_result, directory: int) -> None:
        try:
            fd = os.open(name, _FILE_FLAGS, dir_fd=directory)
        except FileNotFoundError:
            return
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                return
            _, xattrs = self._xattrs(path, fd)
            self.bytes += status.st_size
            self._add(self._entry(path, status, xattrs), _content(fd, status.st_size))
            if self._layer:
                stamp = self._seconds(status) * _SECOND
                os.utime(fd, ns=(stamp, stamp))
        finally:
            os.close(fd)

    def _whiteout(self, path: bytes, name: bytes, status: os.stat_result) -> None:
        seconds = self._seconds(status)
        self._add(Entry(_join(path, name), REGULAR, 0, 0, 0, 0, seconds * _SECOND, b"", 0, 0, 0))

    def _entry(self, path: bytes, status: os.stat_result, xattrs: dict[bytes, bytes]) -> Entry:
        kind = _KINDS[stat.S_IFMT(status.st_mode)]
        size = status.st_size if kind == REGULAR else 0
        mode = stat.S_IMODE(status.st_mode)
        time = self._seconds(status) * _SECOND
        return Entry(path, kind, mode, status.st_uid, status.st_gid, size, time, b"", 0, 0, 0, xattrs=xattrs)

    def _add(self, entry: Entry, data: Iterator[bytes] | None = None) -> None:
        self.entries += 1
        self._tar.add(entry, data)

    def _seconds(self, status: os.stat_result) -> int:
        seconds = status.st_mtime_ns // _SECOND
        return seconds if self._clamp is None else min(seconds, self._clamp)

    def _xattrs(self, path: bytes, fd: int) -> tuple[set[str], dict[bytes, bytes]]:
        """The overlay's marks on a file, without their prefix, and the attributes that a layer carries. What is neither is taken off a
        layer's tree."""
        marks: set[str] = set()
        kept = {}
        for key in os.listxattr(fd):
            prefix = next((each for each in OVERLAY_MARKS if key.startswith(each)), "")
            if prefix and self._layer:
                mark = key.removeprefix(prefix)
                if mark in INCOMPLETE:
                    raise self._refused(path, f'overlay left it incomplete ("{mark}")')
                marks.add(mark)
                if mark != "opaque":
                    os.removexattr(fd, key)
            elif not prefix and key.startswith(_KEPT):
                kept[os.fsencode(key)] = os.getxattr(fd, key)
            elif self._layer:
                _drop(fd, key)
        return marks, kept

    def _kept(self, fd: int) -> dict[bytes, bytes]:
        keys = [key for key in os.listxattr(fd) if key.startswith(_KEPT) and not key.startswith(OVERLAY_MARKS)]
        return {os.fsencode(key): os.getxattr(fd, key) for key in keys}

    def _open_lower(self, path: bytes) -> int:
        """The directory of this name below, -1 where there is none."""
        if self._lower < 0:
            return -1
        try:
            return open_plain_directory(self._lower, path)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
            return -1

    def _changed(self, name: bytes, status: os.stat_result, fd: int, lower: int) -> bool:
        try:
            below = os.stat(name, dir_fd=lower, follow_symlinks=False)
        except FileNotFoundError:
            return True
        if _differs(status, below):
            return True
        if stat.S_ISLNK(status.st_mode):
            return os.readlink(name, dir_fd=fd) != os.readlink(name, dir_fd=lower)
        return stat.S_ISREG(status.st_mode) and self._kept_of(name, fd) != self._kept_of(name, lower)

    def _kept_of(self, name: bytes, directory: int) -> dict[bytes, bytes]:
        fd = os.open(name, _FILE_FLAGS, dir_fd=directory)
        try:
            return self._kept(fd)
        finally:
            os.close(fd)

    def _refused(self, path: bytes, why: str) -> Failure:
        name = printable(path)
        return Failure("FailedPrecondition", f'cannot pack "{name}": {why}', path=name, reason="NOT_A_LAYER")


def _differs(one: os.stat_result, other: os.stat_result) -> bool:
    """Whether two entries of one name are told apart by what stat(2) says. Of a directory the size says nothing."""
    keys = ("st_mode", "st_uid", "st_gid", "st_rdev", "st_mtime_ns")
    if any(getattr(one, key) != getattr(other, key) for key in keys):
        return True
    return not stat.S_ISDIR(one.st_mode) and one.st_size != other.st_size


def _content(fd: int, size: int) -> Iterator[bytes]:
    """Exactly `size` bytes of a file: one that shrinks meanwhile is made up with zeros, what is added is left out."""
    while size:
        piece = os.read(fd, min(size, CHUNK)) or bytes(min(size, CHUNK))
        size -= len(piece)
        yield piece


def _drop(fd: int, key: str) -> None:
    """Take an attribute off that a layer does not carry. Those the kernel makes up itself (security labels) stay."""
    try:
        os.removexattr(fd, key)
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.EPERM, errno.EACCES, errno.ENOTSUP):
            raise


def _join(parent: bytes, name: bytes) -> bytes:
    return parent + b"/" + name if parent else name
