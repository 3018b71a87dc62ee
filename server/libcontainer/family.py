"""The processes that one has started, as far as they can be told from the others of its container."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterable

KILL_ROUNDS = 5


def kill_tree(root: int, candidates: Callable[[], Iterable[int]]) -> None:
    """SIGKILL the process `root`, which is not reaped yet, and those of `candidates` that it started or that are of its session.

    As far as it goes: who has left the session and lost the parent belongs to the container from then on.
    """
    killed: set[int] = set()
    for _round in range(KILL_ROUNDS):
        family = _family(root, candidates()) - killed
        if not family:
            return
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        killed |= family


def _family(root: int, candidates: Iterable[int]) -> set[int]:
    """`root` with its session (if it leads one) and its descendants among `candidates`."""
    kin = {pid: kinship for pid in candidates if (kinship := _kinship(pid)) is not None}
    family = {root} | {pid for pid, (_parent, session) in kin.items() if session == root}
    while more := {pid for pid, (parent, _session) in kin.items() if parent in family} - family:
        family |= more
    return family


def _kinship(pid: int) -> tuple[int, int] | None:
    """Parent and session of a process, see proc(5); None when it is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(fields[1]), int(fields[3])
