"""What an engine's processes cost: memory as the kernel shares it out (PSS), and CPU time."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

IDLE_SECONDS = 10


def pss(pids: Iterable[int]) -> int:
    """Bytes: what each process has alone, and its share of what it has with others. One that has ended has none."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
    return total


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time so far of the processes that are there."""
    ticks = 0
    for pid in pids:
        try:
            words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        ticks += int(words[11]) + int(words[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def idle_cpu(pids: Iterable[int], seconds: float = IDLE_SECONDS) -> float:
    """Share of one CPU that the processes use while nobody asks for anything."""
    watched = list(pids)
    before = cpu_seconds(watched)
    time.sleep(seconds)
    return (cpu_seconds(watched) - before) / seconds


def children(pid: int) -> list[int]:
    """`pid` and all below it."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found += [int(child) for child in task.read_text().split()]
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


def with_argument(text: str) -> list[int]:
    """Processes that have `text` in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if text.encode() in line:
                found.append(int(entry.name))
    return found
