"""A box with the exec driver `native` in it, for tests of the driver and its processes."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from moorage.server.execdriver.base import Pod
from moorage.server.execdriver.native import NativeDriver
from moorage.server.execdriver.spawner_client import SpawnerClient
from tests.contract.execbox import Box


def ready_spawner(patience: float) -> SpawnerClient:
    """A spawner with a spare that waits, so that the first pod's first container is started in what was forked ahead."""
    client = SpawnerClient(spares=1, patience=patience)
    client.start()
    deadline = time.monotonic() + 10
    while not any(children(spare) for keeper in keepers(client.pid) for spare in children(keeper)):
        assert time.monotonic() < deadline, "no spare was made"
        time.sleep(0.005)
    return client


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def keepers(spawner: int) -> list[int]:
    return [keeper for server in children(spawner) for keeper in children(server)]


class NativeBox(Box):
    """A Box whose driver and spawner can be replaced, as when the daemon starts again."""

    driver: NativeDriver

    def __init__(self, directory: Path, patience: float) -> None:
        self.patience = patience
        self.spawner = ready_spawner(patience)
        # Longer than sun_path has room for.
        self.state = directory / ("long" * 30)
        super().__init__(NativeDriver(self.state, self.spawner), directory)

    async def daemon_dies(self) -> None:
        await self.driver.close()
        self.spawner.close()

    async def daemon_starts(self) -> None:
        self.exits.clear()
        self.spawner = ready_spawner(self.patience)
        self.driver = NativeDriver(self.state, self.spawner)
        await self.open()

    async def close(self) -> None:
        await super().close()
        self.spawner.close()


@pytest.fixture(params=[pytest.param(60.0, id="supervised"), pytest.param(0.0, id="kept", marks=pytest.mark.slow)])
async def box(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[NativeBox]:
    """Pods stay with the supervisor that set them up, or go to their keepers as soon as they are quiet."""
    box = NativeBox(tmp_path, request.param)
    await box.open()
    yield box
    await box.close()


def title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode()
    except FileNotFoundError:
        return ""


def supervisor(pod: Pod) -> int:
    """The process that looks after a pod now: its keeper, or a fork of that."""
    return next((child for child in children(pod.pid) if title(child).startswith("moorage-supervisor")), pod.pid)
