"""Exec and attach: a process's streams over a Connection, in the versions 1 to 5 of `channel.k8s.io`."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Coroutine, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from moorage.server.errors import MoorageError
from moorage.server.execdriver.base import Output, ProcessStream
from moorage.server.model import ExitStatus
from moorage.server.streaming.mux import Connection, Stream, StreamReset
from moorage.server.streaming.requests import OpenAttach, OpenCommand, OpenExec
from moorage.server.streaming.transport import ConnectionLost

log = logging.getLogger(__name__)

STREAMS_SECONDS = 30.0
"""How long a client may take to open its streams."""
HANG_UP_SECONDS = 300.0
"""How long a client may take to read what is left and hang up. Hanging up on it would cost it what it has not read."""
LINGER_SECONDS = 1.0
"""How long one who detaches by ending its input still sees what its last words bring about."""
RESIZES_FROM = 3
JSON_STATUS_FROM = 4
MAX_RESIZE_TEXT = 1024


@dataclass
class CommandStreams:
    """A client's streams. Those it did not ask for are None."""

    error: Stream
    stdin: Stream | None = None
    stdout: Stream | None = None
    stderr: Stream | None = None
    resize: Stream | None = None


def wanted_streams(request: OpenCommand, version: int) -> frozenset[str]:
    """Stream types that a client opens for this."""
    asked = {
        "error": True,
        "stdin": request.stdin,
        "stdout": request.stdout,
        "stderr": request.stderr and not request.tty,
        "resize": request.tty and version >= RESIZES_FROM,
    }
    return frozenset(name for name, wanted in asked.items() if wanted)


async def serve_spdy_command(connection: Connection, request: OpenCommand, version: int) -> None:
    """Wait for the client's streams, then as `serve_command`. Ends without a word when they do not come in time."""
    wanted = wanted_streams(request, version)
    found: dict[str, Stream] = {}
    try:
        async with asyncio.timeout(STREAMS_SECONDS):
            while set(found) != wanted:
                stream = await connection.accept()
                name = stream.headers.get("streamtype", "")
                if name in wanted and name not in found:
                    found[name] = stream
                else:
                    await stream.reset()
    except TimeoutError:
        log.info("client did not open its streams", extra={"missing": ",".join(sorted(wanted - set(found)))})
        return
    connection.refuse_more()
    await serve_command(connection, CommandStreams(**found), request, version)


async def serve_command(connection: Connection, streams: CommandStreams, request: OpenCommand, version: int) -> None:
    """Run a command, tell how it ended, and wait for the client to hang up. Raises ConnectionLost."""
    for output in (streams.error, streams.stdout, streams.stderr):
        if output is not None:
            output.ignore_input()
    status = await _run(streams, request)
    for stream in (streams.stdin, streams.resize):
        if stream is not None:
            await stream.reset()
    text = json.dumps(status) if version >= JSON_STATUS_FROM else status.get("message", "")
    await _give(streams.error, text.encode())
    for stream in (streams.stdout, streams.stderr, streams.error):
        if stream is not None:
            await stream.finish()
    await connection.send_goodbye()
    # It ends earlier with the connection, which is this task's end.
    await asyncio.sleep(HANG_UP_SECONDS)


async def _run(streams: CommandStreams, request: OpenCommand) -> dict[str, Any]:
    """Returns the status for the client."""
    try:
        process = await request.connect()
        try:
            ended = await _carry(process, streams, request)
        finally:
            # It may be cancelled twice, by the client's end and the server's, and has to let go all the same.
            await asyncio.shield(process.close())
    except MoorageError as error:
        return _internal_error(error.message)
    except (ConnectionLost, asyncio.CancelledError):
        raise
    except Exception:
        log.exception("a stream failed")
        return _internal_error("internal error")
    return _exit_status(ended.exit_code) if ended and isinstance(request, OpenExec) else {"status": "Success"}


