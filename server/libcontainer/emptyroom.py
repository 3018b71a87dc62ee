"""Empty mount namespaces, in which the mounts of a container are put together.

A copy of the host's would have all that is mounted there, to be let go again: the kernel waits for its readers then, a millisecond
and more, and what it copies and lets go is much where thousands of volumes are mounted.
"""

from __future__ import annotations

import os
from contextlib import ExitStack

from moorage.server.libcontainer import syscalls
from moorage.server.libcontainer.errors import doing

_MOUNT_POINT = "/sys"
"""Any directory that every machine has: it is covered in the caller's namespace only, which is emptied at once."""

_ATTRIBUTES = (
    syscalls.MOUNT_ATTR_RDONLY | syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV | syscalls.MOUNT_ATTR_NOEXEC
)


def make() -> int:
    """A new mount namespace, as long as the descriptor is open, with nothing in it but a read-only root directory.

    The caller, which has one thread, is back in its own afterwards, in its root directory. Raises StartError.
    """
    with doing("make a mount namespace"), ExitStack() as stack:
        home = _opened("/proc/self/ns/mnt", os.O_RDONLY, stack)
        root = _opened("/", os.O_PATH, stack)
        syscalls.unshare(syscalls.CLONE_NEWNS)
        try:
            made = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
            # To its root directory, which is not ours where somebody has called chroot(2).
            syscalls.setns(made, syscalls.CLONE_NEWNS)
            empty()
        finally:
            syscalls.setns(home, syscalls.CLONE_NEWNS)
            os.fchdir(root)
            os.chroot(".")
    return made


def empty() -> None:
    """Leave nothing in the caller's own mount namespace but a read-only root directory. Raises OSError."""
    syscalls.set_propagation("/", syscalls.MS_REC | syscalls.MS_PRIVATE)
    with ExitStack() as stack:
        tree = nothing(_ATTRIBUTES)
        stack.callback(os.close, tree)
        syscalls.move_mount(tree, _opened(_MOUNT_POINT, os.O_PATH, stack))
        os.fchdir(tree)
        # The old root comes to lie on top of the new one, from where it is taken off.
        syscalls.pivot_root(".", ".")
        syscalls.umount(".", syscalls.MNT_DETACH)
        os.chdir("/")


def nothing(attributes: int) -> int:
    """A detached mount of a directory that is and stays empty, with these attributes. Raises OSError."""
    parameters: list[tuple[str, str | None]] = [("nr_blocks", "1"), ("nr_inodes", "1"), ("mode", "755")]
    return syscalls.new_mount("tmpfs", "tmpfs", parameters, attributes)


def _opened(path: str, flags: int, stack: ExitStack) -> int:
    fd = os.open(path, flags | os.O_CLOEXEC)
    stack.callback(os.close, fd)
    return fd


def enter(room: int, tree: int) -> None:
    """Go into an empty namespace and have the detached `tree` as its root directory: it covers what is there, see path_resolution(7), so
    that it is what setns(2) leads to as well.
    """
    syscalls.setns(room, syscalls.CLONE_NEWNS)
    floor = os.open("/", os.O_PATH | os.O_CLOEXEC)
    syscalls.move_mount(tree, floor)
    os.close(floor)
    os.fchdir(tree)
    os.chroot(".")
