"""Control groups: the interface of both versions, and the file access they share.

A container's cgroup is one directory below each hierarchy's root (one in all on version 2). Life of a `Cgroup`:
`create` before the process is forked, `enter` from inside it, `kill` and `remove` after; the rest at any time between.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

Resources = Mapping[str, Any]
"""An OCI runtime-spec `linux.resources` object."""


def checked(path: str) -> str:
    """`path`, which must be absolute and normal and not the root; or ValueError."""
    names = path.split("/")
    if names[0] or len(names) < 2 or not all(names[1:]) or {".", ".."} & set(names) or "\0" in path:
        raise ValueError(f"invalid cgroup path {path!r}")
    return path


class CgroupError(OSError):
    """The kernel refused: `errno`, the file or directory `path`, and the `value` written, if one was."""

    def __init__(self, number: int, doing: str, path: str, value: str = "") -> None:
        super().__init__(number, os.strerror(number), path)
        self.path = path
        self.value = value
        self._doing = doing

    def __str__(self) -> str:
        what = f"{self.value!r} to {self.path}" if self.value else self.path
        return f"cannot {self._doing} {what}: {os.strerror(self.errno or 0).lower()}"


class CgroupStats(NamedTuple):
    """One reading: nanoseconds and bytes; counters count from the cgroup's creation; a limit of 0 is none."""

    cpu_usage_ns: int = 0
    cpu_throttled_ns: int = 0
    memory_usage: int = 0
    memory_inactive_file: int = 0
    memory_limit: int = 0
    memory_rss: int = 0
    memory_swap: int = 0
    page_faults: int = 0
    major_page_faults: int = 0
    pids: int = 0
    pids_limit: int = 0
    io_read_bytes: int = 0
    io_write_bytes: int = 0
    oom_kills: int = 0


class Sampler(Protocol):
    """Reads statistics again and again by descriptors that stay open."""

    def read(self) -> CgroupStats:
        """Read now. Raises CgroupError with ENODEV when the cgroup is gone."""
        ...

    def close(self) -> None:
        """Close the descriptors; safe to call twice."""
        ...


class Cgroup(Protocol):
    """One container's cgroup. Only a handle: making one touches nothing."""

    path: str
    """Below each hierarchy's root: `/moorage/<id>`."""

    def create(self, resources: Resources) -> None:
        """Make it and missing parents, set limits and devices; all or nothing. EEXIST when it is there."""
        ...

    def enter(self) -> None:
        """Move the calling process, which must have only one thread, into it; also from inside a new pid namespace."""
        ...

    def update(self, resources: Resources) -> None:
        """Change the limits named in `resources` (not devices)."""
        ...

    def pids(self) -> list[int]:
        """Processes in it and below it, as the calling process's pid namespace numbers them."""
        ...

    def kill(self) -> None:
        """SIGKILL every process in it and below it, those that fork meanwhile too. Missing is fine.

        Does not wait for them to die.
        """
        ...

    def freeze(self) -> None:
        """Stop every process; returns when all have stopped."""
        ...

    def thaw(self) -> None:
        """Let them go on."""
        ...

    def oom_kills(self) -> int:
        """Processes the kernel has killed here for want of memory; 0 when it is gone."""
        ...

    def remove(self) -> None:
        """Remove it with all below it, waiting a bounded time for killed processes to leave. Missing is fine."""
        ...

    def stats(self) -> CgroupStats:
        """Read the statistics once. Raises CgroupError with ENOENT when it is gone."""
        ...

    def sampler(self) -> Sampler:
        """Open it for reading many times. Raises CgroupError with ENOENT when it is gone."""
        ...


class CgroupManager(Protocol):
    """The cgroup file systems of this machine."""

    version: int
    """1 (also for hybrid set-ups) or 2."""

    def cgroup(self, path: str) -> Cgroup:
        """The handle of a cgroup that exists or not; `path` is absolute below the root, without `..`."""
        ...

    def children(self, parent: str) -> set[str]:
        """Names of the cgroups directly below `parent` in any hierarchy; none when it does not exist."""
        ...

    def prune(self, parent: str) -> None:
        """Remove `parent` and the cgroups above it, as far up as nothing is in or below them."""
        ...

    def available(self) -> set[str]:
        """Controllers that can be used."""
        ...
