"""Handler for stats: one sampler that all readers share, from the cgroups and the host's ends of the links.

A sample of all containers, or of all pods, is taken when a reader needs one that is newer than the last; the cgroups' files stay open
between samples (opening them is most of the cost).
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Set
from typing import Generic, TypeVar

import psutil

from moorage.server.engine import commands
from moorage.server.engine.containers import Containers
from moorage.server.engine.job import Job
from moorage.server.engine.places import Places
from moorage.server.engine.podcommands import PodSample, SamplePods
from moorage.server.engine.pods import Pods
from moorage.server.errors import InvalidArgument
from moorage.server.libcontainer.cgroups import CgroupManager, CgroupStats, Sampler
from moorage.server.model import Container, PodRecord
from moorage.server.networkdriver.counters import Counters, read_counters

T = TypeVar("T")

FRESH_SECONDS = 0.05
BREATH_SECONDS = 0.002
NO_COUNTERS = Counters(0, 0, 0, 0, 0, 0)
Key = tuple[str, int]
"""Who has a cgroup, and since when: one that is started again has another."""


class Readers(Generic[T]):
    """The cgroups of containers, or of pods, which are read together."""

    def __init__(self, cgroups: CgroupManager, path: Callable[[T], str]) -> None:
        self._cgroups = cgroups
        self._path = path
        self._samplers: dict[Key, Sampler] = {}
        self._done: set[Key] = set()
        self._begun = 0.0

    def stale(self, keys: Set[Key]) -> bool:
        """Whether all are to be read again: the last time is too long ago, or some were not there then."""
        return time.monotonic() - self._begun >= FRESH_SECONDS or not keys <= self._done

    def read(self, key: Key, owner: T) -> CgroupStats | None:
        """None when the cgroup has gone since its owner was listed."""
        try:
            if key not in self._samplers:
                self._samplers[key] = self._cgroups.cgroup(self._path(owner)).sampler()
            return self._samplers[key].read()
        except OSError:
            return None

    def done(self, keys: Set[Key], begun: float) -> None:
        """All of these were read, from `begun` on (on the monotonic clock); the files of others are closed."""
        for key in self._samplers.keys() - keys:
            self._samplers.pop(key).close()
        self._done, self._begun = set(keys), begun

    def close(self) -> None:
        """Let go of the cgroups' files."""
        for sampler in self._samplers.values():
            sampler.close()
        self._samplers.clear()


