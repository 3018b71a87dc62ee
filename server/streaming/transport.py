"""Bytes to and from one peer, with bounds on what waits in between."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Protocol

READ_CHUNK = 32 << 10
HIGH_WATER = 64 << 10
"""Output that waits before data has to."""
CONTROL_LIMIT = 256 << 10
"""Output that waits before control frames have to. They go ahead of that so that a reader who is slow can still be heard."""
CLOSE_SECONDS = 5.0
KEEPALIVE = {socket.TCP_KEEPIDLE: 60, socket.TCP_KEEPINTVL: 15, socket.TCP_KEEPCNT: 4}
ESTABLISHED = 1
"""`tcpi_state`, the first byte of struct tcp_info (tcp(7))."""


class ConnectionLost(Exception):
    """The peer is gone, or was sent away."""


class Transport(Protocol):
    """A connection to one peer."""

    async def read(self) -> bytes:
        """The next bytes; nothing at the end. Raises ConnectionLost."""
        ...

    async def write(self, data: bytes) -> None:
        """Send data; returns when it is little enough that waits. Writers take turns. Raises ConnectionLost."""
        ...

    async def write_control(self, data: bytes) -> None:
        """Send ahead of waiting writers. Raises ConnectionLost."""
        ...

    def gone(self, probe: bytes) -> bool:
        """Whether the peer has hung up, as far as can be told without reading. `probe` is sent if need be, and helps the next call."""
        ...

    async def close(self) -> None:
        """Send what waits, within bounds, and hang up. Never fails."""
        ...


class TcpTransport:
    """A Transport on asyncio's streams, plain or TLS. Owns them."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._turn = asyncio.Lock()
        self._socket = writer.get_extra_info("socket")
        writer.transport.set_write_buffer_limits(high=HIGH_WATER)
        # A peer whose machine died says nothing, and neither may we for hours.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEPALIVE.items():
            self._socket.setsockopt(socket.IPPROTO_TCP, option, value)

    async def read(self) -> bytes:
        try:
            data = await self._reader.read(READ_CHUNK)
        except OSError as error:
            raise ConnectionLost(str(error)) from error
        # asyncio answers from its buffer without a pause, which would let one peer keep the loop from all others.
        await asyncio.sleep(0)
        return data

    async def write(self, data: bytes) -> None:
        async with self._turn:
            await self._send(data)
            await self._drain()

    async def write_control(self, data: bytes) -> None:
        await self._send(data)
        if self._writer.transport.get_write_buffer_size() > CONTROL_LIMIT:
            await self._drain()

    async def _send(self, data: bytes) -> None:
        if self._writer.transport.is_closing():
            raise ConnectionLost("the connection is closed")
        self._writer.write(data)

    async def _drain(self) -> None:
        try:
            await self._writer.drain()
        except OSError as error:
            raise ConnectionLost(str(error)) from error

    def gone(self, probe: bytes) -> bool:
        # While nothing is read the peer's FIN may be stuck behind a full window. Bytes to a socket that is closed bring a reset.
        if self._writer.transport.is_closing():
            return True
        if not self._writer.transport.get_write_buffer_size():
            self._writer.write(probe)
        try:
            state: bytes = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
        except OSError:
            return True
        return state[0] != ESTABLISHED

    async def close(self) -> None:
        self._writer.close()
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                with contextlib.suppress(OSError):
                    await self._writer.wait_closed()
        except TimeoutError:
            self._writer.transport.abort()
        except asyncio.CancelledError:
            self._writer.transport.abort()
            raise
