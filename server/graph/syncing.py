"""What has to be on the disk before something else is said."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from moorage.server.errors import Internal

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syncfs.argtypes = [ctypes.c_int]
_libc.syncfs.restype = ctypes.c_int


def sync_directory(path: Path) -> None:
    """fsync a directory: the names in it survive a power loss from here on."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_file_system(path: Path) -> None:
    """syncfs(2): everything written to the file system that holds `path`, in one call for thousands of files. Raises Internal."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(fd) != 0:
            number = ctypes.get_errno()
            raise Internal(
                f"cannot sync the file system of {path}: {os.strerror(number).lower()}", path=path, errno=number
            )
    finally:
        os.close(fd)
