"""Handler for events: rows of the GraphDB with sequence numbers, read in order and then as they come.

A reader holds a number, not a queue: a slow one reads the rows later, and when they are no longer kept it is told which are gone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from moorage.server.engine import commands
from moorage.server.engine.job import Job
from moorage.server.graph.graphdb import GraphDB
from moorage.server.model import Event

BATCH = 500


class EventLog:
    """Streams of events."""

    def __init__(self, db: GraphDB) -> None:
        self._db = db

    def last(self, job: Job, command: commands.LastEvent) -> int:
        """Where a stream of what is to come begins."""
        return self._db.last_sequence

    async def stream(self, job: Job, command: commands.Events) -> AsyncIterator[Event]:
        """Past events from where the caller asks, then new ones."""
        loop = asyncio.get_running_loop()
        arrived = asyncio.Event()

        def wake(_: list[Event]) -> None:
            loop.call_soon_threadsafe(arrived.set)

        unsubscribe = self._db.subscribe(wake)
        try:
            position = self._start(command)
            while True:
                arrived.clear()
                for event in self._gap(position):
                    position = int(event.attributes["last"])
                    yield event
                batch = self._db.events(position, BATCH)
                for event in batch:
                    position = event.sequence
                    if command.until_ns and event.time_ns >= command.until_ns:
                        return
                    if _wanted(event, command):
                        yield event
                if not batch and not await _more(arrived, command.until_ns):
                    return
        finally:
            unsubscribe()

    def _start(self, command: commands.Events) -> int:
        if command.after:
            return command.after
        if command.since_ns:
            return self._before(command.since_ns)
        if command.after == 0 or 0 < command.until_ns <= time.time_ns():
            return max(0, self._db.first_sequence - 1)
        return self._db.last_sequence

    def _before(self, time_ns: int) -> int:
        """The last event that is older, looked for from the newest backwards: most ask for what is from now on."""
        first, position = self._db.first_sequence, self._db.last_sequence
        while position >= first:
            page = self._db.events(max(position - BATCH, first - 1), BATCH)
            older = [event.sequence for event in page if event.time_ns < time_ns and event.sequence <= position]
            if older:
                return older[-1]
            position -= BATCH
        return max(0, first - 1)

    def _gap(self, position: int) -> list[Event]:
        """The event that stands for those no longer kept, if the reader's next is one of them."""
        first = self._db.first_sequence
        if position + 1 >= first:
            return []
        lost = {"first": str(position + 1), "last": str(first - 1)}
        return [Event(first - 1, time.time_ns(), "gap", "lost", "", "", lost)]


async def _more(arrived: asyncio.Event, until_ns: int) -> bool:
    """Wait for a commit; False when the time is up."""
    timeout = None if not until_ns else (until_ns - time.time_ns()) / 1e9
    if timeout is not None and timeout <= 0:
        return False
    try:
        await asyncio.wait_for(arrived.wait(), timeout)
    except TimeoutError:
        return False
    return True


def _wanted(event: Event, command: commands.Events) -> bool:
    if event.time_ns < command.since_ns:
        return False
    if command.kinds and event.kind not in command.kinds:
        return False
    if command.actions and event.action not in command.actions:
        return False
    return not command.object or event.name == command.object or event.id.startswith(command.object)
