"""Handlers for attach and exec: a process's streams, both ways, at the pace of the slower side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

from moorage.server.engine import commands
from moorage.server.engine.containers import Containers
from moorage.server.engine.job import Command, Context, Job
from moorage.server.errors import DeadlineExceeded, FailedPrecondition, InvalidArgument, NotFound
from moorage.server.execdriver import spec as oci
from moorage.server.execdriver.base import AttachSpec, ExecDriver, ExecSpec, Output, ProcessStream
from moorage.server.model import Container, ExitStatus

OUTPUT_LIMIT = 16 << 20
"""Bytes of each stream that `exec_sync` keeps."""


class Runner(Protocol):
    """The part of the engine that runs further jobs."""

    async def run(self, command: Command[Any], context: Context) -> Any:
        """Run a job."""
        ...


class Streams:
    """Attach and exec."""

    def __init__(self, engine: Runner, containers: Containers, exec_driver: ExecDriver) -> None:
        self._engine = engine
        self._containers = containers
        self._exec = exec_driver

    async def attach(self, job: Job, command: commands.Attach) -> AsyncIterator[commands.StreamItem]:
        """Connect, start when asked to, and copy until the container has ended and is reaped."""
        container = self._containers.get(command.id)
        spec = AttachSpec(command.stdin, command.stdout, command.stderr, command.size, command.lossless)
        if command.start and container.state != "running":
            stream, pid = await self._start_attached(job, container, spec)
        elif container.state == "running":
            stream, pid = await self._exec.attach(container.pod, container.id, spec), container.pid
        else:
            raise FailedPrecondition(
                f"container {container.name} is not running",
                hint="start it, or attach with start",
                state=container.state,
            )
        async with _open(stream), _pump(stream, command.inputs, command.stdin):
            yield commands.ProcessStarted(pid)
            async for item in _outputs(stream):
                if isinstance(item, ExitStatus):
                    yield await self._reaped(container.id, item)
                else:
                    yield item

    async def exec(self, job: Job, command: commands.Exec) -> AsyncIterator[commands.StreamItem]:
        """Run one more process and copy until it has ended."""
        container = self._running(command.id, command.command)
        process = oci.exec_process(
            container,
            command=command.command,
            env=command.env,
            cwd=command.cwd,
            user=command.user,
            tty=command.tty,
            privileged=command.privileged,
        )
        stream = await self._exec.exec(container.pod, container.id, ExecSpec(process, command.stdin, command.detach))
        self._containers.tell(container, "exec", command=" ".join(command.command))
        async with _open(stream), _pump(stream, command.inputs, command.stdin):
            if command.size is not None:
                await stream.resize(*command.size)
            yield commands.ProcessStarted(stream.pid)
            if command.detach:
                return
            async for item in _outputs(stream):
                yield item

    async def exec_sync(self, job: Job, command: commands.ExecSync) -> commands.ExecResult:
        """Run one more process to its end, and keep the beginning of what it prints."""
        container = self._running(command.id, command.command)
        process = oci.exec_process(
            container,
            command=command.command,
            env=command.env,
            cwd=command.cwd,
            user=command.user,
            tty=False,
            privileged=command.privileged,
        )
        kept = {"stdout": bytearray(), "stderr": bytearray()}
        try:
            async with asyncio.timeout(command.timeout or None):
                stream = await self._exec.exec(container.pod, container.id, ExecSpec(process))
                self._containers.tell(container, "exec", command=" ".join(command.command))
                async with _open(stream):
                    while isinstance(item := await stream.read(), Output):
                        room = OUTPUT_LIMIT - len(kept[item.stream])
                        kept[item.stream] += item.data[:room]
        except TimeoutError:
            raise DeadlineExceeded(
                f"{command.command[0]!r} in container {container.name} ran longer than {command.timeout:g} seconds",
                timeout=command.timeout,
            ) from None
        return commands.ExecResult(bytes(kept["stdout"]), bytes(kept["stderr"]), item.exit_code)

    def _running(self, text: str, command: Sequence[str]) -> Container:
        """The container that is to have one more process."""
        container = self._containers.get(text)
        if container.state != "running":
            raise FailedPrecondition(
                f"container {container.name} is not running", hint="start it first", state=container.state
            )
        if not command:
            raise InvalidArgument("no command was given", field="command")
        return container

    async def _start_attached(self, job: Job, container: Container, spec: AttachSpec) -> tuple[ProcessStream, int]:
        """Start with the streams connected before the first instruction runs."""
        loop = asyncio.get_running_loop()
        connected: list[ProcessStream] = []

        def connect(container_id: str) -> None:
            attaching = asyncio.run_coroutine_threadsafe(self._exec.attach(container.pod, container_id, spec), loop)
            connected.append(attaching.result(timeout=30))

        try:
            pid = await self._engine.run(commands.Start(container.id, connect), job.context)
        except BaseException:
            for stream in connected:
                await stream.close()
            raise
        if not connected:
            return await self._exec.attach(container.pod, container.id, spec), pid
        return connected[0], pid

    async def _reaped(self, container_id: str, status: ExitStatus) -> ExitStatus:
        """The end as the engine records it, once it has: whoever hears of it finds the container exited."""
        try:
            return await self._containers.gone(container_id)
        except NotFound:
            return status


async def _outputs(stream: ProcessStream) -> AsyncIterator[commands.Chunk | ExitStatus]:
    while True:
        item = await stream.read()
        if isinstance(item, Output):
            yield commands.Chunk(item.stream, item.data)
        else:
            yield item
            return


@asynccontextmanager
async def _open(stream: ProcessStream) -> AsyncIterator[ProcessStream]:
    try:
        yield stream
    finally:
        await stream.close()


@asynccontextmanager
async def _pump(stream: ProcessStream, inputs: AsyncIterator[commands.Input], stdin: bool) -> AsyncIterator[None]:
    """Carry what the caller sends to the process while the block runs."""
    task = asyncio.get_running_loop().create_task(_carry(stream, inputs, stdin))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()


async def _carry(stream: ProcessStream, inputs: AsyncIterator[commands.Input], stdin: bool) -> None:
    async for item in inputs:
        match item:
            case commands.Stdin(data) if stdin:
                await stream.write(data)
            case commands.Resize(columns, rows):
                await stream.resize(columns, rows)
            case commands.Signal(name):
                await stream.signal(oci.parse_signal(name))
            case commands.CloseStdin() if stdin:
                await stream.close_stdin()
    if stdin:
        await stream.close_stdin()
