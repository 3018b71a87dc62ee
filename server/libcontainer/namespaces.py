"""Namespaces of an OCI config: which are new, which are joined, which are inherited."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from moorage.server.libcontainer import syscalls
from moorage.server.libcontainer.errors import StartError, doing

_FLAGS = {
    "mount": syscalls.CLONE_NEWNS,
    "pid": syscalls.CLONE_NEWPID,
    "network": syscalls.CLONE_NEWNET,
    "ipc": syscalls.CLONE_NEWIPC,
    "uts": syscalls.CLONE_NEWUTS,
    "cgroup": syscalls.CLONE_NEWCGROUP,
}

ALL_BUT_PID = sum(flag for name, flag in _FLAGS.items() if name != "pid")


class Namespaces(NamedTuple):
    """What becomes of each kind of namespace; the mount namespace is always new, and made apart (emptyroom.py).

    `clone` are CLONE_NEW… flags for the fork, `join` are (flag, path) of those that exist, `pid_path` that of the pid
    namespace to be born in. `cgroup` is the path of the cgroup namespace to join, empty for a new one, None for the caller's.
    """

    clone: int
    join: tuple[tuple[int, str], ...]
    pid_path: str
    cgroup: str | None
    user_path: str = ""
    """That of the user namespace to join last, empty for none."""

    @property
    def own_uts(self) -> bool:
        return bool(self.clone & syscalls.CLONE_NEWUTS)


def plan(namespaces: Sequence[Mapping[str, Any]]) -> Namespaces:
    """OCI `linux.namespaces` taken apart. Raises StartError for a kind that cannot be had."""
    clone, pid_path = 0, ""
    cgroup: str | None = None
    user_path = ""
    join: list[tuple[int, str]] = []
    for namespace in namespaces:
        kind, path = namespace["type"], namespace.get("path") or ""
        if kind == "user" and path:
            user_path = path
            continue
        if kind not in _FLAGS or (kind == "mount" and path):
            raise StartError(f"a {kind} namespace {f'at {path} ' if path else ''}is not supported", path=path)
        if kind == "cgroup":
            cgroup = path
        elif kind == "pid" and path:
            pid_path = path
        elif path:
            join.append((_FLAGS[kind], path))
        elif kind != "mount":
            clone |= _FLAGS[kind]
    return Namespaces(clone, tuple(join), pid_path, cgroup, user_path)


def join(namespaces: Namespaces) -> None:
    """Enter the existing namespaces but that of cgroups."""
    for flag, path in namespaces.join:
        _join(flag, path)


def open_cgroup(namespaces: Namespaces) -> int | None:
    """The cgroup namespace to join (to be opened while the host's files are within reach), None if it is no other's."""
    if not namespaces.cgroup:
        return None
    with doing("join the namespace", namespaces.cgroup):
        return os.open(namespaces.cgroup, os.O_RDONLY | os.O_CLOEXEC)


def enter_cgroup(namespaces: Namespaces, other: int | None) -> None:
    """Enter the cgroup namespace. A new one has the caller's cgroup for its root; from inside, the paths of cgroups on the host are not to
    be had any more.
    """
    with doing("enter a cgroup namespace"):
        if other is not None:
            syscalls.setns(other, syscalls.CLONE_NEWCGROUP)
        elif namespaces.cgroup is not None:
            syscalls.unshare(syscalls.CLONE_NEWCGROUP)


def _join(flag: int, path: str) -> None:
    with doing("join the namespace", path):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        syscalls.setns(fd, flag)
        os.close(fd)


def clone(flags: int, pid_namespace: int | None) -> tuple[int, int]:
    """Fork into new namespaces (`flags`), and into the pid namespace of `pid_namespace` (a pidfd or a namespace's file) if given.

    As `syscalls.clone`. The child is the caller's own, whatever pid namespace it is born in: setns(2) changes the pid
    namespace of children only, and is taken back after the fork.
    """
    if pid_namespace is None:
        return syscalls.clone(flags)
    own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.setns(pid_namespace, syscalls.CLONE_NEWPID)
        pid = -1
        try:
            pid, pidfd = syscalls.clone(flags)
            return pid, pidfd
        finally:
            if pid != 0:
                syscalls.setns(own, syscalls.CLONE_NEWPID)
    finally:
        os.close(own)
