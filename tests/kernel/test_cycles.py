"""Many containers come and go, and nothing of them stays: not on the host, not in the daemon."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests import leftovers
from tests.daemon import Daemon

pytestmark = pytest.mark.kernel

IMAGE = "registry.example/test/busybox:1"
WARM_UP = 10
GROWTH_LIMIT = 6 << 20


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def memory(pid: int) -> int:
    """Private bytes in use."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(("Private_Dirty:", "Private_Clean:")))


def children(pid: int) -> int:
    return sum(len(task.read_text().split()) for task in Path(f"/proc/{pid}/task").glob("*/children"))


def settled(count: int, pid: int) -> int:
    """The daemon's descriptors, once they are down to `count` or a moment has passed."""
    end = time.monotonic() + 5
    while descriptors(pid) > count and time.monotonic() < end:
        time.sleep(0.05)
    return descriptors(pid)


def cycle(daemon: Daemon) -> None:
    daemon.cli("run", "--rm", "-p", "127.0.0.1::80", "-m", "64m", IMAGE, "true")


@pytest.mark.parametrize(
    "cycles", [30, pytest.param(200, marks=[pytest.mark.soak, pytest.mark.timeout(900)])], ids=["short", "soak"]
)
def test_cycles_of_run_and_remove_leave_nothing(daemon: Daemon, cycles: int) -> None:
    for _ in range(WARM_UP):
        cycle(daemon)
    alone, before = not leftovers.foreign(), leftovers.take()
    files, bytes_used, processes = descriptors(daemon.pid), memory(daemon.pid), children(daemon.pid)
    for _ in range(cycles):
        cycle(daemon)
    assert settled(files, daemon.pid) <= files
    assert children(daemon.pid) <= processes
    assert memory(daemon.pid) - bytes_used < GROWTH_LIMIT
    assert not alone or leftovers.foreign() or leftovers.settle(before) == []
