"""Runs a transfer on a thread and hands on its progress: a reader that goes away, or a job that is cancelled, stops it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from moorage.server.cancel import CancelToken
from moorage.server.engine.engine import Lane
from moorage.server.engine.job import Job

Step = TypeVar("Step")
Result = TypeVar("Result")


class Blocking(Protocol):
    """The part of the engine that runs blocking functions for `async` handlers."""

    async def blocking(self, lane: Lane, function: Callable[..., Any], *args: Any) -> Any:
        """Run a blocking function on a lane's threads."""
        ...


@dataclass(frozen=True)
class Ended(Generic[Result]):
    """What a transfer came to."""

    result: Result


async def transfer(
    engine: Blocking,
    job: Job,
    work: Callable[[Callable[[Step], None], CancelToken], Result],
    lane: Lane = Lane.TRANSFER,
) -> AsyncIterator[Step | Ended[Result]]:
    """The steps of `work`, as it tells them, and its result at last. Raises what it raises, once it has ended."""
    loop = asyncio.get_running_loop()
    steps: asyncio.Queue[Step | None] = asyncio.Queue()
    cancel = CancelToken()

    def tell(step: Step | None) -> None:
        loop.call_soon_threadsafe(steps.put_nowait, step)

    def run() -> Result:
        try:
            return work(tell, cancel)
        finally:
            tell(None)

    with job.cancel.on_cancel(lambda: cancel.cancel(f"the {job.verb} was cancelled")):
        task = loop.create_task(engine.blocking(lane, run))
        try:
            while (step := await steps.get()) is not None:
                yield step
            yield Ended(await task)
        finally:
            cancel.cancel("the caller hung up")
            await asyncio.wait({task})
            if not task.cancelled():
                task.exception()