class Stats:
    """Streams of samples. Belongs to the event loop."""

    def __init__(self, containers: Containers, pods: Pods, cgroups: CgroupManager, places: Places) -> None:
        self._containers = containers
        self._pods = pods
        self._of_containers = Readers[Container](cgroups, lambda container: places.cgroup_path(container.id))
        self._of_pods = Readers[PodRecord](cgroups, places.pod_cgroup_path)
        self._samples: dict[str, commands.Sample] = {}
        self._pod_samples: dict[str, PodSample] = {}
        self._sampling = asyncio.Lock()
        self._host_memory = psutil.virtual_memory().total

    async def stream(self, job: Job, command: commands.Stats) -> AsyncIterator[list[commands.Sample]]:
        """One sample, or one every `interval` seconds."""
        if command.stream and command.interval < 0.1:
            raise InvalidArgument("interval must be at least 100 ms", field="interval_millis")
        ids = [self._containers.resolve(text) for text in command.ids]
        while True:
            async with self._sampling:
                samples = await self._sample_containers()
            wanted = ids or sorted(samples)
            yield [samples[container_id] for container_id in wanted if container_id in samples]
            if not command.stream:
                return
            await asyncio.sleep(command.interval)

    async def pods(self, job: Job, command: SamplePods) -> list[PodSample]:
        """One sample of each pod that is ready, or of those named that are."""
        ids = [self._pods.resolve(text) for text in command.ids]
        async with self._sampling:
            await self._sample_containers()
            await self._sample_pods()
        return [self._pod_samples[pod_id] for pod_id in ids or self._pod_samples if pod_id in self._pod_samples]

    def close(self) -> None:
        """Let go of the cgroups' files."""
        self._of_containers.close()
        self._of_pods.close()

    async def _sample_containers(self) -> dict[str, commands.Sample]:
        """Those that run. What is newer than the last sample has it taken again, however young it is."""
        running = {(c.id, c.started_ns): c for c in self._containers.all() if c.state == "running"}
        if not self._of_containers.stale(running.keys()):
            return self._samples
        begun, links = time.monotonic(), read_counters()
        samples = {}
        breath = begun
        for key, container in running.items():
            stats = self._of_containers.read(key, container)
            if stats is not None:
                samples[container.id] = self._one(container, stats, links, self._samples.get(container.id))
            breath = await _breathe(breath)
        self._of_containers.done(running.keys(), begun)
        self._samples = samples
        return samples

    async def _sample_pods(self) -> None:
        """Those that are ready, with the last samples of their containers."""
        ready = {(pod.id, pod.created_ns): pod for pod in self._pods.all() if pod.state == "ready"}
        if not self._of_pods.stale(ready.keys()):
            return
        begun, links, inside = time.monotonic(), read_counters(), self._by_pod()
        samples = {}
        breath = begun
        for key, pod in ready.items():
            stats = self._of_pods.read(key, pod)
            if stats is not None:
                samples[pod.id] = _pod(pod, stats, links, self._pod_samples.get(pod.id), tuple(inside[pod.id]))
            breath = await _breathe(breath)
        self._of_pods.done(ready.keys(), begun)
        self._pod_samples = samples

    def _by_pod(self) -> dict[str, list[commands.Sample]]:
        inside: defaultdict[str, list[commands.Sample]] = defaultdict(list)
        for container_id, sample in self._samples.items():
            container = self._containers.find(container_id)
            if container is not None and container.pod_id:
                inside[container.pod_id].append(sample)
        return inside

    def _one(
        self,
        container: Container,
        stats: CgroupStats,
        links: dict[str, Counters],
        before: commands.Sample | None,
    ) -> commands.Sample:
        now = time.time_ns()
        interface = container.endpoint.host_interface if container.endpoint else ""
        link = links.get(interface, NO_COUNTERS)
        return commands.Sample(
            id=container.id,
            name=container.name,
            time_ns=now,
            cpu_ns=stats.cpu_usage_ns,
            cpu_nano_cores=_rate(stats.cpu_usage_ns, now, before.cpu_ns, before.time_ns) if before else None,
            cpu_throttled_ns=stats.cpu_throttled_ns,
            memory=stats.memory_usage,
            working_set=max(0, stats.memory_usage - stats.memory_inactive_file),
            rss=stats.memory_rss,
            swap=stats.memory_swap,
            page_faults=stats.page_faults,
            major_page_faults=stats.major_page_faults,
            memory_limit=stats.memory_limit or self._host_memory,
            pids=stats.pids,
            pids_limit=stats.pids_limit,
            io_read=stats.io_read_bytes,
            io_write=stats.io_write_bytes,
            rx_bytes=link.rx_bytes,
            tx_bytes=link.tx_bytes,
            rx_packets=link.rx_packets,
            tx_packets=link.tx_packets,
            oom_kills=stats.oom_kills,
        )


async def _breathe(last: float) -> float:
    """Let other calls have their turn when the last time is a while ago; answers when that is now."""
    if time.monotonic() - last < BREATH_SECONDS:
        return last
    await asyncio.sleep(0)
    return time.monotonic()


def _pod(
    pod: PodRecord,
    stats: CgroupStats,
    links: dict[str, Counters],
    before: PodSample | None,
    containers: tuple[commands.Sample, ...],
) -> PodSample:
    now = time.time_ns()
    link = links.get(pod.endpoint.host_interface if pod.endpoint else "", NO_COUNTERS)
    return PodSample(
        pod=pod,
        time_ns=now,
        cpu_ns=stats.cpu_usage_ns,
        cpu_nano_cores=_rate(stats.cpu_usage_ns, now, before.cpu_ns, before.time_ns) if before else None,
        memory=stats.memory_usage,
        working_set=max(0, stats.memory_usage - stats.memory_inactive_file),
        rss=stats.memory_rss,
        page_faults=stats.page_faults,
        major_page_faults=stats.major_page_faults,
        pids=stats.pids,
        traffic=link,
        containers=containers,
    )


def _rate(cpu_ns: int, now: int, cpu_before: int, before: int) -> int | None:
    """CPU used since the sample before, in billionths of a CPU."""
    if cpu_ns < cpu_before or now <= before:
        return None
    return (cpu_ns - cpu_before) * 1_000_000_000 // (now - before)
