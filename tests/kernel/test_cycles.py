"""Many containers come and go, and nothing of them stays: not on the host, not in the daemon."""

from __future__ import annotations

import pytest

from tests import leftovers
from tests.daemon import Daemon
from tests.usage import Usage, grown

pytestmark = pytest.mark.kernel

IMAGE = "registry.example/test/busybox:1"
WARM_UP = 10
GROWTH_LIMIT = 6 << 20


def cycle(daemon: Daemon) -> None:
    daemon.cli("run", "--rm", "-p", "127.0.0.1::80", "-m", "64m", IMAGE, "true")


@pytest.mark.parametrize(
    "cycles", [10, pytest.param(200, marks=[pytest.mark.soak, pytest.mark.timeout(900)])], ids=["short", "soak"]
)
def test_cycles_of_run_and_remove_leave_nothing(daemon: Daemon, cycles: int) -> None:
    for _ in range(WARM_UP):
        cycle(daemon)
    alone, before = not leftovers.foreign(), leftovers.take()
    held = {daemon.pid: Usage.of(daemon.pid)}
    for _ in range(cycles):
        cycle(daemon)
    assert grown(held, GROWTH_LIMIT) == []
    assert not alone or leftovers.foreign() or leftovers.settle(before) == []
