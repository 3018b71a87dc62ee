"""Project quotas (ext4, xfs): the limit on what is below one directory.

Every file has a project ID; a directory with the flag to inherit gives its own to what is made in it. A limit belongs to an ID. Which ID a
directory has is kept by the file system, so that nothing need be written down here. quotactl_fd(2) takes the file system by a descriptor.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import secrets
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FSXATTR = struct.Struct("=IIIII8x")
"""struct fsxattr: flags, extent size, number of extents, project ID, CoW extent size."""
_GET_ATTRIBUTES = 2 << 30 | _FSXATTR.size << 16 | ord("X") << 8 | 31
_SET_ATTRIBUTES = 1 << 30 | _FSXATTR.size << 16 | ord("X") << 8 | 32
_INHERIT = 0x200

_QUOTA = struct.Struct("=bbHIQQQQQQiiHHiQQQiHH8x")
"""struct fs_disk_quota: version, whose, which fields, ID; most blocks (hard, soft), most inodes (hard, soft), blocks, inodes; timers,
warnings; the same of real-time devices. Blocks are of 512 bytes."""
_STATE_SIZE = 80
_STATE = struct.Struct("=bxH")
"""The head of struct fs_quota_stat: version, flags."""

_QUOTACTL_FD = 443
_GET_QUOTA, _SET_LIMITS, _GET_STATE = (ord("X") << 8 | number for number in (3, 4, 5))
_PROJECTS = 2
_VERSION = 1
_HARD, _SOFT = 1 << 3, 1 << 2
_ENFORCED = 1 << 5
_BLOCK = 512

LOWEST, HIGHEST = 1 << 20, (1 << 31) - 1
"""IDs are chosen from here, by chance: those that people and other engines give by hand are smaller."""

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_uint, ctypes.c_uint, ctypes.c_char_p]
_syscall.restype = ctypes.c_long


def obstacle(directory: Path) -> str:
    """Why what is below a directory cannot be limited, empty when it can."""
    state = ctypes.create_string_buffer(_STATE_SIZE)
    try:
        with _opened(directory) as fd:
            _quotactl(fd, _GET_STATE, 0, state)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ESRCH, errno.EINVAL, errno.ENOTTY, errno.EPERM):
            raise
        return "its file system has no project quotas, or they are not in this kernel"
    _, flags = _STATE.unpack_from(state)
    return "" if flags & _ENFORCED else "project quotas are off in its file system"


def limit(directory: Path, size: int) -> int:
    """Let what is made below an empty directory from now on take at most `size` bytes; answer the project ID. Raises OSError."""
    with _opened(directory) as fd:
        project = next(each for each in _candidates() if _unused(fd, each))
        flags, extent, count, _, cow = _attributes(fd)
        fcntl.ioctl(fd, _SET_ATTRIBUTES, _FSXATTR.pack(flags | _INHERIT, extent, count, project, cow))
        _set_limit(fd, project, size)
    return project


def forget(directory: Path) -> None:
    """Take the limit off a directory's project, whose ID is free again once the files are gone; without a project, nothing happens."""
    with _opened(directory) as fd:
        try:
            project = _attributes(fd)[3]
        except OSError as error:
            if error.errno not in (errno.ENOTTY, errno.ENOTSUP):
                raise
            return
        if project >= LOWEST:
            _set_limit(fd, project, 0)


def used(directory: Path) -> int:
    """The bytes that count towards the limit of a directory's project."""
    return account(directory, project_of(directory))[1]


def project_of(directory: Path) -> int:
    """A directory's project ID, 0 without one."""
    with _opened(directory) as fd:
        return _attributes(fd)[3]


def account(directory: Path, project: int) -> tuple[int, int, int]:
    """A project's limit and use in bytes, and its inodes, in the file system of a directory."""
    with _opened(directory) as fd:
        return _account(fd, project)


def _candidates() -> Iterator[int]:
    while True:
        yield LOWEST + secrets.randbelow(HIGHEST - LOWEST + 1)


def _unused(fd: int, project: int) -> bool:
    """Whether neither a limit nor a file has this ID."""
    return _account(fd, project) == (0, 0, 0)


def _account(fd: int, project: int) -> tuple[int, int, int]:
    """The limit and the use of a project in bytes, and its inodes."""
    quota = ctypes.create_string_buffer(_QUOTA.size)
    try:
        _quotactl(fd, _GET_QUOTA, project, quota)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        return 0, 0, 0
    _, _, _, _, hard, _, _, _, blocks, inodes, *_ = _QUOTA.unpack(quota.raw)
    return hard * _BLOCK, blocks * _BLOCK, inodes


def _set_limit(fd: int, project: int, size: int) -> None:
    blocks = -(-size // _BLOCK)
    fields = (_VERSION, _PROJECTS, _HARD | _SOFT, project, blocks, blocks, *[0] * 15)
    _quotactl(fd, _SET_LIMITS, project, ctypes.create_string_buffer(_QUOTA.pack(*fields), _QUOTA.size))


def _attributes(fd: int) -> tuple[int, ...]:
    buffer = bytearray(_FSXATTR.size)
    fcntl.ioctl(fd, _GET_ATTRIBUTES, buffer)
    return _FSXATTR.unpack(buffer)


def _quotactl(fd: int, command: int, project: int, buffer: ctypes.Array[ctypes.c_char]) -> None:
    if _syscall(_QUOTACTL_FD, fd, command << 8 | _PROJECTS, project, buffer) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@contextmanager
def _opened(directory: Path) -> Iterator[int]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
