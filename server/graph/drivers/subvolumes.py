"""Btrfs subvolumes by ioctl(2): made, copied as snapshots, deleted with those inside them, and asked what changed since their snapshot.

Layouts are those of linux/btrfs.h and linux/btrfs_tree.h, all numbers little-endian. Every function raises OSError as the kernel says it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SUPER_MAGIC = 0x9123683E
ROOT_INODE = 256
"""The inode number that the root directory of every subvolume has, and no directory inside one."""

_MAGIC = 0x94
WRITE, READ = 1, 2


def number(direction: int, number: int, size: int) -> int:
    """The number of an ioctl of btrfs, made as asm-generic/ioctl.h says."""
    return direction << 30 | size << 16 | _MAGIC << 8 | number


_VOLUME_ARGS = struct.Struct("<qQQ32x4040s")
"""btrfs_ioctl_vol_args_v2: source's descriptor, transid, flags, (qgroups), name or ID."""
_SEARCH_KEY = struct.Struct("<7Q4I32x")
"""btrfs_ioctl_search_key: tree, objectid from and to, offset from and to, transid from and to, type from and to, count, (unused)."""
_SEARCH_HEADER = struct.Struct("<3Q2I")
"""btrfs_ioctl_search_header: transid, objectid, offset, type, length."""
_SUBVOLUME_INFO = struct.Struct("<Q256xQQQQ16s16s16s4Q128x")
"""btrfs_ioctl_get_subvol_info_args: ID, (name), parent's ID, directory, generation, flags; three UUIDs: its own, that of the subvolume it
is a snapshot of, the received one; four transactions: of its last change, its making, sent, received; (times)."""

_SNAP_CREATE = number(WRITE, 23, _VOLUME_ARGS.size)
_SUBVOL_CREATE = number(WRITE, 24, _VOLUME_ARGS.size)
_SUBVOL_SETFLAGS = number(WRITE, 26, 8)
_SNAP_DESTROY = number(WRITE, 63, _VOLUME_ARGS.size)
_SUBVOL_INFO = number(READ, 60, _SUBVOLUME_INFO.size)
_TREE_SEARCH = number(WRITE | READ, 17, _SEARCH_KEY.size + 8)

_READ_ONLY = 1 << 1
_BY_ID = 1 << 4

_ROOT_TREE = 1
_INODE_ITEM, _EXTENT_DATA, _ROOT_REF = 1, 108, 156
_ANY = (0, (1 << 64) - 1)
_SEARCH_BYTES = 1 << 16
_SEARCH_ITEMS = 4096

_GENERATION = struct.Struct("<Q")
_EXTENT = struct.Struct("<QQ4xBQQ")
"""The head of a btrfs_file_extent_item: generation, size, (encodings), kind, where and how long on the disk."""
_INLINE = 0
_INLINE_HEAD = 21


@dataclass(frozen=True)
class Subvolume:
    """`made` is the transaction that made the subvolume; what is in it of a later one is its own. 0 where it is a copy of nothing."""

    id: int
    made: int


@dataclass(frozen=True)
class Item:
    """An entry of a tree."""

    object: int
    kind: int
    offset: int
    data: bytes


def is_subvolume(path: Path) -> bool:
    """Whether the directory `path`, of a btrfs file system, is the root of a subvolume. A missing one is not."""
    try:
        return path.lstat().st_ino == ROOT_INODE
    except FileNotFoundError:
        return False


def create(directory: Path, name: str) -> None:
    """Make an empty subvolume."""
    with opened(directory) as fd:
        fcntl.ioctl(fd, _SUBVOL_CREATE, bytearray(_VOLUME_ARGS.pack(0, 0, 0, os.fsencode(name))))


def snapshot(source: Path, directory: Path, name: str) -> None:
    """Make a writable subvolume of what is in the subvolume `source`; its data is shared until one of them changes it."""
    with opened(source) as source_fd, opened(directory) as fd:
        fcntl.ioctl(fd, _SNAP_CREATE, bytearray(_VOLUME_ARGS.pack(source_fd, 0, 0, os.fsencode(name))))


def make_read_only(path: Path) -> None:
    """Have the kernel refuse every change in a subvolume, its own attributes' too."""
    with opened(path) as fd:
        fcntl.ioctl(fd, _SUBVOL_SETFLAGS, struct.pack("<Q", _READ_ONLY))


def destroy(path: Path) -> int:
    """Delete a subvolume and all that were made inside it, however deep, those first; answer its ID.

    They are found and named by ID, not by path: their names are the choice of whoever made them. The space comes back in the background.
    """
    with opened(path) as fd:
        top = info(fd).id
        found = [top]
        for each in found:
            found += _children(fd, each)
    with opened(path.parent) as fd:
        for each in reversed(found):
            id_field = struct.pack("<Q", each)
            fcntl.ioctl(fd, _SNAP_DESTROY, bytearray(_VOLUME_ARGS.pack(0, 0, _BY_ID, id_field)))
    return top


