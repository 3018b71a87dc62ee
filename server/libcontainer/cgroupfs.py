"""The container's view of control groups: its own directory of each hierarchy, mounted under /sys/fs/cgroup."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import cache
from typing import NamedTuple

from moorage.server.libcontainer import syscalls
from moorage.server.libcontainer.errors import doing
from moorage.server.libcontainer.mounts import MountOptions


class Hierarchy(NamedTuple):
    """A hierarchy mounted on this machine, with the options of its super block; those of version 1 name its controllers."""

    version: int
    mount_point: str
    options: frozenset[str]


@cache
def hierarchies() -> tuple[Hierarchy, ...]:
    """What is mounted. Read once: mountinfo is long on some machines, and these mounts stay."""
    found: list[Hierarchy] = []
    with open("/proc/self/mountinfo", "rb") as file:
        for line in file:
            if b" - cgroup" in line:
                fields, _, tail = os.fsdecode(line).strip().partition(" - ")
                kind, _, options = tail.split(" ")
                version = 2 if kind == "cgroup2" else 1
                found.append(Hierarchy(version, fields.split(" ")[4], frozenset(options.split(","))))
    return tuple(found)


def own_directories(lines: Iterable[str], known: Sequence[Hierarchy]) -> list[tuple[Hierarchy, str]]:
    """Hierarchies and directories in them of the process whose /proc/PID/cgroup has these lines.

    Those of version 1 if there is any, with its controllers or named, else the one of version 2.
    """
    version = min((hierarchy.version for hierarchy in known), default=2)
    found = []
    for line in lines:
        _, names, path = line.rstrip("\n").split(":", 2)
        controllers = frozenset(names.split(",")) if names else frozenset()
        for hierarchy in known:
            if hierarchy.version == version == (1 if names else 2) and controllers <= hierarchy.options:
                found.append((hierarchy, posixpath.join(hierarchy.mount_point, path.lstrip("/"))))
                break
    return found


class Home:
    """The cgroups that the calling process is in now, and the way back to them: whoever opened it may go, whatever is dropped meanwhile."""

    def __init__(self) -> None:
        with open("/proc/self/cgroup", "rb") as file:
            lines = [os.fsdecode(line) for line in file]
        self._files = [
            os.open(f"{directory}/{'cgroup.procs' if hierarchy.version == 2 else 'tasks'}", os.O_WRONLY | os.O_CLOEXEC)
            for hierarchy, directory in own_directories(lines, hierarchies())
        ]

    def enter(self) -> None:
        """Go back; the calling process has only one thread. Raises OSError."""
        for fd in self._files:
            os.write(fd, b"0")


def clone_trees(stack: ExitStack) -> dict[str, int]:
    """Detached mounts of the calling process's own cgroup directories, closed by `stack`: one, named "", on version 2 alone; else one for
    each hierarchy of version 1, by its directory's name.
    """
    trees: dict[str, int] = {}
    with open("/proc/self/cgroup", "rb") as file:
        lines = [os.fsdecode(line) for line in file]
    for hierarchy, directory in own_directories(lines, hierarchies()):
        with doing("copy the mount of", directory):
            tree = syscalls.open_tree(syscalls.AT_FDCWD, directory, recursive=False)
        stack.callback(os.close, tree)
        trees["" if hierarchy.version == 2 else posixpath.basename(hierarchy.mount_point)] = tree
    return trees


def attach(target: int, trees: Mapping[str, int], options: MountOptions) -> None:
    """Mount the trees on or below the directory `target`, with the attributes of `options`."""
    if "" in trees:
        _set_attributes(trees[""], options)
        syscalls.move_mount(trees[""], target)
        return
    base = syscalls.new_mount(
        "tmpfs", "cgroup", [("mode", "755"), ("size", "64k")], options.attributes & ~syscalls.MOUNT_ATTR_RDONLY
    )
    try:
        syscalls.move_mount(base, target)
        for name, tree in trees.items():
            _attach_hierarchy(base, name, tree)
        _set_attributes(base, options)
    finally:
        os.close(base)


def _attach_hierarchy(base: int, name: str, tree: int) -> None:
    os.mkdir(name, 0o755, dir_fd=base)
    syscalls.move_mount(tree, base, name)
    for controller in name.split(","):
        if controller != name:
            os.symlink(name, controller, dir_fd=base)


def _set_attributes(top: int, options: MountOptions) -> None:
    syscalls.mount_setattr(top, options.attributes, propagation=syscalls.MS_PRIVATE, recursive=True)
