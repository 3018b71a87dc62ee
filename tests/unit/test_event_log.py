"""Streams of events: where they begin, and what a slow reader holds and is told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any, cast

import pytest

from moorage.server.engine import commands, events
from moorage.server.engine.events import EventLog
from moorage.server.graph.graphdb import GraphDB
from moorage.server.model import Event

JOB = cast(Any, None)
LIMIT = 5000


@pytest.fixture
def db(tmp_path: Path) -> Iterator[GraphDB]:
    with closing(GraphDB(tmp_path / "graph.db", event_limit=LIMIT)) as db:
        yield db


@pytest.fixture
def pages(db: GraphDB, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many events each reading of the database gave."""
    read, found = db.events, []

    def counted(after: int, limit: int) -> list[Event]:
        page = read(after, limit)
        found.append(len(page))
        return page

    monkeypatch.setattr(db, "events", counted)
    return found


def happen(db: GraphDB, count: int) -> None:
    with db.transaction() as tx:
        for number in range(count):
            tx.event("container", "start", f"c{number}", "")


async def take(log: EventLog, command: commands.Events, count: int, meanwhile: Any = None) -> list[Event]:
    """The next events of a stream; `meanwhile` is called when it has begun to wait."""
    async with aclosing(cast(AsyncGenerator[Event, None], log.stream(JOB, command))) as stream:
        first = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        if meanwhile is not None:
            meanwhile()
        return [await first, *[await anext(stream) for _ in range(count - 1)]]


def test_who_asks_for_what_is_to_come_does_not_read_what_has_been(db: GraphDB, pages: list[int]) -> None:
    happen(db, 4000)
    command = commands.Events(since_ns=time.time_ns())
    found = asyncio.run(take(EventLog(db), command, 2, lambda: happen(db, 2)))
    assert [event.sequence for event in found] == [4001, 4002]
    assert sum(pages) <= events.BATCH + 2


@pytest.mark.parametrize("before", [0, 1, 499, 500, 501, 1499, 3999])
def test_a_time_in_the_past_is_found_whatever_page_it_is_on(db: GraphDB, before: int) -> None:
    happen(db, before)
    time.sleep(0.001)
    since = time.time_ns()
    happen(db, 4000 - before)
    found = asyncio.run(take(EventLog(db), commands.Events(since_ns=since), 1))
    assert found[0].sequence == before + 1


@pytest.mark.parametrize("before", [0, 10])
def test_a_slow_reader_holds_a_page_and_is_told_what_it_missed(db: GraphDB, pages: list[int], before: int) -> None:
    happen(db, before)

    def much() -> None:
        for _ in range(4):
            happen(db, LIMIT)

    found = asyncio.run(take(EventLog(db), commands.Events(after=before), LIMIT + 1, much))
    gap, *rest = found
    assert (gap.kind, gap.attributes) == ("gap", {"first": str(before + 1), "last": str(3 * LIMIT + before)})
    assert [event.sequence for event in rest] == list(range(3 * LIMIT + before + 1, 4 * LIMIT + before + 1))
    assert max(pages) <= events.BATCH


def test_all_that_is_kept_begins_without_a_gap(db: GraphDB) -> None:
    happen(db, LIMIT)
    happen(db, LIMIT)
    found = asyncio.run(take(EventLog(db), commands.Events(after=0), LIMIT))
    assert [event.sequence for event in found] == list(range(LIMIT + 1, 2 * LIMIT + 1))