def info(fd: int) -> Subvolume:
    """The subvolume that a descriptor's file is in."""
    buffer = bytearray(_SUBVOLUME_INFO.size)
    fcntl.ioctl(fd, _SUBVOL_INFO, buffer)
    id, _, _, _, _, _, origin, _, _, made, _, _ = _SUBVOLUME_INFO.unpack(buffer)
    return Subvolume(id, made if any(origin) else 0)


def id_of(path: Path) -> int:
    """The ID of the subvolume `path`."""
    with opened(path) as fd:
        return info(fd).id


def changed(path: Path) -> tuple[int, int]:
    """What the subvolume `path` and those inside it hold that the one it was copied from does not: bytes on disk, and inodes.

    Read off the file system's trees, in time by the amount of the change. What is not written out yet is not counted.
    """
    size, inodes = 0, 0
    with opened(path) as fd:
        pending = [info(fd)]
        # The root directory is a snapshot's own, though it was not made in it.
        inodes += 1 if pending[0].made else 0
        for volume in pending:
            own_size, own_inodes = _changed(fd, volume)
            size += own_size
            inodes += own_inodes
            pending += [Subvolume(child, 0) for child in _children(fd, volume.id)]
    return size, inodes


def _changed(fd: int, volume: Subvolume) -> tuple[int, int]:
    size, inodes, extents = 0, 0, set()
    for item in search(fd, volume.id, kinds=(_INODE_ITEM, _EXTENT_DATA), since=volume.made):
        if _GENERATION.unpack_from(item.data)[0] <= volume.made:
            continue
        if item.kind == _INODE_ITEM:
            inodes += 1
        elif item.kind == _EXTENT_DATA and item.data[_INLINE_HEAD - 1] == _INLINE:
            size += len(item.data) - _INLINE_HEAD
        elif item.kind == _EXTENT_DATA:
            _, _, _, where, length = _EXTENT.unpack_from(item.data)
            if where and where not in extents:
                extents.add(where)
                size += length
    return size, inodes


def _children(fd: int, volume: int) -> list[int]:
    """The IDs of the subvolumes directly inside one."""
    found = search(fd, _ROOT_TREE, objects=(volume, volume), kinds=(_ROOT_REF, _ROOT_REF))
    return [item.offset for item in found if item.kind == _ROOT_REF]


def search(
    fd: int, tree: int, *, objects: tuple[int, int] = _ANY, kinds: tuple[int, int] = (0, 255), since: int = 0
) -> Iterator[Item]:
    """The items of a tree in order of (object, kind, offset), from the first to the last key of the ranges.

    As the kernel compares whole keys, items of other kinds come too, between the objects. `since` leaves out blocks of the tree older than
    that transaction.
    """
    first = (objects[0], kinds[0], 0)
    while True:
        buffer = bytearray(_SEARCH_KEY.size + 8 + _SEARCH_BYTES)
        key = (tree, first[0], objects[1], first[2], _ANY[1], since, _ANY[1], first[1], kinds[1], _SEARCH_ITEMS)
        _SEARCH_KEY.pack_into(buffer, 0, *key, 0)
        struct.pack_into("<Q", buffer, _SEARCH_KEY.size, _SEARCH_BYTES)
        fcntl.ioctl(fd, _TREE_SEARCH, buffer)
        count = _SEARCH_KEY.unpack_from(buffer)[9]
        if not count:
            return
        *earlier, last = _items(buffer, count)
        yield from earlier
        yield last
        following = _next_key(last)
        if following is None or following[0] > objects[1]:
            return
        first = following


def _items(buffer: bytearray, count: int) -> Iterator[Item]:
    position = _SEARCH_KEY.size + 8
    for _ in range(count):
        _, object, offset, kind, length = _SEARCH_HEADER.unpack_from(buffer, position)
        position += _SEARCH_HEADER.size
        yield Item(object, kind, offset, bytes(buffer[position : position + length]))
        position += length


def _next_key(item: Item) -> tuple[int, int, int] | None:
    """The least key after an item's, None after the last there can be."""
    if item.offset < _ANY[1]:
        return item.object, item.kind, item.offset + 1
    if item.kind < 255:
        return item.object, item.kind + 1, 0
    return (item.object + 1, 0, 0) if item.object < _ANY[1] else None


def obstacle(directory: Path) -> str:
    """Why subvolumes cannot be made in a directory of a btrfs file system, empty when they can."""
    name = f".probe-{os.getpid()}"
    try:
        create(directory, name)
        destroy(directory / name)
    except OSError as error:
        known = {errno.EPERM: "no permission: CAP_SYS_ADMIN is needed", errno.EROFS: "it is read-only"}
        return known.get(error.errno or 0, os.strerror(error.errno or 0).lower())
    return ""


@contextmanager
def opened(directory: Path) -> Iterator[int]:
    """A directory's descriptor."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
