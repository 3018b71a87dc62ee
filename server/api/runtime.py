"""RuntimeService: protobuf to commands and back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

from grpc import aio

from moorage.server.api import context as ctx
from moorage.server.api import convert
from moorage.server.api.derived import Derived
from moorage.server.api.output import fitting
from moorage.server.engine import commands, storecommands
from moorage.server.engine.engine import Engine
from moorage.server.errors import InvalidArgument, NotFound
from moorage.server.model import Container, ExitStatus
from moorage.v1 import runtime_pb2 as pb
from moorage.v1 import runtime_pb2_grpc

Ctx = aio.ServicerContext[Any, Any]
STREAMS = {pb.LOG_STREAM_STDOUT: "stdout", pb.LOG_STREAM_STDERR: "stderr"}


class RuntimeService(runtime_pb2_grpc.RuntimeServiceServicer):
    """See protos/moorage/v1/runtime.proto. `log_path` and `cgroup_path` tell where a container's log and cgroup are, by its ID."""

    def __init__(
        self, engine: Engine, *, log_path: Callable[[str], object], cgroup_path: Callable[[str], str], graph_driver: str
    ) -> None:
        self._engine = engine
        self._log_path = log_path
        self._cgroup_path = cgroup_path
        self._graph_driver = graph_driver
        self._listed: Derived[Container, bytes] = Derived(self._serialised)

    async def CreateContainer(self, request: pb.CreateContainerRequest, context: Ctx) -> pb.CreateContainerResponse:
        command = commands.Create(request.name, convert.container_config(request.config))
        created = await self._engine.run(command, ctx.of(context))
        return pb.CreateContainerResponse(id=created.id, name=created.name, warnings=created.warnings)

    async def StartContainer(self, request: pb.StartContainerRequest, context: Ctx) -> pb.StartContainerResponse:
        return pb.StartContainerResponse(pid=await self._engine.run(commands.Start(request.id), ctx.of(context)))

    async def StopContainer(self, request: pb.StopContainerRequest, context: Ctx) -> pb.StopContainerResponse:
        timeout = request.timeout_seconds if request.HasField("timeout_seconds") else None
        if timeout is not None and timeout < 0:
            raise InvalidArgument("timeout_seconds must not be negative", field="timeout_seconds")
        await self._engine.run(commands.Stop(request.id, timeout), ctx.of(context))
        return pb.StopContainerResponse()

    async def KillContainer(self, request: pb.KillContainerRequest, context: Ctx) -> pb.KillContainerResponse:
        await self._engine.run(commands.Kill(request.id, request.signal), ctx.of(context))
        return pb.KillContainerResponse()

    async def RemoveContainer(self, request: pb.RemoveContainerRequest, context: Ctx) -> pb.RemoveContainerResponse:
        await self._engine.run(commands.Remove(request.id, request.force), ctx.of(context))
        return pb.RemoveContainerResponse()

    async def ListContainers(self, request: pb.ListContainersRequest, context: Ctx) -> pb.ListContainersResponse:
        command = commands.ListContainers(
            all=request.all,
            states=frozenset(convert.STATE_NAMES[state] for state in request.states if state in convert.STATE_NAMES),
            labels=dict(request.labels),
            name=request.name,
            image=request.image,
        )
        found = await self._engine.run(command, ctx.of(context))
        chosen, token = ctx.page(found, lambda c: (-c.created_ns, c.id), request.page_size, request.page_token)
        response = pb.ListContainersResponse.FromString(b"".join(map(self._listed, chosen)))
        response.next_page_token = token
        return response

    async def GetContainer(self, request: pb.GetContainerRequest, context: Ctx) -> pb.Container:
        found = await self._engine.run(commands.InspectContainer(request.id), ctx.of(context))
        if not request.size:
            return self._container(found)
        usages = await self._engine.run(commands.MeasureContainers((found.id,)), ctx.of(context))
        if found.id not in usages:
            raise NotFound(f"container {found.id} is being removed", container=found.id)
        return self._container(found, usages[found.id].bytes)

    async def ExportContainer(
        self, request: pb.ExportContainerRequest, context: Ctx
    ) -> AsyncIterator[pb.ExportContainerResponse]:
        command = storecommands.Export(request.id, request.pause)
        async with aclosing(self._engine.stream(command, ctx.of(context))) as pieces:
            async for piece in pieces:
                yield pb.ExportContainerResponse(data=piece)

    async def CommitContainer(self, request: pb.CommitContainerRequest, context: Ctx) -> pb.CommitContainerResponse:
        command = storecommands.Commit(
            request.id,
            request.reference,
            request.author,
            request.message,
            tuple(request.changes),
            not request.without_pause,
            request.compression or "gzip",
        )
        image = await self._engine.run(command, ctx.of(context))
        return pb.CommitContainerResponse(
            image_id=image.id,
            layer_size_bytes=image.layers[-1].size,
        )

    async def WaitContainer(self, request: pb.WaitContainerRequest, context: Ctx) -> pb.WaitContainerResponse:
        end = await self._engine.run(commands.Wait(request.id), ctx.of(context))
        return pb.WaitContainerResponse(
            exit_code=end.exit_code, oom_killed=end.oom_killed, reason=end.reason, error=end.error
        )

    async def ListProcesses(self, request: pb.ListProcessesRequest, context: Ctx) -> pb.ListProcessesResponse:
        processes = await self._engine.run(commands.Top(request.id), ctx.of(context))
        return pb.ListProcessesResponse(processes=[convert.process(process) for process in processes])

    async def Attach(self, requests: AsyncIterator[pb.AttachRequest], context: Ctx) -> AsyncIterator[pb.AttachResponse]:
        opened = (await _first(requests)).open
        command = commands.Attach(
            id=opened.id,
            inputs=_inputs(requests),
            start=opened.start,
            stdin=opened.stdin,
            stdout=opened.stdout,
            stderr=opened.stderr,
            size=_size(opened),
            lossless=opened.lossless,
        )
        async with aclosing(self._engine.stream(command, ctx.of(context))) as items:
            async for item in items:
                yield pb.AttachResponse(**_answer(item))

    async def Exec(self, requests: AsyncIterator[pb.ExecRequest], context: Ctx) -> AsyncIterator[pb.ExecResponse]:
        opened = (await _first(requests)).open
        command = commands.Exec(
            id=opened.id,
            inputs=_inputs(requests),
            command=tuple(opened.command),
            env=tuple(opened.env),
            cwd=opened.working_dir,
            user=opened.user,
            tty=opened.tty,
            stdin=opened.stdin,
            size=_size(opened),
            detach=opened.detach,
            privileged=opened.privileged,
        )
        async with aclosing(self._engine.stream(command, ctx.of(context))) as items:
            async for item in items:
                yield pb.ExecResponse(**_answer(item))

    async def ExecSync(self, request: pb.ExecSyncRequest, context: Ctx) -> pb.ExecSyncResponse:
        command = commands.ExecSync(
            id=request.id,
            command=tuple(request.command),
            timeout=max(request.timeout_millis, 0) / 1000,
            env=tuple(request.env),
            cwd=request.working_dir,
            user=request.user,
            privileged=request.privileged,
        )
        result = await self._engine.run(command, ctx.of(context))
        stdout, stderr = fitting(result.stdout, result.stderr)
        return pb.ExecSyncResponse(exit_code=result.exit_code, stdout=stdout, stderr=stderr)

    async def GetLogs(self, request: pb.GetLogsRequest, context: Ctx) -> AsyncIterator[pb.GetLogsResponse]:
        command = commands.Logs(
            id=request.id,
            follow=request.follow,
            tail=request.tail_lines if request.HasField("tail_lines") else None,
            since_ns=convert.nanoseconds(request.since),
            until_ns=convert.nanoseconds(request.until),
            streams=frozenset(STREAMS[stream] for stream in request.streams if stream in STREAMS)
            or frozenset(STREAMS.values()),
        )
        async with aclosing(self._engine.stream(command, ctx.of(context))) as items:
            async for batch in items:
                yield convert.log_entries(batch)

    async def GetStats(self, request: pb.GetStatsRequest, context: Ctx) -> AsyncIterator[pb.GetStatsResponse]:
        interval = (request.interval_millis or 1000) / 1000
        command = commands.Stats(tuple(request.ids), request.stream, interval)
        async with aclosing(self._engine.stream(command, ctx.of(context))) as items:
            async for samples in items:
                yield convert.samples(samples)

    def _serialised(self, value: Container) -> bytes:
        """A list of this one alone: put one after the other, such lists are the list of all."""
        return pb.ListContainersResponse(containers=[self._container(value)]).SerializeToString()

    def _container(self, value: Container, size_rw: int = 0) -> pb.Container:
        return convert.container(
            value,
            log_path=str(self._log_path(value.id)),
            graph_driver=self._graph_driver,
            cgroup_path=self._cgroup_path(value.id),
            size_rw=size_rw,
        )


async def _first(requests: AsyncIterator[Any]) -> Any:
    """The message that opens the call."""
    async for request in requests:
        if request.WhichOneof("message") == "open":
            return request
        break
    raise InvalidArgument("the first message of the call must be `open`", field="open")


async def _inputs(requests: AsyncIterator[Any]) -> AsyncIterator[commands.Input]:
    """What the caller sends after `open`."""
    async for request in requests:
        match request.WhichOneof("message"):
            case "stdin":
                yield commands.Stdin(request.stdin)
            case "stdin_close":
                yield commands.CloseStdin()
            case "resize":
                yield commands.Resize(request.resize.width, request.resize.height)
            case "signal":
                yield commands.Signal(request.signal)


def _size(opened: Any) -> tuple[int, int] | None:
    return (opened.size.width, opened.size.height) if opened.HasField("size") else None


def _answer(item: commands.StreamItem) -> dict[str, Any]:
    """The one field of an answer's oneof."""
    match item:
        case commands.ProcessStarted(pid):
            return {"started": pb.Started(pid=pid)}
        case ExitStatus():
            return {"exited": pb.Exited(exit_code=item.exit_code, oom_killed=item.oom_killed)}
        case commands.Chunk(stream, data):
            return {stream: data}
