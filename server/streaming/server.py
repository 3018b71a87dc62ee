"""The streaming server: URLs with single-use tokens, and the connections that redeem them.

Each connection is one task with a bounded memory of its own. Whatever a peer does, it ends with that connection.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import ssl
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from moorage.server.errors import FailedPrecondition, InvalidArgument, Unavailable
from moorage.server.streaming.requests import Kind, Open, OpenAttach, OpenExec, OpenPortForward
from moorage.server.streaming.tokens import Tokens
from moorage.server.streaming.transport import READ_CHUNK, ConnectionLost, TcpTransport, Transport

log = logging.getLogger(__name__)

HANDSHAKE_SECONDS = 10.0
MAX_HANDSHAKES = 256
"""Connections without a token redeemed yet. Beyond them the oldest is closed: an honest client takes milliseconds."""
_KINDS: dict[Kind, type[Open]] = {"exec": OpenExec, "attach": OpenAttach, "portforward": OpenPortForward}


class StreamingServer:
    """CRI's streaming server, on one TCP address. All of it runs on the event loop that `start` was called on."""

    def __init__(
        self,
        *,
        address: str = "127.0.0.1:0",
        tls: tuple[Path | str, Path | str] | None = None,
        advertise: str | None = None,
    ) -> None:
        """`tls` are the files of certificate and key; without them only loopback is served.

        `advertise` is `host[:port]` for URLs instead of the address. Raises InvalidArgument.
        """
        self._host, self._port = _split(address)
        self._tls = tls
        self._advertise = None if advertise is None else _split(advertise, default_port=0)
        self._tokens = Tokens()
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._handshakes: dict[asyncio.Task[None], None] = {}
        if tls is None and not _is_loopback(self._host):
            raise InvalidArgument(f"cannot stream on {address} without TLS: it is not loopback")

    async def start(self) -> None:
        """Bind. Raises InvalidArgument for a bad certificate, Unavailable if the address cannot be had."""
        context = self._tls_context()
        try:
            self._server = await asyncio.start_server(
                self._accept,
                self._host,
                self._port,
                ssl=context,
                ssl_handshake_timeout=HANDSHAKE_SECONDS if context else None,
                limit=READ_CHUNK,
            )
        except OSError as error:
            raise Unavailable(f"cannot stream on {self._host}:{self._port}: {error}") from error
        self._port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close the address and every connection. Processes started by exec are killed with theirs."""
        if self._server is not None:
            self._server.close()
        connections = list(self._connections)
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    def url(self, kind: Kind, request: Open) -> str:
        """An absolute URL for one use within a minute. Raises InvalidArgument, FailedPrecondition, ResourceExhausted."""
        if self._server is None:
            raise FailedPrecondition("the streaming server does not run")
        if not isinstance(request, _KINDS[kind]):
            raise InvalidArgument(f"{type(request).__name__} is not for {kind}")
        if isinstance(request, (OpenExec, OpenAttach)):
            _check_streams(request)
        token = self._tokens.issue(kind, request)
        return f"{'https' if self._tls else 'http'}://{self._authority()}/{kind}/{token}"

    @property
    def port(self) -> int:
        """The port that is bound."""
        return self._port

    def _authority(self) -> str:
        host, port = self._advertise or (self._host, 0)
        return _join(host, port or self._port)

    def _tls_context(self) -> ssl.SSLContext | None:
        if self._tls is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(*self._tls)
        except (OSError, ssl.SSLError) as error:
            raise InvalidArgument(f"cannot use certificate {self._tls[0]} with key {self._tls[1]}: {error}") from error
        return context

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, from first to last. Never raises."""
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        transport: Transport | None = None
        try:
            transport = TcpTransport(reader, writer)
            await self._serve(transport, task)
        except (ConnectionLost, OSError) as error:
            log.debug("streaming connection lost", extra={"error": str(error)})
            writer.transport.abort()
        except asyncio.CancelledError:
            # Only `stop` and the limit of handshakes cancel, and asyncio would log it as a failure of theirs.
            writer.transport.abort()
        except Exception:
            log.exception("a streaming connection failed")
        finally:
            self._connections.discard(task)
            self._handshakes.pop(task, None)
            if transport is not None:
                await transport.close()

    async def _serve(self, transport: Transport, task: asyncio.Task[None]) -> None:
        # What speaks HTTP, SPDY and WebSocket is loaded for the first connection: a daemon is up sooner without it.
        from moorage.server.streaming import session

        self._begin_handshake(task)
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                upgraded = await session.begin(transport, self._tokens.redeem)
        except TimeoutError:
            return
        finally:
            self._handshakes.pop(task, None)
        if upgraded is not None:
            await session.drive(upgraded)

    def _begin_handshake(self, task: asyncio.Task[None]) -> None:
        if len(self._handshakes) >= MAX_HANDSHAKES:
            oldest = next(iter(self._handshakes))
            del self._handshakes[oldest]
            oldest.cancel()
        self._handshakes[task] = None


def _check_streams(request: OpenExec | OpenAttach) -> None:
    if request.tty and request.stderr:
        raise InvalidArgument("a terminal has no stderr of its own: tty and stderr exclude each other")
    if not (request.stdin or request.stdout or request.stderr):
        raise InvalidArgument("at least one of stdin, stdout and stderr is needed")


def _split(address: str, default_port: int | None = None) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{address}")
        port = parts.port
    except ValueError as error:
        raise InvalidArgument(f"not an address: {address!r}: {error}") from error
    if port is None:
        port = default_port
    if not parts.hostname or port is None or parts.netloc != address:
        raise InvalidArgument(f"not an address: {address!r}", hint="host:port, [v6]:port")
    return parts.hostname, port


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
