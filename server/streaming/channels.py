"""A Connection in WebSocket messages whose first byte is the number of a channel: `channel.k8s.io` and its versions."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable

from wsproto.frame_protocol import CloseReason

from moorage.server.streaming.mux import Connection, ProtocolError, Stream
from moorage.server.streaming.remotecommand import CommandStreams, serve_command, wanted_streams
from moorage.server.streaming.requests import OpenCommand
from moorage.server.streaming.websocket import WebSocket

CLOSE_SIGNAL = 255
"""From v5 on: the message that says that the channel named by its second byte is finished."""
CLOSE_SIGNAL_FROM = 5

COMMAND_PROTOCOLS = {
    "v5.channel.k8s.io": 5,
    "v4.channel.k8s.io": 4,
    "v3.channel.k8s.io": 3,
    "v2.channel.k8s.io": 2,
    "channel.k8s.io": 1,
    "v4.base64.channel.k8s.io": 4,
    "base64.channel.k8s.io": 1,
}
PORTFORWARD_PROTOCOLS = {"v4.channel.k8s.io": 4, "v4.base64.channel.k8s.io": 4}
COMMAND_CHANNELS = {"stdin": 0, "stdout": 1, "stderr": 2, "error": 3, "resize": 4}


class ChannelConnection(Connection):
    """The server's side. The channels exist from the start; what comes for others is dropped."""

    def __init__(self, websocket: WebSocket, protocol: str, version: int, channels: Iterable[int]) -> None:
        super().__init__(websocket.transport)
        self._websocket = websocket
        self._base64 = "base64" in protocol
        self._close_signal = version >= CLOSE_SIGNAL_FROM
        self.channels = {number: self.opened(number, {}) for number in channels}

    async def _receive(self) -> None:
        message = _Message(self._base64)
        async for part, last in self._websocket.parts():
            data = message.add(part, last)
            if self._close_signal and message.channel == CLOSE_SIGNAL:
                if data and (stream := self.streams.get(data[0])) is not None:
                    stream.end_input()
            elif (stream := self.streams.get(message.channel)) is not None:
                await self.deliver(stream, data)
            if last:
                message = _Message(self._base64)

    async def send_data(self, stream: Stream, data: bytes) -> None:
        if self._base64:
            await self._websocket.send(f"{stream.number}{base64.b64encode(data).decode()}")
        else:
            await self._websocket.send(bytes((stream.number,)) + data)

    async def send_end(self, stream: Stream) -> None:
        """Nothing: all channels to a client end together, with the connection."""

    async def send_reset(self, stream: Stream) -> None:
        """Nothing: there is no word for it."""

    def probe(self) -> bytes:
        return self._websocket.ping()

    async def send_refusal(self) -> None:
        await self._websocket.send_close(CloseReason.PROTOCOL_ERROR)

    async def send_goodbye(self) -> None:
        await self._websocket.send_close(CloseReason.NORMAL_CLOSURE)


class _Message:
    """A message as its parts come. `channel` is -1 until it is known."""

    def __init__(self, is_base64: bool) -> None:
        self.channel = -1
        self._base64 = is_base64
        self._left = b""

    def add(self, part: bytes | str, last: bool) -> bytes:
        """The bytes for the channel in this part. Raises ProtocolError."""
        data = part.encode() if isinstance(part, str) else bytes(part)
        if data and self.channel < 0:
            self.channel = data[0] - ord("0") if self._base64 else data[0]
            data = data[1:]
        return self._decode(data, last) if self._base64 else data

    def _decode(self, data: bytes, last: bool) -> bytes:
        data = self._left + data
        whole = len(data) if last else len(data) // 4 * 4
        self._left = data[whole:]
        try:
            return base64.b64decode(data[:whole], validate=True)
        except binascii.Error as error:
            raise ProtocolError(f"not base64: {error}") from error


async def serve_channel_command(connection: ChannelConnection, request: OpenCommand, version: int) -> None:
    """Exec or attach over the channels. Raises ConnectionLost."""
    wanted = wanted_streams(request, version)
    streams = {name: connection.channels[COMMAND_CHANNELS[name]] for name in wanted}
    # An empty message tells clients of old that the connection stands.
    first = next(name for name in ("stdout", "stderr", "error") if name in wanted)
    await connection.send_data(streams[first], b"")
    await serve_command(connection, CommandStreams(**streams), request, version)


def command_channels(request: OpenCommand, version: int) -> list[int]:
    """Numbers of the channels that a client uses for this."""
    return [COMMAND_CHANNELS[name] for name in wanted_streams(request, version)]
