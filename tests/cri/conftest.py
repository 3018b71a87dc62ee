"""For every CRI test: a daemon that it speaks to as a kubelet does, and nothing left behind. Fixtures are those of the kernel tests."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.criclient import RUNTIMES, Cri
from tests.daemon import Daemon
from tests.kernel.conftest import IMAGE, needs_root, nothing_left, registry
from tests.registry import LoopbackRegistry

__all__ = ["needs_root", "nothing_left", "registry"]


@pytest.fixture(scope="session")
def shared_daemon(registry: LoopbackRegistry) -> Iterator[Daemon]:
    with Daemon.temporary({"registry.example": registry.url}, settings=RUNTIMES) as daemon:
        daemon.warm_up(IMAGE)
        yield daemon


@pytest.fixture(scope="session")
def shared_cri(shared_daemon: Daemon) -> Iterator[Cri]:
    with tempfile.TemporaryDirectory(prefix="moorage-logs-") as logs:
        cri = Cri(shared_daemon.url, IMAGE, Path(logs))
        yield cri
        cri.close()


@pytest.fixture
def cri(shared_cri: Cri) -> Iterator[Cri]:
    """A daemon that has pulled IMAGE and has no pods. It is shared by the run: do not stop it."""
    yield shared_cri
    shared_cri.clear()


@pytest.fixture
def own_daemon(registry: LoopbackRegistry) -> Iterator[Daemon]:
    """A daemon to kill and start again, which has pulled IMAGE."""
    with Daemon.temporary({"registry.example": registry.url}, settings=RUNTIMES) as daemon:
        daemon.cli("pull", IMAGE)
        yield daemon
