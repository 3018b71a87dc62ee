"""The RPCs about containers, but for their streams and statistics."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from moorage.cri.v1 import api_pb2 as pb
from moorage.server.api import context as ctx
from moorage.server.api.cri import common, convert_container, filters, verbose
from moorage.server.api.cri.calls import Calls, Ctx, Setting
from moorage.server.api.derived import Derived
from moorage.server.api.output import fitting
from moorage.server.engine import commands
from moorage.server.engine import podcommands as pods
from moorage.server.engine.job import Context
from moorage.server.errors import FailedPrecondition, InvalidArgument, NotFound, Unimplemented
from moorage.server.model import Container


class ContainerCalls(Calls):
    """Create, start, stop, remove, look at, update containers."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._listed_container = Derived(convert_container.listed)

    async def CreateContainer(self, request: pb.CreateContainerRequest, context: Ctx) -> pb.CreateContainerResponse:
        caller = ctx.of(context)
        pod = await self._pod(request.pod_sandbox_id, caller)
        if pod.state != "ready":
            raise FailedPrecondition(f"pod {pod.id[:12]} is not ready", pod=pod.id, state=pod.state)
        config = await asyncio.to_thread(convert_container.container_config, request.config, pod)
        name = convert_container.container_name(request.config.metadata, pod)
        created = await self._engine.run(commands.Create(name, config, pod.id), caller)
        return pb.CreateContainerResponse(container_id=created.id)

    async def StartContainer(self, request: pb.StartContainerRequest, context: Ctx) -> pb.StartContainerResponse:
        caller = ctx.of(context)
        container = await self._container(request.container_id, caller)
        await self._engine.run(commands.Start(container.id), caller)
        return pb.StartContainerResponse()

    async def StopContainer(self, request: pb.StopContainerRequest, context: Ctx) -> pb.StopContainerResponse:
        caller = ctx.of(context)
        try:
            container = await self._container(request.container_id, caller)
            await self._engine.run(commands.Stop(container.id, max(request.timeout, 0)), caller)
        except NotFound:
            return pb.StopContainerResponse()
        return pb.StopContainerResponse()

    async def RemoveContainer(self, request: pb.RemoveContainerRequest, context: Ctx) -> pb.RemoveContainerResponse:
        caller = ctx.of(context)
        try:
            container = await self._container(request.container_id, caller)
            await self._engine.run(commands.Remove(container.id, force=True), caller)
        except NotFound:
            return pb.RemoveContainerResponse()
        return pb.RemoveContainerResponse()

    async def ContainerStatus(self, request: pb.ContainerStatusRequest, context: Ctx) -> pb.ContainerStatusResponse:
        caller = ctx.of(context)
        container = await self._container(request.container_id, caller)
        status = await self._container_status(container, caller)
        info = await self._info(container, caller) if request.verbose else {}
        return pb.ContainerStatusResponse(status=status, info=info)

    async def _info(self, container: Container, caller: Context) -> dict[str, str]:
        pod = await self._pod(container.pod_id, caller)
        try:
            spec = await self._engine.run(pods.DescribeContainer(container.id), caller)
        except (FailedPrecondition, InvalidArgument) as error:
            spec = {"error": str(error)}
        return verbose.container_info(container, pod, spec)

    async def ListContainers(self, request: pb.ListContainersRequest, context: Ctx) -> pb.ListContainersResponse:
        found = await self._containers_found(request.filter, ctx.of(context))
        return pb.ListContainersResponse.FromString(b"".join(map(self._listed_container, found)))

    async def StreamContainers(
        self, request: pb.StreamContainersRequest, context: Ctx
    ) -> AsyncIterator[pb.StreamContainersResponse]:
        found = await self._containers_found(request.filter, ctx.of(context))
        for batch in common.batches(map(convert_container.container, found)):
            yield pb.StreamContainersResponse(containers=batch)

    async def UpdateContainerResources(
        self, request: pb.UpdateContainerResourcesRequest, context: Ctx
    ) -> pb.UpdateContainerResourcesResponse:
        caller = ctx.of(context)
        container = await self._container(request.container_id, caller)
        annotations = dict(request.annotations) or None
        command = commands.Update(container.id, common.resources(request.linux), annotations)
        await self._engine.run(command, caller)
        return pb.UpdateContainerResourcesResponse()

    async def ReopenContainerLog(
        self, request: pb.ReopenContainerLogRequest, context: Ctx
    ) -> pb.ReopenContainerLogResponse:
        caller = ctx.of(context)
        container = await self._container(request.container_id, caller)
        await self._engine.run(commands.ReopenLog(container.id), caller)
        return pb.ReopenContainerLogResponse()

    async def ExecSync(self, request: pb.ExecSyncRequest, context: Ctx) -> pb.ExecSyncResponse:
        caller = ctx.of(context)
        if not request.cmd:
            raise InvalidArgument("no command was given", field="cmd")
        container = await self._container(request.container_id, caller)
        command = commands.ExecSync(container.id, tuple(request.cmd), max(request.timeout, 0))
        result = await self._engine.run(command, caller)
        stdout, stderr = fitting(result.stdout, result.stderr)
        return pb.ExecSyncResponse(stdout=stdout, stderr=stderr, exit_code=result.exit_code)

    async def CheckpointContainer(
        self, request: pb.CheckpointContainerRequest, context: Ctx
    ) -> pb.CheckpointContainerResponse:
        raise Unimplemented("checkpoints are not offered")

    async def CheckpointPod(self, request: pb.CheckpointPodRequest, context: Ctx) -> pb.CheckpointPodResponse:
        raise Unimplemented("checkpoints are not offered")

    async def RestorePod(self, request: pb.RestorePodRequest, context: Ctx) -> pb.RestorePodResponse:
        raise Unimplemented("checkpoints are not offered")

    async def _containers_found(self, wanted: pb.ContainerFilter, caller: Context) -> list[Container]:
        return filters.containers(await self._containers(caller), wanted)
