"""A Connection in SPDY/3.1 frames, over TCP or tunnelled in WebSocket messages."""

from __future__ import annotations

from moorage.server.streaming import spdy
from moorage.server.streaming.mux import Connection, ProtocolError, Stream, StreamReset
from moorage.server.streaming.transport import Transport

SERVER_PING = 2
"""Even, as all of a server's."""


class SpdyConnection(Connection):
    """The server's side. Accepts each stream at once: a client waits for that before it opens the next."""

    def __init__(self, transport: Transport, received: bytes = b"") -> None:
        """`received` came with the request already."""
        super().__init__(transport)
        self._received = received
        self._decoder = spdy.Decoder()
        self._encoder = spdy.Encoder()
        self._last_stream = 0
        self._going_away = False

    async def _receive(self) -> None:
        data = self._received or await self.transport.read()
        self._received = b""
        while data:
            try:
                for frame in self._decoder.feed(data):
                    await self._handle(frame)
            except spdy.SpdyError as error:
                raise ProtocolError(str(error)) from error
            if self._going_away and not self.streams:
                return
            data = await self.transport.read()

    async def _handle(self, frame: spdy.Frame) -> None:
        match frame:
            case spdy.SynStream():
                await self._open(frame)
            case spdy.Data(data=data, fin=fin):
                if (stream := self._stream(frame.stream)) is not None:
                    await self.deliver(stream, data)
                    if fin:
                        stream.end_input()
            case spdy.Headers(fin=True):
                if (stream := self._stream(frame.stream)) is not None:
                    stream.end_input()
            case spdy.RstStream():
                if (stream := self._stream(frame.stream)) is not None:
                    stream.fail(StreamReset(f"stream {frame.stream} was reset by the peer"))
            case spdy.Ping(id=number):
                if number % 2:
                    await self.transport.write_control(spdy.ping(number))
            case spdy.GoAway():
                self._going_away = True
            case _:
                pass

    def _stream(self, number: int) -> Stream | None:
        """None for one that is over, which the peer may not know yet. Raises ProtocolError for one that it never opened."""
        if number % 2 == 0 or number > self._last_stream:
            raise ProtocolError(f"stream {number} was never opened")
        return self.streams.get(number)

    async def _open(self, frame: spdy.SynStream) -> None:
        if frame.stream % 2 == 0 or frame.stream <= self._last_stream:
            raise ProtocolError(f"stream {frame.stream} follows stream {self._last_stream}")
        self._last_stream = frame.stream
        if self._going_away or self.crowded or not self.accepting:
            await self.transport.write_control(spdy.rst_stream(frame.stream, spdy.Status.REFUSED_STREAM))
            return
        await self.transport.write_control(self._encoder.syn_reply(frame.stream))
        stream = self.opened(frame.stream, frame.headers)
        if frame.fin:
            stream.end_input()

    async def send_data(self, stream: Stream, data: bytes) -> None:
        await self.transport.write(spdy.data_frame(stream.number, data))

    async def send_end(self, stream: Stream) -> None:
        await self.transport.write_control(spdy.data_frame(stream.number, b"", fin=True))

    async def send_reset(self, stream: Stream) -> None:
        await self.transport.write_control(spdy.rst_stream(stream.number, spdy.Status.CANCEL))

    def probe(self) -> bytes:
        return spdy.ping(SERVER_PING)

    async def send_refusal(self) -> None:
        await self.transport.write_control(spdy.go_away(self._last_stream, spdy.GoAwayStatus.PROTOCOL_ERROR))

    async def send_goodbye(self) -> None:
        """Nothing: a SPDY client hangs up when its streams are finished."""
