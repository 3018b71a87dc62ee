"""Bytes between a blocking function on a thread and a stream of the event loop, each waiting for the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import Future
from typing import Any

from moorage.server.cancel import CancelToken
from moorage.server.engine.engine import Lane
from moorage.server.engine.transfers import Blocking

PIECE = 1 << 20
QUEUED = 4
"""Pieces that wait for a slow reader."""


class Outlet:
    """What the function writes to. `write` waits while the reader is behind; it raises once the reader has gone."""

    def __init__(
        self, queue: asyncio.Queue[bytes | None], loop: asyncio.AbstractEventLoop, cancel: CancelToken
    ) -> None:
        self._queue, self._loop, self._cancel = queue, loop, cancel

    def write(self, data: bytes) -> None:
        for start in range(0, len(data), PIECE):
            self._put(data[start : start + PIECE])

    def end(self) -> None:
        """Nothing more comes. Called by `produced`."""
        self._put(None)

    def _put(self, piece: bytes | None) -> None:
        self._cancel.check()
        future = asyncio.run_coroutine_threadsafe(self._queue.put(piece), self._loop)
        with self._cancel.on_cancel(lambda: _stop(future)):
            try:
                future.result()
            except (asyncio.CancelledError, TimeoutError):
                self._cancel.check()
                raise


async def produced(
    engine: Blocking, lane: Lane, produce: Callable[[Outlet, CancelToken], None], job: CancelToken
) -> AsyncGenerator[bytes, None]:
    """What `produce` writes, in pieces; its error is raised at the end. A reader that leaves cancels its token, as the job's end does, and
    waits for it."""
    cancel = CancelToken()
    queue: asyncio.Queue[bytes | None] = asyncio.Queue(QUEUED)
    outlet = Outlet(queue, asyncio.get_running_loop(), cancel)

    def work() -> None:
        try:
            produce(outlet, cancel)
        finally:
            if not cancel.cancelled:
                outlet.end()

    with job.on_cancel(lambda: cancel.cancel("the job was cancelled")):
        task = asyncio.ensure_future(engine.blocking(lane, work))
        try:
            while (piece := await queue.get()) is not None:
                yield piece
            await task
        finally:
            await _ended(task, cancel)


class Inlet:
    """What a function reads from: answers exactly as many bytes as were asked for, unless the end comes first."""

    def __init__(self, pieces: AsyncIterator[bytes], loop: asyncio.AbstractEventLoop, cancel: CancelToken) -> None:
        self._pieces, self._loop, self._cancel = pieces, loop, cancel
        self._rest = bytearray()
        self._ended = False

    def read(self, size: int) -> bytes:
        while len(self._rest) < size and not self._ended:
            piece = self._next()
            self._rest += piece
            self._ended = not piece
        data = bytes(self._rest[:size])
        del self._rest[:size]
        return data

    def _next(self) -> bytes:
        self._cancel.check()
        future = asyncio.run_coroutine_threadsafe(self._take(), self._loop)
        with self._cancel.on_cancel(lambda: _stop(future)):
            try:
                return future.result()
            except (asyncio.CancelledError, TimeoutError):
                self._cancel.check()
                raise

    async def _take(self) -> bytes:
        async for piece in self._pieces:
            if piece:
                return piece
        return b""


async def _ended(task: asyncio.Future[Any], cancel: CancelToken) -> None:
    """Cancel what still runs, and wait for it; who has left takes no exception."""
    cancel.cancel("the caller hung up")
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()


def _stop(future: Future[Any]) -> None:
    future.cancel()
