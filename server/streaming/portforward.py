"""Port-forward: connections to a pod's ports, each as a pair of streams for data and errors."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass, field

from moorage.server.errors import InvalidArgument, MoorageError
from moorage.server.streaming.mux import Connection, Stream, StreamReset
from moorage.server.streaming.requests import OpenPortForward
from moorage.server.streaming.transport import ConnectionLost

log = logging.getLogger(__name__)

PAIR_SECONDS = 30.0
"""How long a client may take to open the second stream of a pair."""
DIAL_SECONDS = 30.0
HALF_CLOSED_SECONDS = 30.0
"""How long a client may go on sending to a pod that has finished."""
CLOSE_SECONDS = 5.0
MAX_PAIRS = 512
NO_LINGER = struct.pack("ii", 1, 0)
"""struct linger (socket(7)): close with a reset."""
READ_CHUNK = 32 << 10


@dataclass
class Pair:
    """The streams of one forwarded connection."""

    streams: dict[str, Stream] = field(default_factory=dict)
    complete: asyncio.Event = field(default_factory=asyncio.Event)


class SpdyPortForward:
    """Pairs of streams that a client opens as it needs them, matched by the header `requestid`."""

    def __init__(self, connection: Connection, request: OpenPortForward) -> None:
        self._connection = connection
        self._request = request
        self._pairs: dict[str, Pair] = {}
        self._active = 0

    async def serve(self) -> None:
        """Until the connection is lost."""
        async with asyncio.TaskGroup() as tasks:
            try:
                while True:
                    await self._accept(await self._connection.accept(), tasks)
            except ConnectionLost:
                return

    async def _accept(self, stream: Stream, tasks: asyncio.TaskGroup) -> None:
        kind = stream.headers.get("streamtype", "")
        request_id = _request_id(stream, kind)
        pair = self._pairs.get(request_id)
        if kind not in ("data", "error") or (pair is not None and kind in pair.streams):
            await stream.reset()
        elif pair is not None:
            pair.streams[kind] = stream
            pair.complete.set()
        elif self._active >= MAX_PAIRS:
            await stream.reset()
        else:
            pair = self._pairs[request_id] = Pair({kind: stream})
            self._active += 1
            tasks.create_task(self._serve_pair(request_id, pair))

    async def _serve_pair(self, request_id: str, pair: Pair) -> None:
        try:
            try:
                async with asyncio.timeout(PAIR_SECONDS):
                    await pair.complete.wait()
            finally:
                del self._pairs[request_id]
            await forward(pair.streams["data"], pair.streams["error"], self._request)
        except TimeoutError:
            for stream in pair.streams.values():
                await _let_go(stream)
        except ConnectionLost:
            return
        finally:
            self._active -= 1


def _request_id(stream: Stream, kind: str) -> str:
    """Clients of old send none: their data stream is opened right after the error stream, so its number is 2 more."""
    given = stream.headers.get("requestid")
    return given if given else f"#{stream.number - (2 if kind == 'data' else 0)}"


async def forward(data: Stream, errors: Stream, request: OpenPortForward, port: int | None = None) -> None:
    """One connection, from dialling to its end. Without `port` it is in the streams' headers. Raises ConnectionLost."""
    errors.ignore_input()
    try:
        try:
            wanted = _port(data, request) if port is None else port
            async with asyncio.timeout(DIAL_SECONDS):
                reader, writer = await request.dial(wanted)
        except Exception as error:
            with suppress(StreamReset):
                await errors.write(f"cannot forward port {data.headers.get('port', port)}: {_cause(error)}".encode())
            await errors.finish()
        else:
            await _carry(data, errors, reader, writer)
    finally:
        await _let_go(data)
        await _let_go(errors)


def _cause(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, MoorageError):
        return error.message
    if isinstance(error, OSError):
        return (error.strerror or str(error)).lower()
    log.error("cannot dial a pod's port", exc_info=error)
    return "internal error"


async def _let_go(stream: Stream) -> None:
    with suppress(ConnectionLost):
        await stream.reset()


def _port(stream: Stream, request: OpenPortForward) -> int:
    text = stream.headers.get("port", "")
    port = int(text) if text.isascii() and text.isdigit() and len(text) <= 5 else 0
    if not 0 < port <= 0xFFFF:
        raise InvalidArgument("not a port")
    if request.ports and port not in request.ports:
        raise InvalidArgument("the port was not asked for")
    return port


async def _carry(data: Stream, errors: Stream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Both directions, each with an end of its own; the first that fails ends both."""
    upward = asyncio.create_task(_to_pod(data, writer))
    downward = asyncio.create_task(_to_client(data, errors, reader))
    try:
        await asyncio.wait((upward, downward), return_when=asyncio.FIRST_COMPLETED)
        if _succeeded(upward):
            await asyncio.wait((downward,))
        elif _succeeded(downward):
            await asyncio.wait((upward,), timeout=HALF_CLOSED_SECONDS)
    finally:
        if not _succeeded(upward) and not _succeeded(downward):
            _reset(writer)
        await _end(upward, downward, writer)
    await errors.finish()


async def _end(upward: asyncio.Task[None], downward: asyncio.Task[None], writer: asyncio.StreamWriter) -> None:
    """Stop both directions and hang up on the pod. Whoever cancels this as well still leaves nothing open."""
    try:
        upward.cancel()
        downward.cancel()
        for result in await asyncio.gather(upward, downward, return_exceptions=True):
            if isinstance(result, Exception) and not isinstance(result, (OSError, StreamReset, ConnectionLost)):
                log.error("a forwarded connection failed", exc_info=result)
        writer.close()
        with suppress(OSError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await writer.wait_closed()
    finally:
        writer.transport.abort()


def _succeeded(task: asyncio.Task[None]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None


def _reset(writer: asyncio.StreamWriter) -> None:
    """Neither side has said all: a reset tells the pod that something is missing."""
    connection = writer.get_extra_info("socket")
    if connection is not None:
        with suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
    writer.transport.abort()


async def _to_pod(data: Stream, writer: asyncio.StreamWriter) -> None:
    while received := await data.read():
        writer.write(received)
        await writer.drain()
    writer.write_eof()


async def _to_client(data: Stream, errors: Stream, reader: asyncio.StreamReader) -> None:
    """The error stream ends with the data: that is what clients wait for before they finish theirs."""
    while received := await reader.read(READ_CHUNK):
        await data.write(received)
    await data.finish()
    await errors.finish()
