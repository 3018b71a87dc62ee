"""Bytes between a blocking function on a thread and a stream of the event loop, each waiting for the other."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from moorage.server.cancel import CancelToken
from moorage.server.engine.engine import Lane
from moorage.server.engine.transfers import Blocking
from moorage.server.errors import InvalidArgument

T = TypeVar("T")

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
        _waited(self._queue.put(piece), self._loop, self._cancel)


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
        return _waited(self._take(), self._loop, self._cancel)

    async def _take(self) -> bytes:
        async for piece in self._pieces:
            if piece:
                return piece
        return b""


class Asked:
    """A file of the caller's, whose bytes come when they are asked for: from the beginning, and after a `seek` from there.

    `pieces` are offsets with the bytes there; those that were under way when the question changed are let go. The last bytes are given out
    only when the digest is right; after a `seek` into the middle that is left to whoever takes them. `read` raises InvalidArgument when
    they are not what the digest says, or end too soon.
    """

    def __init__(
        self,
        pieces: AsyncIterator[tuple[int, bytes]],
        ask: Callable[[int], None],
        digest: str,
        size: int,
        loop: asyncio.AbstractEventLoop,
        cancel: CancelToken,
    ) -> None:
        self._pieces, self._ask, self._digest, self._size = pieces, ask, digest, size
        self._loop, self._cancel = loop, cancel
        self._offset, self._rest, self._asked = 0, memoryview(b""), False
        self._hash = self._new_hash()

    def read(self, size: int) -> bytes:
        if not self._asked:
            self._ask(self._offset)
            self._asked = True
        while not self._rest and self._offset < self._size:
            self._cancel.check()
            offset, data = _waited(self._take(), self._loop, self._cancel)
            if offset == self._offset:
                self._rest = memoryview(data)
                self._check()
        data, self._rest = bytes(self._rest[:size]), self._rest[size:]
        self._offset += len(data)
        return data

    def seek(self, offset: int) -> int:
        if offset != self._offset:
            self._offset, self._rest, self._asked = offset, memoryview(b""), False
            self._hash = None if offset else self._new_hash()
        return offset

    def _new_hash(self) -> hashlib._Hash | None:
        return hashlib.new(self._digest.partition(":")[0])

    def _check(self) -> None:
        reached = self._offset + len(self._rest)
        wrong = reached > self._size
        if self._hash is not None:
            self._hash.update(self._rest)
            wrong |= reached == self._size and self._hash.hexdigest() != self._digest.partition(":")[2]
        if wrong:
            message = f"what was sent is not blob {self._digest} of {self._size} bytes"
            raise InvalidArgument(message, reason="WRONG_DIGEST", hint="has the file changed meanwhile?")

    async def _take(self) -> tuple[int, bytes]:
        async for offset, data in self._pieces:
            if data:
                return offset, data
        message = f"what was sent of blob {self._digest} ended after {self._offset} of {self._size} bytes"
        raise InvalidArgument(message, reason="INCOMPLETE")


def _waited(answer: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop, cancel: CancelToken) -> T:
    """What a coroutine of the event loop answers, on another thread."""
    future = asyncio.run_coroutine_threadsafe(answer, loop)
    with cancel.on_cancel(lambda: _stop(future)):
        try:
            return future.result()
        except (asyncio.CancelledError, TimeoutError):
            cancel.check()
            raise


async def _ended(task: asyncio.Future[Any], cancel: CancelToken) -> None:
    """Cancel what still runs, and wait for it; who has left takes no exception."""
    cancel.cancel("the caller hung up")
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()


def _stop(future: Future[Any]) -> None:
    future.cancel()
