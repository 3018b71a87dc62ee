"""The RPCs of statistics: what containers and pods use now."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing

from moorage.cri.v1 import api_pb2 as pb
from moorage.server.api import context as ctx
from moorage.server.api.cri import common, filters
from moorage.server.api.cri.calls import Calls, Ctx, Setting
from moorage.server.api.cri.convert_container import container_metadata
from moorage.server.api.cri.convert_pod import pod_metadata
from moorage.server.engine import commands
from moorage.server.engine import podcommands as pods
from moorage.server.engine.engine import Engine
from moorage.server.engine.job import Context
from moorage.server.errors import MoorageError, NotFound
from moorage.server.model import Container, DiskUsage, PodRecord

SIZE_SECONDS = 10.0
"""How old the size of a writable layer may be: to learn it means to walk a tree of files."""
SIZER = Context("cri-stats")


class LayerUsages:
    """What writable layers take, learnt in the background, one after the other. Belongs to the event loop."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: dict[str, tuple[float, DiskUsage]] = {}
        self._wanted: dict[str, None] = {}
        self._task: asyncio.Task[None] | None = None

    def get(self, container_id: str) -> DiskUsage | None:
        """What was last learnt; None before the first time. Has it learnt again when that is too long ago."""
        known = self._known.get(container_id)
        if known is None or time.monotonic() - known[0] > SIZE_SECONDS:
            self._wanted[container_id] = None
            if self._task is None or self._task.done():
                self._task = asyncio.get_running_loop().create_task(self._learn_all(), name="cri-layer-usages")
        return None if known is None else known[1]

    async def fresh(self, container_id: str, caller: Context) -> DiskUsage:
        """The usage, learnt now unless it is known."""
        known = self.get(container_id)
        return await self._learn(container_id, caller) if known is None else known

    async def _learn_all(self) -> None:
        while self._wanted:
            container_id = next(iter(self._wanted))
            del self._wanted[container_id]
            try:
                await self._learn(container_id, SIZER)
            except MoorageError:
                self._known.pop(container_id, None)

    async def _learn(self, container_id: str, caller: Context) -> DiskUsage:
        usage = await self._engine.run(commands.MeasureContainer(container_id), caller)
        self._wanted.pop(container_id, None)
        self._known[container_id] = (time.monotonic(), usage)
        return usage

    def keep(self, container_ids: Iterable[str]) -> None:
        """Forget all others."""
        for container_id in self._known.keys() - set(container_ids):
            del self._known[container_id]


