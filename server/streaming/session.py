"""One connection of the streaming server: from its request to the end of the work over it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from http import HTTPStatus

from moorage.server.streaming.handshake import Refusal, read_request
from moorage.server.streaming.mux import ProtocolError
from moorage.server.streaming.requests import Open
from moorage.server.streaming.transport import ConnectionLost, Transport
from moorage.server.streaming.upgrade import Upgraded, upgrade

log = logging.getLogger(__name__)


async def begin(transport: Transport, redeem: Callable[[str, str], Open | None]) -> Upgraded | None:
    """The connection with its new protocol, for what `redeem` answers to kind and token; None, and the peer is told, when it is refused."""
    try:
        request = await read_request(transport)
        kind, _, token = request.path.removeprefix("/").partition("/")
        opened = redeem(kind, token)
        if opened is None:
            raise Refusal(HTTPStatus.NOT_FOUND, "no such stream, or its URL was used or is too old")
        return await upgrade(transport, request, opened)
    except Refusal as refusal:
        log.info("streaming request refused", extra={"status": int(refusal.status), "error": refusal.message})
        await transport.write(refusal.response())
        return None


async def drive(upgraded: Upgraded) -> None:
    """Read and work until either ends."""
    tasks = [asyncio.ensure_future(upgraded.connection.run()), asyncio.ensure_future(upgraded.work())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        await upgraded.connection.transport.close()
    for result in results:
        if isinstance(result, ProtocolError):
            log.info("streaming peer sent away", extra={"error": str(result)})
        elif isinstance(result, Exception) and not isinstance(result, ConnectionLost):
            log.error("a stream failed", exc_info=result)
