"""Confinement of a task to a tree that somebody else filled, and the only way paths are followed in there.

The process chroots into the tree and keeps no descriptor of anything outside but what it was given, so that no symbolic link, no `..`
and no absolute name can lead out of it; openat2(2) holds the same a second time. Nothing is imported afterwards: an import would read
the tree's files.
"""

from __future__ import annotations

import os

from moorage.server.libcontainer import capabilities
from moorage.server.libcontainer.syscalls import (
    RESOLVE_BENEATH,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    openat2,
)

FILE_CAPABILITIES = ("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_MKNOD", "CAP_SETFCAP")
"""What is needed to make files of any owner, mode and kind."""

XATTR_CAPABILITIES = (*FILE_CAPABILITIES, "CAP_SYS_ADMIN")
"""The same with `trusted.*` extended attributes, which the kernel gives to CAP_SYS_ADMIN only."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


def enter(root: int, keep: tuple[str, ...]) -> None:
    """Make the directory `root` (a descriptor) the process's whole world, and `keep` its capabilities."""
    os.fchdir(root)
    os.chroot(".")
    capabilities.apply({"effective": keep, "permitted": keep})
    os.umask(0)


def open_directory(root: int, path: bytes) -> int:
    """Open a directory below `root`; symbolic links in `path` are followed, as if `root` were the root directory."""
    resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
    return openat2(root, os.fsdecode(path) or ".", os.O_RDONLY | os.O_DIRECTORY, resolve)


def open_plain_directory(root: int, path: bytes) -> int:
    """Open a directory below `root`, following no symbolic link at all."""
    return openat2(root, os.fsdecode(path) or ".", _DIRECTORY, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
