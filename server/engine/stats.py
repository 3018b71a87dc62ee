"""Handler for stats: one sampler that all readers share, from the cgroups and the host's ends of the links.

A sample of everything is taken when a reader needs one that is newer than the last; each container's cgroup files stay open between
samples (opening them is most of the cost).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable

import psutil

from moorage.server.engine import commands
from moorage.server.engine.containers import Containers
from moorage.server.engine.job import Job
from moorage.server.errors import InvalidArgument
from moorage.server.libcontainer.cgroups import CgroupManager, CgroupStats, Sampler
from moorage.server.model import Container
from moorage.server.networkdriver.counters import Counters, read_counters

FRESH_SECONDS = 0.05
NO_COUNTERS = Counters(0, 0, 0, 0)


class Stats:
    """Streams of samples. Belongs to the event loop."""

    def __init__(self, containers: Containers, cgroups: CgroupManager, cgroup_path: Callable[[str], str]) -> None:
        self._containers = containers
        self._cgroups = cgroups
        self._cgroup_path = cgroup_path
        self._samplers: dict[tuple[str, int], Sampler] = {}
        self._samples: dict[str, commands.Sample] = {}
        self._taken = 0.0
        self._host_memory = psutil.virtual_memory().total

    async def stream(self, job: Job, command: commands.Stats) -> AsyncIterator[list[commands.Sample]]:
        """One sample, or one every `interval` seconds."""
        if command.stream and command.interval < 0.1:
            raise InvalidArgument("interval must be at least 100 ms", field="interval_millis")
        ids = [self._containers.resolve(text) for text in command.ids]
        while True:
            samples = self._sample()
            wanted = ids or sorted(samples)
            yield [samples[container_id] for container_id in wanted if container_id in samples]
            if not command.stream:
                return
            await asyncio.sleep(command.interval)

    def close(self) -> None:
        """Let go of the cgroup files."""
        for sampler in self._samplers.values():
            sampler.close()
        self._samplers.clear()

    def _sample(self) -> dict[str, commands.Sample]:
        now = time.monotonic()
        if now - self._taken >= FRESH_SECONDS:
            running = [c for c in self._containers.all() if c.state == "running"]
            self._drop_others(running)
            links = read_counters()
            before, self._samples = self._samples, {}
            for container in running:
                stats = self._read(container)
                if stats is not None:
                    self._samples[container.id] = self._one(container, stats, links, before.get(container.id))
            self._taken = now
        return self._samples

    def _read(self, container: Container) -> CgroupStats | None:
        """None when the container has ended since it was listed."""
        key = (container.id, container.started_ns)
        try:
            if key not in self._samplers:
                self._samplers[key] = self._cgroups.cgroup(self._cgroup_path(container.id)).sampler()
            return self._samplers[key].read()
        except OSError:
            return None

    def _drop_others(self, running: Iterable[Container]) -> None:
        keep = {(container.id, container.started_ns) for container in running}
        for key in self._samplers.keys() - keep:
            self._samplers.pop(key).close()

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
            cpu_nano_cores=_rate(stats.cpu_usage_ns, now, before),
            cpu_throttled_ns=stats.cpu_throttled_ns,
            memory=stats.memory_usage,
            working_set=max(0, stats.memory_usage - stats.memory_inactive_file),
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


def _rate(cpu_ns: int, now: int, before: commands.Sample | None) -> int | None:
    """CPU used since the sample before, in billionths of a CPU."""
    if before is None or cpu_ns < before.cpu_ns or now <= before.time_ns:
        return None
    return (cpu_ns - before.cpu_ns) * 1_000_000_000 // (now - before.time_ns)
