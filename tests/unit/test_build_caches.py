"""Directories of cache mounts, and who has them at one time."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from moorage.server.builder.caches import Caches
from moorage.server.builder.runmounts import RunMount


@pytest.fixture
def caches(tmp_path: Path) -> Caches:
    unused: Any = None
    return Caches(tmp_path, unused)


def mount(sharing: Any, id: str = "c") -> RunMount:
    return RunMount("cache", f"/{id}", id=id, sharing=sharing, mode=0o750)


async def test_shared_is_one_directory_for_all_at_once(caches: Caches) -> None:
    async with caches.use([mount("shared")]) as (first,), caches.use([mount("shared")]) as (second,):
        assert first == second
        assert first.stat().st_mode & 0o7777 == 0o750
    async with caches.use([mount("shared", "other")]) as (other,):
        assert other != first


async def test_private_is_another_directory_while_somebody_has_it(caches: Caches) -> None:
    async with caches.use([mount("private")]) as (first,):
        async with caches.use([mount("private")]) as (second,):
            assert first != second
        async with caches.use([mount("private")]) as (again,):
            assert again == second
    async with caches.use([mount("private")]) as (later,), caches.use([mount("shared")]) as (shared,):
        assert later == first == shared


async def test_private_twice_in_one_run_is_one_directory(caches: Caches) -> None:
    async with caches.use([mount("private"), mount("private")]) as (first, second):
        assert first == second


async def test_locked_waits_until_it_is_free(caches: Caches) -> None:
    told: list[str] = []

    async def use(name: str, entered: asyncio.Event, leave: asyncio.Event) -> None:
        async with caches.use([mount("locked")]):
            told.append(name)
            entered.set()
            await leave.wait()
            told.append(f"{name} leaves")

    inside, leave = asyncio.Event(), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(use("first", inside, leave))
        await inside.wait()
        group.create_task(use("second", asyncio.Event(), leave))
        async with caches.use([mount("shared")]):  # is not kept waiting
            leave.set()
    assert told == ["first", "first leaves", "second", "second leaves"]


async def test_two_that_lock_the_same_two_do_not_wait_for_each_other(caches: Caches) -> None:
    async def use(*ids: str) -> None:
        async with caches.use([mount("locked", id) for id in ids]):
            await asyncio.sleep(0)

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for _ in range(20):
            group.create_task(use("a", "b"))
            group.create_task(use("b", "a", "b"))


async def test_what_two_fill_at_once_is_filled_by_one_and_a_failure_leaves_nothing(
    caches: Caches, tmp_path: Path
) -> None:
    filling = asyncio.Barrier(2)

    async def fill(number: int, directory: Path) -> None:
        (directory / "f").write_text("begun")
        await filling.wait()

    async def use() -> Path:
        async with caches.use([mount("shared")], fill) as (path,):
            assert (path / "f").read_text() == "begun"
            return path

    async with asyncio.TaskGroup() as group:
        one, other = group.create_task(use()), group.create_task(use())
    assert one.result() == other.result()

    async def fail(number: int, directory: Path) -> None:
        (directory / "half").touch()
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        async with caches.use([mount("shared", "other")], fail):
            pass
    assert list(tmp_path.iterdir()) == [one.result()]
    # What a daemon that was killed had begun.
    (tmp_path / "left.new").mkdir()
    unused: Any = None
    Caches(tmp_path, unused)
    assert list(tmp_path.iterdir()) == [one.result()]
