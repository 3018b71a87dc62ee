"""SSH agents of the client, forwarded to RUN steps: a socket in the step's container, its conversations carried by the build's stream.

    command in the container  <-  socket  ->  Agents  <-  AgentData, either way  ->  client  ->  its agent

What an agent may be asked for is the client's to say; here bytes are passed on, and nothing of them is kept.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PIECE = 1 << 16
MAX_CONNECTIONS = 64
MAX_UNREAD = 1 << 20
"""Bytes of answers that a command may leave unread before its connection is closed."""


@dataclass(frozen=True)
class AgentData:
    """A piece of one connection, from the command or from the agent; `id` names the agent in the first of a connection."""

    connection: int
    id: str = ""
    data: bytes = b""
    end: bool = False


class Agents:
    """The agents of one build, on an event loop. `send` takes what goes to the client, `room` waits until it has caught up."""

    def __init__(
        self, ids: frozenset[str], send: Callable[[AgentData], None], room: Callable[[], Awaitable[None]]
    ) -> None:
        self.ids = ids
        self._send = send
        self._room = room
        self._numbers = itertools.count(1)
        self._writers: dict[int, asyncio.StreamWriter] = {}

    @asynccontextmanager
    async def listen(self, id: str, path: Path, *, mode: int, uid: int, gid: int) -> AsyncIterator[None]:
        """Have a socket at `path` that leads to an agent, until the end of the block."""
        running: set[asyncio.Task[None]] = set()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            running.add(task)
            try:
                await self._serve(id, reader, writer)
            finally:
                running.discard(task)

        server = await asyncio.start_unix_server(connected, sock=_bound(path, mode, uid, gid))
        try:
            yield
        finally:
            server.close()
            for task in running:
                task.cancel()
            if running:
                await asyncio.wait(running)
            await server.wait_closed()

    def take(self, piece: AgentData) -> None:
        """What the client says. Of a connection that has ended, it comes too late."""
        writer = self._writers.get(piece.connection)
        if writer is None or writer.is_closing():
            return
        writer.write(piece.data)
        if piece.end:
            writer.close()
        elif writer.transport.get_write_buffer_size() > MAX_UNREAD:
            writer.transport.abort()

    def close(self) -> None:
        """The client says no more."""
        for writer in self._writers.values():
            writer.close()

    async def _serve(self, id: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = next(self._numbers)
        if len(self._writers) >= MAX_CONNECTIONS:
            writer.close()
            return
        self._writers[number] = writer
        named = id
        try:
            # A command that resets its connection has ended it.
            with suppress(ConnectionError):
                while data := await reader.read(PIECE):
                    await self._room()
                    self._send(AgentData(number, named, data))
                    named = ""
        finally:
            del self._writers[number]
            if not named:
                self._send(AgentData(number, end=True))
            # Whoever does not read by now never will.
            writer.transport.abort()


def _bound(path: Path, mode: int, uid: int, gid: int) -> socket.socket:
    """A listening socket; reached by its directory's descriptor, as a socket's address holds 107 bytes only."""
    server = socket.socket(socket.AF_UNIX)
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        server.bind(f"/proc/self/fd/{directory}/{path.name}")
        os.chown(path, uid, gid)
        path.chmod(mode)
        server.listen()
    except BaseException:
        server.close()
        raise
    finally:
        os.close(directory)
    return server
