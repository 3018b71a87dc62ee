"""Starting the processes of a container: an OCI runtime-spec config in, a process out.

The caller has one thread and sits in the network, IPC and UTS namespaces that the container is to inherit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moorage.server.libcontainer.cgroups import Cgroup
from moorage.server.libcontainer.errors import StartError

__all__ = ["Process", "StartError", "Stdio", "execute", "start"]


@dataclass(frozen=True)
class Stdio:
    """Descriptors that become 0, 1 and 2; they stay open in the caller."""

    stdin: int
    stdout: int
    stderr: int


@dataclass(frozen=True)
class Process:
    """A running child of the caller, which waits for it and closes `pidfd` and `console`.

    `pid` is the caller's number for it. `console` is the master of its terminal when `process.terminal` was set.
    """

    pid: int
    pidfd: int
    console: int | None


def _no_stage(_name: str) -> None:
    pass


def start(
    config: Mapping[str, Any],
    *,
    rootfs: Sequence[Mapping[str, Any]],
    stdio: Stdio | None,
    cgroup: Cgroup | None,
    seccomp: bytes | None,
    init: bool = False,
    stage: Callable[[str], None] = _no_stage,
) -> Process:
    """Start a container's first process; on return its command has been executed.

    `rootfs` are the mounts that make the root file system, bottom first, without destination. `stdio` None is a terminal
    when `process.terminal` is set, else /dev/null. `seccomp` is a compiled program. With `init`, process 1 is a small
    reaper and the command its child. `stage` is told the name of each stage as it begins: `clone`, `cgroup`, `rootfs`,
    `mounts`, `user`, `exec`. Raises StartError.
    """
    raise NotImplementedError


def execute(
    target_pid: int,
    config: Mapping[str, Any],
    process: Mapping[str, Any],
    *,
    stdio: Stdio | None,
    cgroup: Cgroup | None,
    seccomp: bytes | None,
) -> Process:
    """Run one more process in the container whose first process is `target_pid`, a child of the caller not yet waited for.

    `process` is shaped as OCI `config.process`. The process is a child of the caller. Raises StartError.
    """
    raise NotImplementedError
