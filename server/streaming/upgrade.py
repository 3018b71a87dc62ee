"""From a request with a good token to a Connection and the work to be done over it."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus

from moorage.server.streaming.channels import (
    COMMAND_PROTOCOLS,
    PORTFORWARD_PROTOCOLS,
    ChannelConnection,
    command_channels,
    serve_channel_command,
)
from moorage.server.streaming.handshake import (
    PROTOCOL_HEADER,
    SPDY_COMMAND_PROTOCOLS,
    SPDY_PORTFORWARD_PROTOCOLS,
    Refusal,
    Request,
    choose,
    switch_to_spdy,
)
from moorage.server.streaming.mux import Connection
from moorage.server.streaming.portforward import SpdyPortForward, forward
from moorage.server.streaming.remotecommand import serve_spdy_command
from moorage.server.streaming.requests import Open, OpenCommand, OpenPortForward
from moorage.server.streaming.spdy_connection import SpdyConnection
from moorage.server.streaming.transport import Transport
from moorage.server.streaming.websocket import Tunnel, WebSocket

TUNNEL_PROTOCOL = "SPDY/3.1+portforward.k8s.io"
MAX_CHANNEL_PORTS = 100


@dataclass(frozen=True)
class Upgraded:
    """A connection that speaks its new protocol, and the work over it."""

    connection: Connection
    work: Callable[[], Awaitable[None]]


async def upgrade(transport: Transport, request: Request, opened: Open) -> Upgraded:
    """Answer the request with 101. Raises Refusal, ConnectionLost."""
    websocket = request.upgrade() == "websocket"
    if isinstance(opened, OpenPortForward):
        return await (_websocket_ports if websocket else _spdy_ports)(transport, request, opened)
    return await (_websocket_command if websocket else _spdy_command)(transport, request, opened)


async def _spdy_command(transport: Transport, request: Request, opened: OpenCommand) -> Upgraded:
    protocol = choose(request.values(PROTOCOL_HEADER), SPDY_COMMAND_PROTOCOLS)
    await transport.write(switch_to_spdy(protocol))
    connection = SpdyConnection(transport, request.rest)
    return Upgraded(connection, lambda: serve_spdy_command(connection, opened, SPDY_COMMAND_PROTOCOLS[protocol]))


async def _spdy_ports(transport: Transport, request: Request, opened: OpenPortForward) -> Upgraded:
    protocol = choose(request.values(PROTOCOL_HEADER), SPDY_PORTFORWARD_PROTOCOLS)
    await transport.write(switch_to_spdy(protocol))
    connection = SpdyConnection(transport, request.rest)
    return Upgraded(connection, SpdyPortForward(connection, opened).serve)


async def _websocket_command(transport: Transport, request: Request, opened: OpenCommand) -> Upgraded:
    websocket = WebSocket(transport, request)
    protocol = choose(request.values("sec-websocket-protocol"), COMMAND_PROTOCOLS)
    version = COMMAND_PROTOCOLS[protocol]
    await websocket.accept(protocol)
    connection = ChannelConnection(websocket, protocol, version, command_channels(opened, version))
    return Upgraded(connection, lambda: serve_channel_command(connection, opened, version))


async def _websocket_ports(transport: Transport, request: Request, opened: OpenPortForward) -> Upgraded:
    websocket = WebSocket(transport, request)
    protocol = choose(request.values("sec-websocket-protocol"), {TUNNEL_PROTOCOL: 1, **PORTFORWARD_PROTOCOLS})
    if protocol == TUNNEL_PROTOCOL:
        await websocket.accept(protocol)
        tunnelled = SpdyConnection(Tunnel(websocket))
        return Upgraded(tunnelled, SpdyPortForward(tunnelled, opened).serve)
    ports = _channel_ports(request, opened)
    await websocket.accept(protocol)
    connection = ChannelConnection(websocket, protocol, PORTFORWARD_PROTOCOLS[protocol], range(2 * len(ports)))
    return Upgraded(connection, lambda: _serve_channel_ports(connection, opened, ports))


def _channel_ports(request: Request, opened: OpenPortForward) -> list[int]:
    """Those of the query (`port=80&port=443`, `port=80,443`), or else all that are open."""
    texts = [port for value in request.query("port") for port in value.split(",")]
    ports = [int(text) if text.isascii() and text.isdigit() and len(text) <= 5 else 0 for text in texts]
    ports = ports or list(opened.ports)
    if not 0 < len(ports) <= MAX_CHANNEL_PORTS or not all(0 < port <= 0xFFFF for port in ports):
        raise Refusal(HTTPStatus.BAD_REQUEST, f"1 to {MAX_CHANNEL_PORTS} ports expected in the query")
    if opened.ports and not set(ports) <= set(opened.ports):
        raise Refusal(HTTPStatus.FORBIDDEN, "a port was not asked for")
    return ports


async def _serve_channel_ports(connection: ChannelConnection, opened: OpenPortForward, ports: list[int]) -> None:
    """Channels 2n and 2n+1 are data and errors of the n-th port; both begin with its number, little-endian. Once all end, it ends."""
    async with asyncio.TaskGroup() as tasks:
        for index, port in enumerate(ports):
            data, errors = connection.channels[2 * index], connection.channels[2 * index + 1]
            await data.write(struct.pack("<H", port))
            await errors.write(struct.pack("<H", port))
            tasks.create_task(forward(data, errors, opened, port))
    await connection.send_goodbye()
