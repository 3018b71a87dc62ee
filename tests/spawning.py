"""A spawner for tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from moorage.server.execdriver.spawner_client import SpawnerClient


@contextmanager
def running_spawner() -> Iterator[SpawnerClient]:
    """A spawner that has begun to answer: what it is called and has open stays as it is."""
    spawner = SpawnerClient()
    try:
        spawner.run_task("echo", {})
        yield spawner
    finally:
        spawner.close()
