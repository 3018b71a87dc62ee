"""Who the kernel kills for want of memory: see proc(5), oom_score_adj. The spawner and the supervisors last, what they run as usual."""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path

LEAST = -999

_OWN = Path("/proc/self/oom_score_adj")


@functools.cache
def usual() -> int:
    """The score the daemon was started with, but never one that protects: a service manager's OOMScoreAdjust= is meant for the daemon.

    First asked for in the spawner, before `protect`; forks remember it.
    """
    return max(0, int(_OWN.read_text()))


def protect() -> None:
    """Be the last to be killed, where that is allowed (CAP_SYS_RESOURCE). Children inherit it."""
    usual()
    with contextlib.suppress(PermissionError):
        _OWN.write_text(str(LEAST))


def unprotect() -> None:
    """Be killed like any other."""
    _OWN.write_text(str(usual()))
