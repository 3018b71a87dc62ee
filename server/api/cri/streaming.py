"""Exec, Attach and PortForward: each answers a URL of the streaming server, behind which a job of the engine does the work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace

from moorage.cri.v1 import api_pb2 as pb
from moorage.server.api import context as ctx
from moorage.server.api.cri.calls import Calls, Ctx
from moorage.server.engine import commands
from moorage.server.engine import podcommands as pods
from moorage.server.engine.engine import Engine
from moorage.server.engine.job import Context, StreamCommand
from moorage.server.errors import FailedPrecondition, Internal, InvalidArgument
from moorage.server.execdriver.base import Output, ProcessStream
from moorage.server.model import Container, ExitStatus
from moorage.server.streaming.requests import OpenAttach, OpenExec, OpenPortForward

Items = AsyncGenerator[commands.StreamItem, None]


class StreamCalls(Calls):
    """Streams are checked here, before there is a URL; the process is looked up again when a client redeems it."""

    async def Exec(self, request: pb.ExecRequest, context: Ctx) -> pb.ExecResponse:
        caller = _lasting(ctx.of(context))
        if not request.cmd:
            raise InvalidArgument("no command was given", field="cmd")
        container = _running(await self._container(request.container_id, caller))

        async def connect() -> ProcessStream:
            inputs = Inputs()
            command = commands.Exec(
                container.id, inputs, command=tuple(request.cmd), tty=request.tty, stdin=request.stdin
            )
            return await _open(self._engine, command, inputs, caller)

        opened = OpenExec(connect, request.stdin, request.stdout, request.stderr, request.tty)
        return pb.ExecResponse(url=self._setting.streaming.url("exec", opened))

    async def Attach(self, request: pb.AttachRequest, context: Ctx) -> pb.AttachResponse:
        caller = _lasting(ctx.of(context))
        container = _running(await self._container(request.container_id, caller))

        async def connect() -> ProcessStream:
            inputs = Inputs()
            command = commands.Attach(
                container.id, inputs, stdin=request.stdin, stdout=request.stdout, stderr=request.stderr
            )
            return await _open(self._engine, command, inputs, caller)

        once = container.config.stdin_once
        detaches = container.config.stdin_open and not (once and not request.tty)
        opened = OpenAttach(connect, request.stdin, request.stdout, request.stderr, request.tty, once, detaches)
        return pb.AttachResponse(url=self._setting.streaming.url("attach", opened))

    async def PortForward(self, request: pb.PortForwardRequest, context: Ctx) -> pb.PortForwardResponse:
        caller = _lasting(ctx.of(context))
        wrong = [port for port in request.port if not 0 < port < 65536]
        if wrong:
            raise InvalidArgument(f"port {wrong[0]} is not one of 1 to 65535", field="port")
        pod = await self._pod(request.pod_sandbox_id, caller)
        if pod.state != "ready":
            raise FailedPrecondition(f"pod {pod.id[:12]} is not ready", pod=pod.id, state=pod.state)

        async def dial(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            sock = await self._engine.run(pods.DialPod(pod.id, port), caller)
            try:
                sock.setblocking(False)
                return await asyncio.open_connection(sock=sock)
            except BaseException:
                sock.close()
                raise

        opened = OpenPortForward(dial, tuple(request.port))
        return pb.PortForwardResponse(url=self._setting.streaming.url("portforward", opened))


def _lasting(caller: Context) -> Context:
    """The stream outlives the call that asked for its URL."""
    return replace(caller, deadline=None)


def _running(container: Container) -> Container:
    if container.state != "running":
        raise FailedPrecondition(f"container {container.id[:12]} is not running", state=container.state)
    return container


class Inputs:
    """What a client sends, as an engine's command reads it: one at a time, so that a slow process slows the client."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[commands.Input] = asyncio.Queue(maxsize=1)

    async def put(self, item: commands.Input) -> None:
        """Returns when there is room."""
        await self._queue.put(item)

    def __aiter__(self) -> AsyncIterator[commands.Input]:
        return self

    async def __anext__(self) -> commands.Input:
        return await self._queue.get()


class JobStream:
    """A job's items as the streams of a process. Read and closed by the task that opened it."""

    def __init__(self, pid: int, items: Items, inputs: Inputs) -> None:
        self.pid = pid
        self._items = items
        self._inputs = inputs

    async def read(self) -> Output | ExitStatus:
        async for item in self._items:
            match item:
                case commands.Chunk(stream, data):
                    return Output(stream, data)
                case ExitStatus():
                    return item
        raise Internal("the process's job ended without saying how the process did")

    async def write(self, data: bytes) -> None:
        await self._inputs.put(commands.Stdin(data))

    async def close_stdin(self) -> None:
        await self._inputs.put(commands.CloseStdin())

    async def resize(self, columns: int, rows: int) -> None:
        await self._inputs.put(commands.Resize(columns, rows))

    async def signal(self, number: int) -> None:
        await self._inputs.put(commands.Signal(str(number)))

    async def close(self) -> None:
        await self._items.aclose()


async def _open(
    engine: Engine, command: StreamCommand[commands.StreamItem], inputs: Inputs, caller: Context
) -> ProcessStream:
    """The job's stream, once its process runs. Raises what the job does."""
    items = engine.stream(command, caller)
    try:
        first = await anext(items)
    except BaseException:
        await items.aclose()
        raise
    if not isinstance(first, commands.ProcessStarted):
        await items.aclose()
        raise Internal("the process's job did not say that the process has started")
    return JobStream(first.pid, items, inputs)
