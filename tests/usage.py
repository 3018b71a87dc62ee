"""What a process holds now: descriptors, memory, children. Tests compare it before and after."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

SETTLE_SECONDS = 5


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def memory(pid: int) -> int:
    """Private bytes in use."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(("Private_Dirty:", "Private_Clean:")))


def children(pid: int) -> int:
    return sum(len(task.read_text().split()) for task in Path(f"/proc/{pid}/task").glob("*/children"))


@dataclass(frozen=True)
class Usage:
    """Of one process."""

    descriptors: int
    memory: int
    children: int

    @classmethod
    def of(cls, pid: int) -> Usage:
        return cls(descriptors(pid), memory(pid), children(pid))


def grown(before: dict[int, Usage], memory_limit: int) -> list[str]:
    """Which processes hold more than before, after a moment to let go of it; of memory, more by `memory_limit` bytes."""
    end = time.monotonic() + SETTLE_SECONDS
    while (found := list(_grown(before, memory_limit))) and time.monotonic() < end:
        time.sleep(0.05)
    return found


def _grown(before: dict[int, Usage], memory_limit: int) -> Iterable[str]:
    for pid, old in before.items():
        new = Usage.of(pid)
        if new.descriptors > old.descriptors or new.children > old.children or new.memory > old.memory + memory_limit:
            yield f"{pid} ({Path(f'/proc/{pid}/comm').read_text().strip()}): {old} became {new}"
