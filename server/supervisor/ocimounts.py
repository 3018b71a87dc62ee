"""What an OCI runtime is to bind into a container: mounted beforehand, in the mount namespace of the process that starts it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from moorage.server.libcontainer import rootfs, syscalls, usernamespaces
from moorage.server.libcontainer.errors import doing
from moorage.server.libcontainer.usernamespaces import IdMaps

SHOWN = ("bind", "image", "tree")
"""Kinds of mounts that the runtime gets as something to bind."""


def user_namespaces(plan: rootfs.Plan, stack: ExitStack) -> dict[IdMaps, int]:
    """One for each mapping that a mount is to be shown by."""
    maps = {}
    for each in plan.all_id_maps():
        maps[each] = usernamespaces.make(each)
        stack.callback(os.close, maps[each])
    return maps


def show(plan: rootfs.Plan, maps: rootfs.Users, shift: rootfs.Shift | None, stack: ExitStack) -> dict[int, int]:
    """Detached mounts for those of the plan's that show something that is there already, by their place in it."""
    trees = {
        index: rootfs.clone_bind(mount, stack, maps) for index, mount in enumerate(plan.mounts) if mount.kind == "bind"
    }
    for index, mount in enumerate(plan.mounts):
        if mount.kind == "image":
            trees[index] = rootfs.show_image(mount, shift, stack)
        elif mount.kind == "tree":
            trees[index] = int(mount.source)
    return trees


def attributes(path: str) -> list[str]:
    """The attributes of the mount at a path, as options of a mount."""
    flags = os.statvfs(path).f_flag
    return [option for flag, option in _ATTRIBUTES.items() if flags & flag]


_ATTRIBUTES = {
    os.ST_RDONLY: "ro",
    os.ST_NOSUID: "nosuid",
    os.ST_NODEV: "nodev",
    os.ST_NOEXEC: "noexec",
    0x2000: "nosymfollow",
}


def open_way(directories: Sequence[str], needed: Sequence[str]) -> None:
    """Have everybody reach `directories`, which are beside each other and empty.

    In the caller's mount namespace, the first directory on the way that is closed to others is covered by one that is not. Of what is in
    it those of the paths `needed` stay that are there. Raises StartError.
    """
    closed = next(path for path in _way(directories[0]) if not os.stat(path).st_mode & stat.S_IXOTH)
    with doing("open the way to", directories[0]), ExitStack() as stack:
        kept = {}
        for path in map(os.path.realpath, needed):
            if path.startswith(f"{closed}/") and os.path.exists(path):
                kept[path] = syscalls.open_tree(syscalls.AT_FDCWD, path, recursive=False)
                stack.callback(os.close, kept[path])
        cover = syscalls.new_mount("tmpfs", "tmpfs", [("mode", "755")], 0)
        stack.callback(os.close, cover)
        attach(cover, closed)
        stack.callback(os.umask, os.umask(0o022))
        for path in directories:
            os.makedirs(path)
        for path, tree in kept.items():
            os.makedirs(os.path.dirname(path), exist_ok=True)
            attach_anew(tree, path)


def _way(path: str) -> Iterator[str]:
    """`path` and the directories above it, the top ones first."""
    parts = path.split("/")
    for number in range(2, len(parts) + 1):
        yield "/".join(parts[:number])


def attach_anew(tree: int, path: str) -> None:
    """Attach a mount at a path where nothing is. Raises StartError."""
    with doing("make", path):
        if stat.S_ISDIR(os.fstat(tree).st_mode):
            os.mkdir(path, 0o700)
        else:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    attach(tree, path)


def attach(tree: int, path: str) -> None:
    """Attach a mount at a path. Raises StartError."""
    with doing("mount at", path):
        target = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            syscalls.move_mount(tree, target)
        finally:
            os.close(target)
