"""The RPCs about pods."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from moorage.cri.v1 import api_pb2 as pb
from moorage.server.api import context as ctx
from moorage.server.api.cri import common, convert_pod, filters, verbose
from moorage.server.api.cri.calls import Calls, Ctx, Setting
from moorage.server.api.derived import Derived
from moorage.server.engine import podcommands as commands
from moorage.server.engine.job import Context
from moorage.server.errors import InvalidArgument
from moorage.server.model import PodRecord


class PodCalls(Calls):
    """Run, stop, remove, look at and update pods."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._listed_pod = Derived(convert_pod.listed)

    async def RunPodSandbox(self, request: pb.RunPodSandboxRequest, context: Ctx) -> pb.RunPodSandboxResponse:
        mapped = self._setting.features.user_namespaces
        runtimes = {each.runtime.name: mapped and each.user_namespaces for each in self._setting.runtimes}
        known = ("", *self._setting.config.runtime_handlers, *sorted(runtimes))
        if request.runtime_handler not in known:
            raise InvalidArgument(
                f"unknown runtime handler {request.runtime_handler!r}",
                hint=f"known are {', '.join(map(repr, known))}",
                field="runtime_handler",
            )
        config = await asyncio.to_thread(convert_pod.pod_config, request.config, request.runtime_handler, runtimes)
        return pb.RunPodSandboxResponse(pod_sandbox_id=await self._run(commands.RunPod(config), context))

    async def StopPodSandbox(self, request: pb.StopPodSandboxRequest, context: Ctx) -> pb.StopPodSandboxResponse:
        await self._run(commands.StopPod(request.pod_sandbox_id), context)
        return pb.StopPodSandboxResponse()

    async def RemovePodSandbox(self, request: pb.RemovePodSandboxRequest, context: Ctx) -> pb.RemovePodSandboxResponse:
        await self._run(commands.RemovePod(request.pod_sandbox_id), context)
        return pb.RemovePodSandboxResponse()

    async def PodSandboxStatus(self, request: pb.PodSandboxStatusRequest, context: Ctx) -> pb.PodSandboxStatusResponse:
        caller = ctx.of(context)
        pod = await self._pod(request.pod_sandbox_id, caller)
        status, members = await self._pod_statuses(pod, caller)
        info: dict[str, str] = {}
        if request.verbose:
            info = verbose.pod_info(pod, await self._engine.run(commands.DescribePod(pod.id), caller))
        return pb.PodSandboxStatusResponse(
            status=status,
            info=info,
            containers_statuses=members,
            timestamp=time.time_ns(),
        )

    async def ListPodSandbox(self, request: pb.ListPodSandboxRequest, context: Ctx) -> pb.ListPodSandboxResponse:
        found = await self._pods_found(request.filter, ctx.of(context))
        return pb.ListPodSandboxResponse.FromString(b"".join(map(self._listed_pod, found)))

    async def StreamPodSandboxes(
        self, request: pb.StreamPodSandboxesRequest, context: Ctx
    ) -> AsyncIterator[pb.StreamPodSandboxesResponse]:
        found = await self._pods_found(request.filter, ctx.of(context))
        for batch in common.batches(map(convert_pod.pod, found)):
            yield pb.StreamPodSandboxesResponse(pod_sandboxes=batch)

    async def UpdatePodSandboxResources(
        self, request: pb.UpdatePodSandboxResourcesRequest, context: Ctx
    ) -> pb.UpdatePodSandboxResourcesResponse:
        command = commands.UpdatePod(
            request.pod_sandbox_id, common.resources(request.resources), common.resources(request.overhead)
        )
        await self._run(command, context)
        return pb.UpdatePodSandboxResourcesResponse()

    async def _pods_found(self, wanted: pb.PodSandboxFilter, caller: Context) -> list[PodRecord]:
        """Without those that are still being made: whoever asked for them has no ID yet, and nobody else shall collect them."""
        records = await self._engine.run(commands.ListPods(), caller)
        return filters.pods([record for record in records if record.state != "starting"], wanted)
