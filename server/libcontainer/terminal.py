"""Pseudo terminals of a container's own devpts."""

from __future__ import annotations

import fcntl
import os
import stat
import struct
import termios
from collections.abc import Mapping

from moorage.server.libcontainer import syscalls
from moorage.server.libcontainer.devices import is_device
from moorage.server.libcontainer.errors import StartError, doing
from moorage.server.libcontainer.paths import open_in_root

PTMX = (5, 2)
PTS_MAJORS = range(136, 144)
_TIOCSPTLCK = 0x40045431
_TIOCGPTPEER = 0x5441


def open_pair(root: int, size: Mapping[str, int]) -> tuple[int, int]:
    """A new terminal (master, slave) of the devpts at /dev/pts inside `root`. `size` is OCI `process.consoleSize`.

    The slave is asked of the master, never looked up by a name that something else may stand at.
    """
    with doing("open", "/dev/pts/ptmx"):
        master = open_in_root(root, "/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY)
    if syscalls.file_system_type(master) != syscalls.DEVPTS_SUPER_MAGIC or not is_device(master, *PTMX):
        os.close(master)
        raise StartError("/dev/pts in the container is not a devpts", path="/dev/pts/ptmx")
    with doing("open the terminal"):
        fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
        slave = fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        if size.get("height") or size.get("width"):
            resize(master, size.get("width", 0), size.get("height", 0))
    if not is_pts(slave):
        raise StartError("the terminal is not a pseudo terminal", path="/dev/pts")
    return master, slave


def is_pts(fd: int) -> bool:
    """Whether `fd` is a pseudo terminal's slave on a devpts."""
    status = os.fstat(fd)
    on_devpts = syscalls.file_system_type(fd) == syscalls.DEVPTS_SUPER_MAGIC
    return on_devpts and stat.S_ISCHR(status.st_mode) and os.major(status.st_rdev) in PTS_MAJORS


def resize(master: int, columns: int, rows: int) -> None:
    """Set the terminal's size; its foreground processes get SIGWINCH."""
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def make_controlling(terminal: int) -> None:
    """Make it the controlling terminal of the caller, which leads its session."""
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
