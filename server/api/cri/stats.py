"""The RPCs of statistics: what containers and pods use now."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing

from moorage.cri.v1 import api_pb2 as pb
from moorage.server.api import context as ctx
from moorage.server.api.cri import common, filters
from moorage.server.api.cri.calls import Calls, Ctx, Setting
from moorage.server.api.cri.convert_container import container_metadata
from moorage.server.api.cri.convert_pod import pod_metadata
from moorage.server.api.derived import Derived
from moorage.server.engine import commands
from moorage.server.engine import podcommands as pods
from moorage.server.engine.engine import Engine
from moorage.server.engine.job import Context
from moorage.server.errors import MoorageError, NotFound
from moorage.server.model import Container, DiskUsage, PodRecord

log = logging.getLogger("moorage.api")

SIZE_SECONDS = 10.0
"""How old the size of a writable layer may be: to learn it means to walk a tree of files."""
SIZER = Context("cri-stats")


class LayerUsages:
    """What writable layers take, learnt in the background. Belongs to the event loop."""

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
            ids = tuple(self._wanted)
            try:
                found = await self._engine.run(commands.MeasureContainers(ids), SIZER)
            except MoorageError as error:
                # The next who asks has it tried again.
                log.warning("cannot measure writable layers", extra={"error": error.message})
                self._wanted.clear()
                return
            for container_id in ids:
                del self._wanted[container_id]
                self._known.pop(container_id, None)
            now = time.monotonic()
            self._known.update({container_id: (now, usage) for container_id, usage in found.items()})

    async def _learn(self, container_id: str, caller: Context) -> DiskUsage:
        usages = await self._engine.run(commands.MeasureContainers((container_id,)), caller)
        if container_id not in usages:
            raise NotFound(f"container {container_id[:12]} is being removed", container=container_id)
        self._known[container_id] = (time.monotonic(), usages[container_id])
        return usages[container_id]

    def keep(self, container_ids: Iterable[str]) -> None:
        """Forget all others."""
        for container_id in self._known.keys() - set(container_ids):
            del self._known[container_id]


class StatsCalls(Calls):
    """Statistics of containers and of pods."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._usages = LayerUsages(setting.engine)
        self._unchanging = Derived(self._of_record)

    async def ContainerStats(self, request: pb.ContainerStatsRequest, context: Ctx) -> pb.ContainerStatsResponse:
        caller = ctx.of(context)
        container = await self._container(request.container_id, caller)
        samples = await self._samples(caller, container.id)
        usage = await self._usages.fresh(container.id, caller)
        response = pb.ContainerStatsResponse()
        self._fill_container(response.stats, container, samples.get(container.id), usage)
        return response

    async def ListContainerStats(
        self, request: pb.ListContainerStatsRequest, context: Ctx
    ) -> pb.ListContainerStatsResponse:
        return await self._listed_containers(request.filter, ctx.of(context))

    async def StreamContainerStats(
        self, request: pb.StreamContainerStatsRequest, context: Ctx
    ) -> AsyncIterator[pb.StreamContainerStatsResponse]:
        listed = await self._listed_containers(request.filter, ctx.of(context))
        for batch in common.batches(listed.stats):
            yield pb.StreamContainerStatsResponse(container_stats=batch)

    async def PodSandboxStats(self, request: pb.PodSandboxStatsRequest, context: Ctx) -> pb.PodSandboxStatsResponse:
        caller = ctx.of(context)
        pod = await self._pod(request.pod_sandbox_id, caller)
        found = await self._pod_stats([pod], caller)
        if not found.stats:
            raise NotFound(f"pod {pod.id[:12]} does not run, and so uses nothing", pod=pod.id, state=pod.state)
        return pb.PodSandboxStatsResponse(stats=found.stats[0])

    async def ListPodSandboxStats(
        self, request: pb.ListPodSandboxStatsRequest, context: Ctx
    ) -> pb.ListPodSandboxStatsResponse:
        return await self._listed_pods(request.filter, ctx.of(context))

    async def StreamPodSandboxStats(
        self, request: pb.StreamPodSandboxStatsRequest, context: Ctx
    ) -> AsyncIterator[pb.StreamPodSandboxStatsResponse]:
        listed = await self._listed_pods(request.filter, ctx.of(context))
        for batch in common.batches(listed.stats):
            yield pb.StreamPodSandboxStatsResponse(pod_sandbox_stats=batch)

    async def _listed_containers(
        self, wanted: pb.ContainerStatsFilter, caller: Context
    ) -> pb.ListContainerStatsResponse:
        known = await self._containers(caller)
        self._usages.keep(container.id for container in known)
        found = filters.containers_with_stats(known, wanted)
        samples = await self._samples(caller)
        response = pb.ListContainerStatsResponse()
        for container in found:
            if container.id in samples:
                usage = self._usages.get(container.id)
                self._fill_container(response.stats.add(), container, samples[container.id], usage)
        return response

    async def _listed_pods(self, wanted: pb.PodSandboxStatsFilter, caller: Context) -> pb.ListPodSandboxStatsResponse:
        records = await self._engine.run(pods.ListPods(), caller)
        return await self._pod_stats(filters.pods_with_stats(records, wanted), caller)

    async def _pod_stats(self, records: list[PodRecord], caller: Context) -> pb.ListPodSandboxStatsResponse:
        wanted = {record.id for record in records}
        containers = {container.id: container for container in await self._containers(caller)}
        response = pb.ListPodSandboxStatsResponse()
        for sample in await self._engine.run(pods.SamplePods(), caller):
            if sample.pod.id in wanted:
                self._fill_pod(response.stats.add(), sample, containers)
        return response

    async def _samples(self, caller: Context, *ids: str) -> dict[str, commands.Sample]:
        """What the containers use now that run, by ID."""
        found: dict[str, commands.Sample] = {}
        # To its end, which comes after the first: a stream that is left is a caller who hung up.
        async with aclosing(self._engine.stream(commands.Stats(ids), caller)) as items:
            async for samples in items:
                found = {sample.id: sample for sample in samples}
        return found

    def _fill_pod(self, message: pb.PodSandboxStats, sample: pods.PodSample, containers: dict[str, Container]) -> None:
        config = sample.pod.config
        when = sample.time_ns or time.time_ns()
        message.attributes.id = sample.pod.id
        message.attributes.metadata.CopyFrom(pod_metadata(config))
        message.attributes.labels.update(config.labels)
        message.attributes.annotations.update(config.annotations)
        _fill_cpu(message.linux.cpu, when, sample.cpu_ns, sample.cpu_nano_cores)
        _fill_memory(message.linux.memory, sample, when)
        _fill_network(message.linux, sample, when)
        message.linux.process.timestamp = when
        message.linux.process.process_count.value = sample.pids
        for each in sample.containers:
            if each.id in containers:
                member = message.linux.containers.add()
                self._fill_container(member, containers[each.id], each, self._usages.get(each.id))

    def _fill_container(
        self, message: pb.ContainerStats, container: Container, sample: commands.Sample | None, usage: DiskUsage | None
    ) -> None:
        """One that does not run has only attributes and a writable layer."""
        when = sample.time_ns if sample else time.time_ns()
        message.MergeFromString(self._unchanging(container))
        message.writable_layer.timestamp = when
        message.writable_layer.used_bytes.value = usage.bytes if usage else 0
        message.writable_layer.inodes_used.value = usage.inodes if usage else 0
        if sample is not None:
            _fill_cpu(message.cpu, when, sample.cpu_ns, sample.cpu_nano_cores)
            _fill_memory(message.memory, sample, when)
            message.memory.available_bytes.value = max(0, sample.memory_limit - sample.working_set)
            message.swap.timestamp = when
            message.swap.swap_usage_bytes.value = sample.swap

    def _of_record(self, container: Container) -> bytes:
        """What a container's record says of its statistics, serialised."""
        config = container.config
        message = pb.ContainerStats(
            attributes=pb.ContainerAttributes(
                id=container.id,
                metadata=container_metadata(config),
                labels=config.labels,
                annotations=config.annotations,
            ),
            writable_layer=pb.FilesystemUsage(fs_id=pb.FilesystemIdentifier(mountpoint=str(self._setting.root))),
        )
        return message.SerializeToString()


