"""Several streams over one connection, whatever the framing: what exec, attach and port-forward are written against."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Mapping

from moorage.server.streaming.transport import READ_CHUNK, ConnectionLost, Transport

WRITE_CHUNK = 32 << 10
"""Bytes of a frame, so that streams take turns."""
STREAM_INPUT = 1 << 20
"""Bytes a stream may hold that its reader has not taken. Beyond them the connection is read no further: there is no flow control."""
CONNECTION_INPUT = 8 << 20
"""The same for all streams of a connection together."""
MAX_STREAMS = 1024
"""Streams of a connection at the same time."""
GONE_CHECK_SECONDS = 5.0


class ProtocolError(Exception):
    """The peer breaks the protocol: the connection is closed."""


class StreamReset(Exception):
    """The peer ended this stream at once, in both directions."""


class Stream:
    """One stream. `headers` came with it. It is over when both sides have finished, or one has reset it."""

    def __init__(self, connection: Connection, number: int, headers: Mapping[str, str]) -> None:
        self.number = number
        self.headers = headers
        self._connection = connection
        self._input = bytearray()
        self._ready = asyncio.Event()
        self._ended = False
        self._deaf = False
        self._finished = False
        self._failure: Exception | None = None

    async def read(self) -> bytes:
        """The next bytes; nothing at the end. One reader. Raises StreamReset, ConnectionLost."""
        while not (self._input or self._ended or self._failure is not None):
            self._ready.clear()
            await self._ready.wait()
        if self._input:
            data = bytes(self._input[:READ_CHUNK])
            del self._input[: len(data)]
            self._connection.account(-len(data))
            return data
        if self._failure is not None:
            raise self._failure
        return b""

    async def write(self, data: bytes) -> None:
        """Send; nothing once finished. Raises StreamReset, ConnectionLost."""
        for start in range(0, len(data), WRITE_CHUNK):
            self._check()
            if not self._finished:
                await self._connection.send_data(self, data[start : start + WRITE_CHUNK])

    async def finish(self) -> None:
        """Nothing more will be written. Raises ConnectionLost."""
        if not self._finished and self._failure is None:
            self._finished = True
            await self._connection.send_end(self)
            self._connection.release(self)

    async def reset(self) -> None:
        """End it in both directions; what came in is dropped. Raises ConnectionLost."""
        over = self.over
        self.ignore_input()
        if not over:
            self._failure = StreamReset(f"stream {self.number} was reset here")
            self._ready.set()
            self._connection.release(self)
            await self._connection.send_reset(self)

    def ignore_input(self) -> None:
        """Nobody will read: what came and what comes is dropped."""
        self._deaf = True
        self._connection.account(-len(self._input))
        self._input.clear()

    @property
    def over(self) -> bool:
        return self._failure is not None or (self._ended and self._finished)

    @property
    def full(self) -> bool:
        return len(self._input) > STREAM_INPUT

    def put(self, data: bytes) -> None:
        """Bytes came (for Connection)."""
        if data and not self._deaf and not self._ended and self._failure is None:
            self._input += data
            self._connection.account(len(data))
            self._ready.set()

    def end_input(self) -> None:
        """The peer has finished (for Connection)."""
        self._ended = True
        self._ready.set()
        self._connection.release(self)

    def fail(self, failure: Exception) -> None:
        """The peer has reset it, or is gone (for Connection). What came before can still be read."""
        if self._failure is None:
            self._failure = failure
        self._ready.set()
        self._connection.release(self)

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure


class Connection(ABC):
    """Streams over a transport. `run` reads; the rest can be called meanwhile."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.streams: dict[int, Stream] = {}
        self.accepting = True
        self._accepted: asyncio.Queue[Stream | None] = asyncio.Queue()
        self._input = 0
        self._room = asyncio.Event()

    async def run(self) -> None:
        """Read until the peer is gone or breaks the protocol; then every stream fails."""
        failure = ConnectionLost("the peer has hung up")
        try:
            await self._receive()
        except (ConnectionLost, ProtocolError) as error:
            failure = ConnectionLost(str(error))
            if isinstance(error, ProtocolError):
                with contextlib.suppress(ConnectionLost):
                    await self.send_refusal()
                raise
        finally:
            for stream in list(self.streams.values()):
                stream.fail(failure)
            self._accepted.put_nowait(None)

    async def accept(self) -> Stream:
        """The next stream that the peer opened. Raises ConnectionLost."""
        stream = await self._accepted.get()
        if stream is None:
            self._accepted.put_nowait(None)
            raise ConnectionLost("the peer has hung up")
        return stream

    def refuse_more(self) -> None:
        """From now on nobody accepts streams: those that come are refused."""
        self.accepting = False

    @property
    def crowded(self) -> bool:
        """Whether the peer has opened all the streams that it may, or faster than they are accepted."""
        return len(self.streams) >= MAX_STREAMS or self._accepted.qsize() >= MAX_STREAMS

    def opened(self, number: int, headers: Mapping[str, str]) -> Stream:
        """A stream to accept."""
        stream = self.streams[number] = Stream(self, number, headers)
        self._accepted.put_nowait(stream)
        return stream

    async def deliver(self, stream: Stream, data: bytes) -> None:
        """Hand in what came for a stream, and wait until it may hold more. Raises ConnectionLost."""
        stream.put(data)
        while stream.full or self._input > CONNECTION_INPUT:
            self._room.clear()
            try:
                async with asyncio.timeout(GONE_CHECK_SECONDS):
                    await self._room.wait()
            except TimeoutError:
                # Nothing is read now, so nobody else would notice that the peer is gone.
                if self.transport.gone(self.probe()):
                    raise ConnectionLost("the peer has hung up") from None

    def account(self, size: int) -> None:
        """A stream's input grew or shrank."""
        self._input += size
        if size < 0:
            self._room.set()

    def release(self, stream: Stream) -> None:
        """Forget a stream once it is over."""
        if stream.over and self.streams.get(stream.number) is stream:
            del self.streams[stream.number]

    @abstractmethod
    async def _receive(self) -> None:
        """Read and dispatch until the end. Raises ConnectionLost, ProtocolError."""

    @abstractmethod
    async def send_data(self, stream: Stream, data: bytes) -> None:
        """Send a stream's bytes."""

    @abstractmethod
    async def send_end(self, stream: Stream) -> None:
        """Tell that a stream is finished."""

    @abstractmethod
    async def send_reset(self, stream: Stream) -> None:
        """Tell that a stream is reset."""

    @abstractmethod
    def probe(self) -> bytes:
        """A ping that means nothing to a peer that lives."""

    @abstractmethod
    async def send_refusal(self) -> None:
        """Tell the peer that it broke the protocol."""

    @abstractmethod
    async def send_goodbye(self) -> None:
        """Tell the peer that all is said, so that it hangs up."""
