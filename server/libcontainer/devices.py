"""What is in a container's /dev: the devices and links that every container has, and those of OCI `linux.devices`."""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from moorage.server.libcontainer import syscalls
from moorage.server.libcontainer.errors import StartError, doing
from moorage.server.libcontainer.paths import clean, open_directory, open_in_root

NULL = (1, 3)
_NODES = {"null": NULL, "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "core": "/proc/kcore",
    "ptmx": "pts/ptmx",
}
_KINDS = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}


def populate(root: int, devices: Sequence[Mapping[str, Any]]) -> None:
    """Make the default nodes and links and OCI `linux.devices`; the umask is 0. What is there already must be the same device."""
    with doing("open", "/dev"):
        dev = open_directory(root, "/dev")
    try:
        for name, (major, minor) in _NODES.items():
            _make_node(dev, name, stat.S_IFCHR | 0o666, os.makedev(major, minor))
        for name, target in _LINKS.items():
            with suppress(FileExistsError):
                os.symlink(target, name, dir_fd=dev)
    finally:
        os.close(dev)
    for device in devices:
        _make_device(root, device)


def _make_device(root: int, device: Mapping[str, Any]) -> None:
    path = clean(device["path"])
    if device["type"] not in _KINDS:
        raise StartError(f"cannot make device {path}: unknown type {device['type']!r}", path=path)
    mode = _KINDS[device["type"]] | device.get("fileMode", 0o666) & 0o777
    number = os.makedev(device.get("major", 0), device.get("minor", 0))
    with doing("make device", path):
        parent = open_directory(root, posixpath.dirname(path))
        try:
            if _make_node(parent, posixpath.basename(path), mode, number):
                owner = (device.get("uid", 0), device.get("gid", 0))
                os.chown(posixpath.basename(path), *owner, dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(parent)


def _make_node(directory: int, name: str, mode: int, number: int) -> bool:
    """Make a node; whether it is new."""
    try:
        os.mknod(name, mode, number, dir_fd=directory)
    except FileExistsError:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if stat.S_IFMT(status.st_mode) != stat.S_IFMT(mode) or status.st_rdev != number:
            raise StartError(f"{name} in the container's /dev is not the device it should be", path=name) from None
        return False
    return True


def open_null(root: int) -> int:
    """/dev/null inside `root` (O_PATH), checked to be it."""
    with doing("open", "/dev/null"):
        fd = open_in_root(root, "/dev/null")
    if not is_device(fd, *NULL):
        os.close(fd)
        raise StartError("/dev/null in the container is not the null device", path="/dev/null")
    return fd


def is_device(fd: int, major: int, minor: int) -> bool:
    """Whether `fd` is this character device."""
    status = os.fstat(fd)
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == os.makedev(major, minor)


def bind_console(root: int, terminal: int) -> None:
    """Mount `terminal`, a pseudo terminal's slave, on /dev/console."""
    with doing("mount", "/dev/console"):
        dev = open_directory(root, "/dev")
        try:
            with suppress(FileExistsError):
                flags = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                os.close(os.open("console", flags, 0o600, dir_fd=dev))
            target = syscalls.openat2(
                dev, "console", os.O_PATH, syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS
            )
            tree = syscalls.open_tree(terminal, "", recursive=False)
            syscalls.move_mount(tree, target)
            os.close(tree)
            os.close(target)
        finally:
            os.close(dev)