class StatsCalls(Calls):
    """Statistics of containers and of pods."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._usages = LayerUsages(setting.engine)

    async def ContainerStats(self, request: pb.ContainerStatsRequest, context: Ctx) -> pb.ContainerStatsResponse:
        caller = ctx.of(context)
        container = await self._container(request.container_id, caller)
        samples = await self._samples(caller, container.id)
        usage = await self._usages.fresh(container.id, caller)
        return pb.ContainerStatsResponse(stats=self._container_stats(container, samples.get(container.id), usage))

    async def ListContainerStats(
        self, request: pb.ListContainerStatsRequest, context: Ctx
    ) -> pb.ListContainerStatsResponse:
        return pb.ListContainerStatsResponse(stats=await self._listed_containers(request.filter, ctx.of(context)))

    async def StreamContainerStats(
        self, request: pb.StreamContainerStatsRequest, context: Ctx
    ) -> AsyncIterator[pb.StreamContainerStatsResponse]:
        for batch in common.batches(await self._listed_containers(request.filter, ctx.of(context))):
            yield pb.StreamContainerStatsResponse(container_stats=batch)

    async def PodSandboxStats(self, request: pb.PodSandboxStatsRequest, context: Ctx) -> pb.PodSandboxStatsResponse:
        caller = ctx.of(context)
        pod = await self._pod(request.pod_sandbox_id, caller)
        found = await self._pod_stats([pod], caller)
        if not found:
            raise NotFound(f"pod {pod.id[:12]} does not run, and so uses nothing", pod=pod.id, state=pod.state)
        return pb.PodSandboxStatsResponse(stats=found[0])

    async def ListPodSandboxStats(
        self, request: pb.ListPodSandboxStatsRequest, context: Ctx
    ) -> pb.ListPodSandboxStatsResponse:
        return pb.ListPodSandboxStatsResponse(stats=await self._listed_pods(request.filter, ctx.of(context)))

    async def StreamPodSandboxStats(
        self, request: pb.StreamPodSandboxStatsRequest, context: Ctx
    ) -> AsyncIterator[pb.StreamPodSandboxStatsResponse]:
        for batch in common.batches(await self._listed_pods(request.filter, ctx.of(context))):
            yield pb.StreamPodSandboxStatsResponse(pod_sandbox_stats=batch)

    async def _listed_containers(self, wanted: pb.ContainerStatsFilter, caller: Context) -> list[pb.ContainerStats]:
        known = await self._containers(caller)
        self._usages.keep(container.id for container in known)
        found = filters.containers_with_stats(known, wanted)
        samples = await self._samples(caller)
        return [
            self._container_stats(container, samples[container.id], self._usages.get(container.id))
            for container in found
            if container.id in samples
        ]

    async def _listed_pods(self, wanted: pb.PodSandboxStatsFilter, caller: Context) -> list[pb.PodSandboxStats]:
        records = await self._engine.run(pods.ListPods(), caller)
        return await self._pod_stats(filters.pods_with_stats(records, wanted), caller)

    async def _pod_stats(self, records: list[PodRecord], caller: Context) -> list[pb.PodSandboxStats]:
        wanted = {record.id for record in records}
        containers = {container.id: container for container in await self._containers(caller)}
        samples = await self._engine.run(pods.SamplePods(), caller)
        return [self._pod_message(sample, containers) for sample in samples if sample.pod.id in wanted]

    async def _samples(self, caller: Context, *ids: str) -> dict[str, commands.Sample]:
        """What the containers use now that run, by ID."""
        found: dict[str, commands.Sample] = {}
        # To its end, which comes after the first: a stream that is left is a caller who hung up.
        async with aclosing(self._engine.stream(commands.Stats(ids), caller)) as items:
            async for samples in items:
                found = {sample.id: sample for sample in samples}
        return found

    def _pod_message(self, sample: pods.PodSample, containers: dict[str, Container]) -> pb.PodSandboxStats:
        config = sample.pod.config
        when = sample.time_ns or time.time_ns()
        members = [
            self._container_stats(containers[each.id], each, self._usages.get(each.id))
            for each in sample.containers
            if each.id in containers
        ]
        return pb.PodSandboxStats(
            attributes=pb.PodSandboxAttributes(
                id=sample.pod.id,
                metadata=pod_metadata(config),
                labels=config.labels,
                annotations=config.annotations,
            ),
            linux=pb.LinuxPodSandboxStats(
                cpu=_cpu(when, sample.cpu_ns, sample.cpu_nano_cores),
                memory=_memory(sample, when),
                network=_network(sample, when),
                process=pb.ProcessUsage(timestamp=when, process_count=_value(sample.pids)),
                containers=members,
            ),
        )

    def _container_stats(
        self, container: Container, sample: commands.Sample | None, usage: DiskUsage | None
    ) -> pb.ContainerStats:
        """One that does not run has only attributes and a writable layer."""
        config = container.config
        message = pb.ContainerStats(
            attributes=pb.ContainerAttributes(
                id=container.id,
                metadata=container_metadata(config),
                labels=config.labels,
                annotations=config.annotations,
            ),
            writable_layer=pb.FilesystemUsage(
                timestamp=sample.time_ns if sample else time.time_ns(),
                fs_id=pb.FilesystemIdentifier(mountpoint=str(self._setting.root)),
                used_bytes=_value(usage.bytes if usage else 0),
                inodes_used=_value(usage.inodes if usage else 0),
            ),
        )
        if sample is not None:
            message.cpu.CopyFrom(_cpu(sample.time_ns, sample.cpu_ns, sample.cpu_nano_cores))
            message.memory.CopyFrom(_memory(sample, sample.time_ns, sample.memory_limit))
            message.swap.CopyFrom(pb.SwapUsage(timestamp=sample.time_ns, swap_usage_bytes=_value(sample.swap)))
        return message


def _memory(sample: commands.Sample | pods.PodSample, when: int, limit: int | None = None) -> pb.MemoryUsage:
    """What is available stays unset where no limit is known."""
    return pb.MemoryUsage(
        timestamp=when,
        working_set_bytes=_value(sample.working_set),
        available_bytes=None if limit is None else _value(max(0, limit - sample.working_set)),
        usage_bytes=_value(sample.memory),
        rss_bytes=_value(sample.rss),
        page_faults=_value(sample.page_faults),
        major_page_faults=_value(sample.major_page_faults),
    )


def _cpu(when: int, used: int, rate: int | None) -> pb.CpuUsage:
    """The rate stays unset until there are two samples to tell it from."""
    return pb.CpuUsage(
        timestamp=when,
        usage_core_nano_seconds=_value(used),
        usage_nano_cores=None if rate is None else _value(rate),
    )


def _network(sample: pods.PodSample, when: int) -> pb.NetworkUsage | None:
    """None for a pod without an interface of its own."""
    endpoint = sample.pod.endpoint
    if endpoint is None or not endpoint.host_interface:
        return None
    interface = pb.NetworkInterfaceUsage(
        name=endpoint.interface,
        rx_bytes=_value(sample.rx_bytes),
        tx_bytes=_value(sample.tx_bytes),
    )
    return pb.NetworkUsage(timestamp=when, default_interface=interface, interfaces=[interface])


def _value(number: int) -> pb.UInt64Value:
    return pb.UInt64Value(value=number)