# Filled in place: a message made first would be copied into the one that it is a part of.


def _fill_memory(message: pb.MemoryUsage, sample: commands.Sample | pods.PodSample, when: int) -> None:
    """What is available stays unset: no limit is known here."""
    message.timestamp = when
    message.working_set_bytes.value = sample.working_set
    message.usage_bytes.value = sample.memory
    message.rss_bytes.value = sample.rss
    message.page_faults.value = sample.page_faults
    message.major_page_faults.value = sample.major_page_faults


def _fill_cpu(message: pb.CpuUsage, when: int, used: int, rate: int | None) -> None:
    """The rate stays unset until there are two samples to tell it from."""
    message.timestamp = when
    message.usage_core_nano_seconds.value = used
    if rate is not None:
        message.usage_nano_cores.value = rate


def _fill_network(message: pb.LinuxPodSandboxStats, sample: pods.PodSample, when: int) -> None:
    """Unset for a pod without an interface of its own."""
    endpoint = sample.pod.endpoint
    if endpoint is None or not endpoint.host_interface:
        return
    message.network.timestamp = when
    interface = message.network.default_interface
    interface.name = endpoint.interface
    traffic = sample.traffic
    interface.rx_bytes.value, interface.rx_errors.value = traffic.rx_bytes, traffic.rx_errors
    interface.tx_bytes.value, interface.tx_errors.value = traffic.tx_bytes, traffic.tx_errors
    message.network.interfaces.add().CopyFrom(interface)
