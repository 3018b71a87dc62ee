"""WebSocket (RFC 6455) without extensions: messages in parts as they come, and a tunnel of bytes in them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import suppress
from http import HTTPStatus

from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Message, Ping, TextMessage
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from moorage.server.streaming.handshake import Refusal, Request
from moorage.server.streaming.mux import ProtocolError
from moorage.server.streaming.transport import ConnectionLost, Transport

Part = tuple[bytes | str, bool]
"""Part of a message, binary or text, and whether it is the last."""


class WebSocket:
    """The server's side of one."""

    def __init__(self, transport: Transport, request: Request) -> None:
        """Raises Refusal if the request does not ask for a WebSocket as it should."""
        self.transport = transport
        self._rest = request.rest
        self._protocol = WSConnection(ConnectionType.SERVER)
        try:
            if request.method != "GET":
                raise RemoteProtocolError("method must be GET")
            self._protocol.initiate_upgrade_connection(list(request.headers), request.target)
        except (RemoteProtocolError, LocalProtocolError) as error:
            raise Refusal(HTTPStatus.BAD_REQUEST, f"not a websocket request: {error}") from error

    async def accept(self, subprotocol: str) -> None:
        """Answer the request. Raises Refusal, ConnectionLost."""
        try:
            response = self._protocol.send(AcceptConnection(subprotocol=subprotocol))
        except LocalProtocolError as error:
            raise Refusal(HTTPStatus.BAD_REQUEST, f"not a websocket request: {error}") from error
        await self.transport.write(response)

    async def parts(self) -> AsyncGenerator[Part, None]:
        """What comes, until the peer closes. Pings are answered. Raises ProtocolError, ConnectionLost."""
        data = self._rest or await self.transport.read()
        self._rest = b""
        try:
            while data:
                self._protocol.receive_data(data)
                for event in self._protocol.events():
                    if isinstance(event, Message):
                        yield event.data, event.message_finished
                    elif isinstance(event, Ping) and self._open:
                        await self.transport.write_control(self._protocol.send(event.response()))
                    elif isinstance(event, CloseConnection):
                        await self._answer_close(event)
                        return
                data = await self.transport.read()
        except RemoteProtocolError as error:
            raise ProtocolError(str(error)) from error
        raise ConnectionLost("the peer has hung up")

    async def _answer_close(self, event: CloseConnection) -> None:
        if self._protocol.state is ConnectionState.REMOTE_CLOSING:
            with suppress(ConnectionLost):
                await self.transport.write_control(self._protocol.send(event.response()))

    @property
    def _open(self) -> bool:
        return self._protocol.state is ConnectionState.OPEN

    async def send(self, data: bytes | str) -> None:
        """One message, binary or text. Raises ConnectionLost."""
        if not self._open:
            raise ConnectionLost("the websocket is closed")
        event = TextMessage(data) if isinstance(data, str) else BytesMessage(data)
        await self.transport.write(self._protocol.send(event))

    async def send_control(self, data: bytes) -> None:
        """One binary message ahead of waiting ones. Raises ConnectionLost."""
        if not self._open:
            raise ConnectionLost("the websocket is closed")
        await self.transport.write_control(self._protocol.send(BytesMessage(data)))

    def ping(self) -> bytes:
        """A ping frame, or nothing once closing."""
        return self._protocol.send(Ping()) if self._open else b""

    async def send_close(self, reason: CloseReason) -> None:
        """Say that nothing more will be sent. The peer answers, and hangs up. Raises ConnectionLost."""
        if self._open:
            await self.transport.write_control(self._protocol.send(CloseConnection(code=reason)))


class Tunnel:
    """A Transport of which the bytes travel in binary messages, cut anywhere."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket
        self._parts = websocket.parts()

    async def read(self) -> bytes:
        async for data, _last in self._parts:
            if isinstance(data, str):
                raise ProtocolError("a text message in a tunnel")
            if data:
                return bytes(data)
        return b""

    async def write(self, data: bytes) -> None:
        await self._websocket.send(data)

    async def write_control(self, data: bytes) -> None:
        await self._websocket.send_control(data)

    def gone(self, probe: bytes) -> bool:
        return self._websocket.transport.gone(self._websocket.ping())

    async def close(self) -> None:
        await self._parts.aclose()
        with suppress(ConnectionLost):
            await self._websocket.send_close(CloseReason.NORMAL_CLOSURE)
        await self._websocket.transport.close()
