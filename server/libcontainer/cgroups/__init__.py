"""Control groups, version 1 and 2."""

from __future__ import annotations

from moorage.server.libcontainer.cgroups.base import (
    Cgroup,
    CgroupError,
    CgroupManager,
    CgroupStats,
    Resources,
    Sampler,
)

__all__ = ["Cgroup", "CgroupError", "CgroupManager", "CgroupStats", "Resources", "Sampler"]
