"""The container's view of control groups: its own directory of each hierarchy, mounted under /sys/fs/cgroup."""

from __future__ import annotations

import os
import posixpath
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache

from moorage.server.libcontainer import syscalls
from moorage.server.libcontainer.errors import doing
from moorage.server.libcontainer.mounts import MountOptions


@dataclass(frozen=True)
class Hierarchy:
    """A hierarchy mounted on this machine. `controllers` is its name in /proc/self/cgroup, empty for version 2."""

    controllers: str
    mount_point: str


@cache
def hierarchies() -> dict[str, Hierarchy]:
    """The hierarchies by controllers. Read once: mountinfo is long on some machines, and these mounts stay."""
    found: dict[str, Hierarchy] = {}
    with open("/proc/self/mountinfo", "rb") as file:
        for line in file:
            if b" - cgroup" in line:
                fields, _, tail = os.fsdecode(line).strip().partition(" - ")
                kind, _, options = tail.split(" ")
                name = "" if kind == "cgroup2" else _controllers(options)
                found.setdefault(name, Hierarchy(name, fields.split(" ")[4]))
    return found


def _controllers(options: str) -> str:
    """The controllers in a hierarchy's super block options (`rw,cpu,cpuacct`), spelled as in /proc/self/cgroup."""
    parts = [
        part
        for part in options.split(",")
        if part not in ("ro", "rw", "xattr", "noprefix", "clone_children", "cpuset_v2_mode", "favordynmods")
        and not part.startswith("release_agent=")
    ]
    return ",".join(parts)


def clone_trees(stack: ExitStack) -> dict[str, int]:
    """Detached mounts of the calling process's own cgroup directories, closed by `stack`: one, named "", on version 2 alone; else one for
    each hierarchy of version 1, by its directory's name.
    """
    known = hierarchies()
    version1 = any(name for name in known)
    trees: dict[str, int] = {}
    with open("/proc/self/cgroup", "rb") as file:
        lines = [os.fsdecode(line.rstrip(b"\n")).split(":", 2) for line in file]
    for _, controllers, path in lines:
        hierarchy = known.get(controllers)
        if hierarchy is None or version1 != bool(controllers):
            continue
        directory = posixpath.join(hierarchy.mount_point, path.lstrip("/"))
        with doing("copy the mount of", directory):
            tree = syscalls.open_tree(syscalls.AT_FDCWD, directory, recursive=False)
        stack.callback(os.close, tree)
        trees[posixpath.basename(hierarchy.mount_point) if controllers else ""] = tree
    return trees


def attach(target: int, trees: dict[str, int], options: MountOptions) -> None:
    """Mount the trees on or below the directory `target`, with the attributes of `options`."""
    for tree in trees.values():
        syscalls.mount_setattr(tree, options.attributes, propagation=syscalls.MS_PRIVATE, recursive=False)
    if "" in trees:
        syscalls.move_mount(trees[""], target)
        return
    base = syscalls.new_mount("tmpfs", "cgroup", [("mode", "755"), ("size", "64k")], options.attributes & ~1)
    try:
        syscalls.move_mount(base, target)
        for name, tree in trees.items():
            _attach_hierarchy(base, name, tree)
        syscalls.mount_setattr(base, options.attributes, recursive=False)
    finally:
        os.close(base)


def _attach_hierarchy(base: int, name: str, tree: int) -> None:
    os.mkdir(name, 0o755, dir_fd=base)
    directory = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=base)
    try:
        syscalls.move_mount(tree, directory)
    finally:
        os.close(directory)
    for controller in name.split(","):
        if controller != name:
            os.symlink(name, controller, dir_fd=base)
