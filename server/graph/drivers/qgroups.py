"""Btrfs quota groups: the limit on what one subvolume holds for itself.

Each subvolume has the group 0/ID. Its `exclusive` bytes are those that no other subvolume refers to (with simple quotas: those written
through it), which is what a container wrote on top of its image.
"""

from __future__ import annotations

import errno
import fcntl
import struct
from pathlib import Path

from moorage.server.graph.drivers import subvolumes
from moorage.server.graph.drivers.subvolumes import READ, WRITE, number, opened

_QUOTA_TREE = 8
_STATUS_ITEM, _INFO_ITEM = 240, 242
_ON, _SIMPLE = 1 << 0, 1 << 3

_CREATE_ARGS = struct.Struct("<QQ")
"""btrfs_ioctl_qgroup_create_args: 1 to make, 0 to delete; the group."""
_LIMIT_ARGS = struct.Struct("<QQQQQQ")
"""btrfs_ioctl_qgroup_limit_args: the group, which limits, most referenced, most exclusive, two reservations."""
_QGROUP_CREATE = number(WRITE, 42, _CREATE_ARGS.size)
_QGROUP_LIMIT = number(READ, 43, _LIMIT_ARGS.size)
_MAX_EXCLUSIVE = 1 << 1

_STATUS = struct.Struct("<QQQ")
"""The head of a btrfs_qgroup_status_item: version, generation, flags."""
_INFO = struct.Struct("<QQQQQ")
"""btrfs_qgroup_info_item: generation, referenced, its compressed size, exclusive, its compressed size."""


def obstacle(directory: Path) -> str:
    """Why subvolumes of the file system cannot be limited, empty when they can."""
    flags = _flags(directory)
    if not flags & _ON:
        return f"quotas are off in the btrfs of {directory}"
    return ""


def kind(directory: Path) -> str:
    """How the file system counts: `simple qgroups` or `qgroups`."""
    return "simple qgroups" if _flags(directory) & _SIMPLE else "qgroups"


def _flags(directory: Path) -> int:
    with opened(directory) as fd:
        try:
            items = [item for item in subvolumes.search(fd, _QUOTA_TREE) if item.kind == _STATUS_ITEM]
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTCONN):
                return 0
            raise
    flags: int = _STATUS.unpack_from(items[0].data)[2] if items else 0
    return flags


def limit(tree: Path, subvolume: int, size: int) -> None:
    """Let a subvolume hold at most `size` bytes of its own; beyond, writes fail with EDQUOT. Raises OSError."""
    with opened(tree) as fd:
        fcntl.ioctl(fd, _QGROUP_LIMIT, _LIMIT_ARGS.pack(subvolume, _MAX_EXCLUSIVE, 0, size, 0, 0))


def exclusive(tree: Path, subvolume: int) -> int:
    """The bytes that count towards a subvolume's limit. Raises OSError when quotas are off."""
    with opened(tree) as fd:
        found = subvolumes.search(fd, _QUOTA_TREE, objects=(0, 0), kinds=(_INFO_ITEM, _INFO_ITEM))
        return next((_INFO.unpack_from(item.data)[3] for item in found if item.offset == subvolume), 0)


def forget(directory: Path, subvolume: int) -> None:
    """Delete the group of a deleted subvolume, where quotas are on and the kernel has not done or does not do it itself."""
    with opened(directory) as fd:
        try:
            fcntl.ioctl(fd, _QGROUP_CREATE, _CREATE_ARGS.pack(0, subvolume))
        except OSError as error:
            if error.errno not in (errno.ENOTCONN, errno.ENOENT, errno.EBUSY, errno.EINVAL, errno.ENODEV):
                raise
