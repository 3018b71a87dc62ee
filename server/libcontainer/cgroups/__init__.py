"""Control groups, version 1 and 2: `detect()` finds what this machine has."""

from __future__ import annotations

import errno
import re

from moorage.server.libcontainer.cgroups import v1, v2
from moorage.server.libcontainer.cgroups.base import (
    Cgroup,
    CgroupError,
    CgroupManager,
    CgroupStats,
    Resources,
    Sampler,
)

__all__ = ["Cgroup", "CgroupError", "CgroupManager", "CgroupStats", "Resources", "Sampler", "detect"]


def detect(mountinfo: str = "/proc/self/mountinfo") -> CgroupManager:
    """The manager for what is mounted: version 1 as soon as it has a controller (hybrid set-ups too), else version 2.

    Raises CgroupError (ENODEV) when neither is mounted.
    """
    hierarchies: dict[frozenset[str], v1.Hierarchy] = {}
    unified = ""
    named: dict[frozenset[str], str] = {}
    with open(mountinfo, encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            kind, root, options = _mount(line)
            controllers = v1.CONTROLLERS & options
            if kind == "cgroup2":
                unified = unified or root
            elif kind == "cgroup" and controllers:
                hierarchies.setdefault(controllers, v1.Hierarchy(root, controllers))
            elif kind == "cgroup":
                named.setdefault(options, root)
    if hierarchies:
        return v1.V1Manager(list(hierarchies.values()), [*named.values(), *([unified] if unified else [])])
    if unified:
        return v2.V2Manager(unified)
    raise CgroupError(errno.ENODEV, "find cgroup file systems in", mountinfo)


def _mount(line: str) -> tuple[str, str, frozenset[str]]:
    """File system type, mount point and super block options of a line, see proc_pid_mountinfo(5)."""
    before, _, after = line.rstrip("\n").partition(" - ")
    kind, _, options = after.split(" ", 2)
    point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), before.split(" ")[4])
    return kind, point, frozenset(options.split(","))
