"""For every kernel test: it runs as root, and it leaves nothing behind. And daemons to talk to, with an image to run."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterator

import pytest

from tests import leftovers
from tests.daemon import Daemon
from tests.images import build_busybox, push
from tests.registry import LoopbackRegistry

IMAGE = "registry.example/test/busybox:1"


@pytest.fixture(scope="session")
def registry() -> Iterator[LoopbackRegistry]:
    """A registry that holds IMAGE; a daemon with a mirror of registry.example here finds it under its own name."""
    with LoopbackRegistry() as registry:
        push(registry.url, "test/busybox", "1", build_busybox())
        yield registry


@pytest.fixture(scope="session")
def shared_daemon(registry: LoopbackRegistry) -> Iterator[Daemon]:
    with Daemon.temporary({"registry.example": registry.url}) as daemon:
        daemon.warm_up(IMAGE)
        yield daemon


@pytest.fixture
def daemon(shared_daemon: Daemon) -> Iterator[Daemon]:
    """A daemon that has pulled IMAGE and has no containers. It is shared by the run: do not stop it."""
    yield shared_daemon
    shared_daemon.remove_containers()


@pytest.fixture
def own_daemon(registry: LoopbackRegistry) -> Iterator[Daemon]:
    """As `daemon`, but one to kill and start again."""
    with Daemon.temporary({"registry.example": registry.url}) as daemon:
        daemon.cli("pull", IMAGE)
        yield daemon


@pytest.fixture(autouse=True)
def needs_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")


@pytest.fixture(autouse=True)
def nothing_left(needs_root: None) -> Iterator[None]:
    """The test leaves no process, namespace, mount, cgroup, link, nft table, file, socket or descriptor.

    On the host as a whole that can be told only when nobody else's engine runs there; the descriptors are always this process's own.
    """
    before, alone, files = leftovers.take(), not leftovers.foreign(), leftovers.open_files()
    yield
    left = leftovers.settle(before) if alone and not leftovers.foreign() else []
    left += _open_since(files)
    assert not left, "left behind by the test:\n" + "\n".join(left)


def _open_since(before: frozenset[str]) -> list[str]:
    """Descriptors opened since; those of a closing event loop or a collected object have a moment to go."""
    end = time.monotonic() + 2
    while True:
        gc.collect()
        left = sorted(leftovers.open_files() - before)
        if not left or time.monotonic() > end:
            return [f"descriptor: {item}" for item in left if "/proc/" not in item]
        time.sleep(0.05)
