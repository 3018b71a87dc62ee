"""Limits of a process's own: setrlimit(2), and its standing with the out-of-memory killer."""

from __future__ import annotations

import resource
from collections.abc import Mapping, Sequence
from typing import Any

from moorage.server.libcontainer.errors import StartError, doing

_NUMBERS: dict[str, int] = {name: getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")}
_UNSIGNED_INFINITY = (1 << 64) - 1


def apply(limits: Sequence[Mapping[str, Any]]) -> None:
    """Set OCI `process.rlimits` on the calling process; without CAP_SYS_RESOURCE no higher than the hard limits in force."""
    for limit in limits:
        name = limit["type"]
        if name not in _NUMBERS:
            raise StartError(f"unknown resource limit {name!r}")
        soft, hard = _value(limit["soft"]), _value(limit["hard"])
        if lower(soft, hard) != soft:
            raise StartError(f"{name}: soft limit {soft} is above hard limit {hard}")
        with doing(f"set {name}"):
            _set(_NUMBERS[name], soft, hard)


def _value(number: int) -> int:
    # OCI writes RLIM_INFINITY as an unsigned number, others as -1.
    return resource.RLIM_INFINITY if number == _UNSIGNED_INFINITY else number


def _set(kind: int, soft: int, hard: int) -> None:
    try:
        resource.setrlimit(kind, (soft, hard))
    except ValueError:
        # Python's name for EPERM.
        _, allowed = resource.getrlimit(kind)
        resource.setrlimit(kind, clamp(soft, hard, allowed))


def clamp(soft: int, hard: int, allowed: int) -> tuple[int, int]:
    """The limits (soft, hard) nearest to those wanted with neither above `allowed`."""
    hard = lower(hard, allowed)
    return lower(soft, hard), hard


def lower(first: int, second: int) -> int:
    """The lower of two limits, of which -1 is infinity."""
    if resource.RLIM_INFINITY in (first, second):
        return max(first, second)
    return min(first, second)


def set_oom_score_adj(value: int) -> None:
    """Set /proc/self/oom_score_adj; lowering it needs CAP_SYS_RESOURCE, and without it the score stays what it is."""
    if not -1000 <= value <= 1000:
        raise StartError(f"oom score adjustment {value} is not between -1000 and 1000")
    try:
        with open("/proc/self/oom_score_adj", "wb", buffering=0) as file:
            file.write(b"%d" % value)
    except PermissionError:
        return
