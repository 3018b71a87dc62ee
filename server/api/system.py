"""SystemService: protobuf to commands and back."""

from __future__ import annotations

import platform
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

from grpc import aio

from moorage.server.api import context as ctx
from moorage.server.api import convert
from moorage.server.engine import commands, storecommands
from moorage.server.engine.engine import Engine
from moorage.v1 import system_pb2 as pb
from moorage.v1 import system_pb2_grpc
from moorage.v1.version import VERSION

TEXT_PIECE = 1 << 18
Ctx = aio.ServicerContext[Any, Any]
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


class SystemService(system_pb2_grpc.SystemServiceServicer):
    """See protos/moorage/v1/system.proto."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._version = pb.GetVersionResponse(
            version=VERSION,
            api_version="moorage.v1",
            python_version=platform.python_version(),
            kernel_version=platform.release(),
            os="linux",
            architecture=ARCHITECTURES.get(platform.machine(), platform.machine()),
        )

    async def GetVersion(self, request: pb.GetVersionRequest, context: Ctx) -> pb.GetVersionResponse:
        return self._version

    async def GetInfo(self, request: pb.GetInfoRequest, context: Ctx) -> pb.GetInfoResponse:
        info = await self._engine.run(commands.GetInfo(), ctx.of(context))
        return pb.GetInfoResponse(
            version=VERSION,
            root_dir=info.root,
            state_dir=info.state,
            instance=info.instance,
            graph_driver=info.graph_driver,
            exec_driver=info.exec_driver,
            cgroup_version=info.cgroup_version,
            cgroup_parent=info.cgroup_parent,
            kernel_version=platform.release(),
            cpus=info.cpus,
            memory_bytes=info.memory,
            images=info.images,
            containers=info.containers,
            containers_running=info.running,
            warnings=info.warnings,
            listen=info.listen,
            pid=info.pid,
            started_at=convert.timestamp(info.started_ns),
            graph_driver_status=pb.GraphDriverStatus(
                backing_file_system=info.driver_status.backing,
                options=info.driver_status.options,
                quota=info.driver_status.quota,
                quota_obstacle=info.driver_status.no_quota,
            ),
            runtimes=[
                pb.Runtime(name=each.runtime.name, path=each.runtime.path, version=each.version)
                for each in info.runtimes
            ],
        )

    async def StreamEvents(self, request: pb.StreamEventsRequest, context: Ctx) -> AsyncIterator[pb.Event]:
        command = commands.Events(
            after=request.after_sequence if request.HasField("after_sequence") else None,
            since_ns=convert.nanoseconds(request.since),
            until_ns=convert.nanoseconds(request.until),
            kinds=frozenset(request.kinds),
            actions=frozenset(request.actions),
            object=request.object,
        )
        async with aclosing(self._engine.stream(command, ctx.of(context))) as items:
            async for event in items:
                yield convert.event(event)

    async def ListJobs(self, request: pb.ListJobsRequest, context: Ctx) -> pb.ListJobsResponse:
        jobs = await self._engine.run(commands.ListJobs(request.all), ctx.of(context))
        return pb.ListJobsResponse(jobs=[convert.job(job) for job in jobs])

    async def CancelJob(self, request: pb.CancelJobRequest, context: Ctx) -> pb.CancelJobResponse:
        await self._engine.run(commands.CancelJob(request.id), ctx.of(context))
        return pb.CancelJobResponse()

    async def GetDiskUsage(self, request: pb.GetDiskUsageRequest, context: Ctx) -> pb.GetDiskUsageResponse:
        report = await self._engine.run(storecommands.Measure(), ctx.of(context))
        usage = report.usage
        return pb.GetDiskUsageResponse(
            layers=_part(usage.layers),
            containers=_part(usage.containers),
            blobs=_part(usage.blobs),
            other_bytes=usage.other,
            total_bytes=usage.total,
            images=report.images,
            images_in_use=report.images_in_use,
            images_reclaimable_bytes=report.reclaimable,
        )

    async def CheckStore(self, request: pb.CheckStoreRequest, context: Ctx) -> AsyncIterator[pb.CheckStoreResponse]:
        command = storecommands.CheckStore(request.repair, request.files)
        async with aclosing(self._engine.stream(command, ctx.of(context))) as steps:
            async for step in steps:
                yield _check_step(step)

    async def StreamGraph(self, request: pb.StreamGraphRequest, context: Ctx) -> AsyncIterator[pb.StreamGraphResponse]:
        text = await self._engine.run(storecommands.Viz(), ctx.of(context))
        for start in range(0, len(text), TEXT_PIECE):
            yield pb.StreamGraphResponse(text=text[start : start + TEXT_PIECE])


def _part(items: Sequence[storecommands.Item]) -> pb.DiskUsagePart:
    return pb.DiskUsagePart(
        count=len(items),
        in_use=sum(item.used for item in items),
        bytes=sum(item.size for item in items),
        reclaimable_bytes=sum(item.size for item in items if not item.used),
    )


def _check_step(step: storecommands.CheckStep) -> pb.CheckStoreResponse:
    if step.finding is not None:
        found = step.finding
        finding = pb.CheckStoreResponse.Finding(
            problem=found.problem,
            id=found.id,
            detail=found.detail,
            images=found.images,
            outcome=step.outcome,
            repaired=step.repaired,
        )
        return pb.CheckStoreResponse(finding=finding)
    if step.kind == "progress":
        return pb.CheckStoreResponse(current_bytes=step.bytes)
    summary = pb.CheckStoreResponse.Summary(
        blobs=step.blobs,
        layers=step.layers,
        images=step.images,
        layers_compared=step.compared,
        bytes=step.bytes,
        problems=step.problems,
        problems_left=step.left,
    )
    return pb.CheckStoreResponse(summary=summary)
