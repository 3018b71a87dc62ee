"""Who the kernel kills for want of memory: see proc(5), oom_score_adj. The spawner and the supervisors last, what they run as usual."""

from __future__ import annotations

import contextlib
import functools

LEAST = -999

_OWN = "/proc/self/oom_score_adj"


@functools.cache
def usual() -> int:
    """The score the daemon was started with, but never one that protects: a service manager's OOMScoreAdjust= is meant for the daemon.

    First asked for in the spawner, before `protect`; forks remember it.
    """
    with open(_OWN) as file:
        return max(0, int(file.read()))


def protect() -> None:
    """Be the last to be killed, where that is allowed (CAP_SYS_RESOURCE). Children inherit it."""
    usual()
    with contextlib.suppress(PermissionError):
        _write(LEAST)


def unprotect() -> None:
    """Be killed like any other."""
    _write(usual())


def _write(score: int) -> None:
    with open(_OWN, "w") as file:
        file.write(str(score))