async def _carry(process: ProcessStream, streams: CommandStreams, request: OpenCommand) -> ExitStatus | None:
    """Both directions until the process has ended, or, answered by None, the client has detached."""
    patience = asyncio.timeout(None)
    inputs: list[Coroutine[Any, Any, None]] = []
    if streams.stdin is not None:
        inputs.append(_carry_stdin(process, streams.stdin, request, patience))
    if streams.resize is not None:
        inputs.append(_carry_sizes(process, streams.resize))
    tasks = [asyncio.create_task(_logged(task)) for task in inputs]
    try:
        async with patience:
            return await _carry_output(process, streams)
    except TimeoutError:
        if not patience.expired():
            raise
        return None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _carry_output(process: ProcessStream, streams: CommandStreams) -> ExitStatus:
    while isinstance(output := await process.read(), Output):
        stream = streams.stderr if output.stream == "stderr" else streams.stdout
        if stream is not None:
            await _give(stream, output.data)
    return output


async def _give(stream: Stream, data: bytes) -> None:
    """Write to a client that may not want it any more: the process goes on as if it did."""
    with suppress(StreamReset):
        await stream.write(data)


async def _carry_stdin(process: ProcessStream, stream: Stream, request: OpenCommand, patience: asyncio.Timeout) -> None:
    while data := await stream.read():
        await process.write(data)
    if not isinstance(request, OpenAttach) or (request.stdin_once and not request.tty):
        await process.close_stdin()
    elif request.detaches:
        patience.reschedule(asyncio.get_running_loop().time() + LINGER_SECONDS)


async def _carry_sizes(process: ProcessStream, stream: Stream) -> None:
    sizes = ResizeDecoder()
    try:
        while data := await stream.read():
            for columns, rows in sizes.feed(data):
                if columns and rows:
                    await process.resize(columns, rows)
    except ValueError as error:
        log.info("client sent no terminal size", extra={"error": str(error)})
        await stream.reset()


async def _logged(work: Coroutine[Any, Any, None]) -> None:
    """The end of an input is not the end of the process, whatever its cause."""
    try:
        await work
    except (StreamReset, ConnectionLost):
        return
    except Exception as error:
        log.warning("cannot pass on a client's input", extra={"error": str(error)})


class ResizeDecoder:
    """Terminal sizes: JSON objects `{"Width":80,"Height":24}`, one behind the other, cut anywhere."""

    def __init__(self) -> None:
        self._text = ""
        self._decoder = json.JSONDecoder()

    def feed(self, data: bytes) -> Iterator[tuple[int, int]]:
        """Columns and rows. Raises ValueError for anything else."""
        self._text = (self._text + data.decode("latin-1")).lstrip()
        while self._text:
            try:
                value, end = self._decoder.raw_decode(self._text)
            except (ValueError, RecursionError) as error:
                if len(self._text) > MAX_RESIZE_TEXT or self._text[0] != "{":
                    raise ValueError("not a JSON object") from error
                return
            self._text = self._text[end:].lstrip()
            yield _size(value)


def _size(value: object) -> tuple[int, int]:
    """Names are matched in any case, as Go's decoder does."""
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    fields = {str(name).lower(): number for name, number in value.items()}
    columns, rows = fields.get("width", 0), fields.get("height", 0)
    for number in (columns, rows):
        if type(number) is not int or not 0 <= number <= 0xFFFF:
            raise ValueError("a side of a terminal has 0 to 65535 cells")
    return columns, rows


def _exit_status(exit_code: int) -> dict[str, Any]:
    if exit_code == 0:
        return {"metadata": {}, "status": "Success"}
    return {
        "metadata": {},
        "status": "Failure",
        "message": f"command terminated with non-zero exit code: {exit_code}",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": str(exit_code)}]},
    }


def _internal_error(message: str) -> dict[str, Any]:
    return {
        "metadata": {},
        "status": "Failure",
        "message": f"Internal error occurred: {message}",
        "reason": "InternalError",
        "details": {"causes": [{"message": message}]},
        "code": 500,
    }
