"""The RPCs of metrics: the names that cAdvisor gave the figures of containers, which Kubernetes' users know."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass

from moorage.cri.v1 import api_pb2 as pb
from moorage.server.api import context as ctx
from moorage.server.api.cri import common
from moorage.server.api.cri.calls import Ctx
from moorage.server.api.cri.stats import StatsCalls
from moorage.server.engine import podcommands as pods
from moorage.server.engine.job import Context
from moorage.server.model import Container, PodRecord

LABELS = ("id", "name", "image", "container", "namespace", "pod")
"""What every metric has, before its own."""

SECOND = 1_000_000_000


@dataclass(frozen=True)
class Metric:
    """One metric: where its value comes from (a Reading's name, divided by `unit`) and what its labels are."""

    name: str
    help: str
    source: str
    counter: bool = False
    unit: int = 1
    keys: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    """Of the keys that the reading itself does not give."""


def _counter(
    name: str, source: str, text: str, unit: int = 1, keys: tuple[str, ...] = (), values: tuple[str, ...] = ()
) -> Metric:
    return Metric(f"container_{name}", text, source, True, unit, keys, values)


def _gauge(name: str, source: str, text: str, keys: tuple[str, ...] = (), values: tuple[str, ...] = ()) -> Metric:
    return Metric(f"container_{name}", text, source, False, 1, keys, values)


def _pressures() -> Iterator[Metric]:
    for what in ("cpu", "memory", "io"):
        yield _counter(
            f"pressure_{what}_waiting_seconds_total",
            f"{what}_pressure_some_us",
            f"Time that tasks waited for {what}.",
            10**6,
        )
        yield _counter(
            f"pressure_{what}_stalled_seconds_total",
            f"{what}_pressure_full_us",
            f"Time that no task could go on for {what}.",
            10**6,
        )


def _networks() -> Iterator[Metric]:
    for direction in ("receive", "transmit"):
        for what in ("bytes", "packets", "errors", "packets_dropped"):
            text = f"Network {what.replace('_', ' ')}, {direction}."
            yield _counter(f"network_{direction}_{what}_total", f"{direction}_{what}", text, keys=("interface",))


_DEVICE = ("device",)
_SCOPE = ("failure_type", "scope")
METRICS: tuple[Metric, ...] = (
    _counter("cpu_usage_seconds_total", "cpu_ns", "CPU time used.", SECOND, ("cpu",), ("total",)),
    _counter("cpu_user_seconds_total", "cpu_user_ns", "CPU time used in user mode.", SECOND),
    _counter("cpu_system_seconds_total", "cpu_system_ns", "CPU time used in the kernel.", SECOND),
    _counter("cpu_cfs_periods_total", "periods", "Periods in which the CPU quota was enforced."),
    _counter("cpu_cfs_throttled_periods_total", "throttled", "Periods in which the quota was used up."),
    _counter("cpu_cfs_throttled_seconds_total", "throttled_ns", "Time spent throttled.", SECOND),
    _counter(
        "blkio_device_usage_total",
        "device_usage",
        "Bytes moved to and from block devices.",
        1,
        ("device", "major", "minor", "operation"),
    ),
    _gauge("file_descriptors", "file_descriptors", "Open file descriptors."),
    _gauge("fs_inodes_free", "inodes_free", "Free inodes of the file system.", _DEVICE, ("",)),
    _gauge("fs_inodes_total", "inodes_total", "Inodes of the file system.", _DEVICE, ("",)),
    _gauge("fs_limit_bytes", "fs_limit", "Size of the file system.", _DEVICE, ("",)),
    _gauge("fs_usage_bytes", "fs_usage", "Bytes in the writable layer.", _DEVICE, ("",)),
    _counter("fs_reads_bytes_total", "read_bytes", "Bytes read from block devices.", 1, _DEVICE, ("",)),
    _counter("fs_reads_total", "read_count", "Reads from block devices.", 1, _DEVICE, ("",)),
    _counter("fs_writes_bytes_total", "write_bytes", "Bytes written to block devices.", 1, _DEVICE, ("",)),
    _counter("fs_writes_total", "write_count", "Writes to block devices.", 1, _DEVICE, ("",)),
    _gauge("last_seen", "last_seen", "When the container was last seen, in seconds since the epoch."),
    _gauge("memory_cache", "memory_cache", "Bytes of page cache."),
    _counter("memory_failcnt", "memory_failcnt", "Times that the memory limit was hit."),
    _counter("memory_failures_total", "page_faults", "Page faults.", 1, _SCOPE, ("pgfault", "hierarchy")),
    _counter("memory_failures_total", "major_page_faults", "Page faults.", 1, _SCOPE, ("pgmajfault", "hierarchy")),
    _gauge("memory_kernel_usage", "memory_kernel", "Bytes of kernel memory."),
    _gauge("memory_mapped_file", "memory_mapped_file", "Bytes of mapped files."),
    _gauge("memory_max_usage_bytes", "memory_max_usage", "Most memory ever used."),
    _gauge("memory_rss", "memory_rss", "Bytes of anonymous memory."),
    _gauge("memory_swap", "memory_swap", "Bytes of swap used."),
    _gauge("memory_total_active_file_bytes", "memory_active_file", "Bytes of page cache in use of late."),
    _gauge("memory_total_inactive_file_bytes", "memory_inactive_file", "Bytes of page cache not in use of late."),
    _gauge("memory_usage_bytes", "memory_usage", "Memory used, with all caches."),
    _gauge("memory_working_set_bytes", "working_set", "Memory used, without inactive page cache."),
    *_networks(),
    _counter("oom_events_total", "oom_kills", "Processes killed for want of memory."),
    *_pressures(),
    _gauge("processes", "processes", "Processes."),
    _gauge("sockets", "sockets", "Open sockets."),
    _gauge("spec_cpu_period", "cpu_period", "Period of the CPU quota, in microseconds."),
    _gauge("spec_cpu_quota", "spec_cpu_quota", "CPU quota in each period, in microseconds; 0 for none."),
    _gauge("spec_cpu_shares", "cpu_shares", "CPU shares."),
    _gauge("spec_memory_limit_bytes", "memory_limit", "Memory limit; 0 for none."),
    _gauge("spec_memory_reservation_limit_bytes", "memory_reservation", "Memory reservation; 0 for none."),
    _gauge("spec_memory_swap_limit_bytes", "memory_swap_limit", "Limit of memory and swap; 0 for none."),
    _gauge("start_time_seconds", "started", "When the container was started, in seconds since the epoch."),
    _gauge("threads", "threads", "Threads."),
    _gauge("threads_max", "pids_max", "Most threads allowed; 0 for no limit."),
    _gauge(
        "ulimits_soft",
        "open_files_limit",
        "Soft resource limits of the first process.",
        ("ulimit",),
        ("max_open_files",),
    ),
)


class MetricCalls(StatsCalls):
    """Descriptors, and metrics of all ready pods."""

    async def ListMetricDescriptors(
        self, request: pb.ListMetricDescriptorsRequest, context: Ctx
    ) -> pb.ListMetricDescriptorsResponse:
        offered = self._offered()
        named = {metric.name: metric for metric in METRICS if offered(metric)}
        return pb.ListMetricDescriptorsResponse(descriptors=[_descriptor(metric) for metric in named.values()])

    async def ListPodSandboxMetrics(
        self, request: pb.ListPodSandboxMetricsRequest, context: Ctx
    ) -> pb.ListPodSandboxMetricsResponse:
        return pb.ListPodSandboxMetricsResponse(pod_metrics=await self._all_metrics(ctx.of(context)))

    async def StreamPodSandboxMetrics(
        self, request: pb.StreamPodSandboxMetricsRequest, context: Ctx
    ) -> AsyncIterator[pb.StreamPodSandboxMetricsResponse]:
        for batch in common.batches(await self._all_metrics(ctx.of(context))):
            yield pb.StreamPodSandboxMetricsResponse(pod_sandbox_metrics=batch)

    def _offered(self) -> Callable[[Metric], bool]:
        """Pressure is told of each cgroup on version 2 only."""
        pressure = self._setting.features.pressure
        return lambda metric: pressure or "_pressure_" not in metric.name

    async def _all_metrics(self, caller: Context) -> list[pb.PodSandboxMetrics]:
        measured = await self._engine.run(pods.MeasurePods(), caller)
        disk = await asyncio.to_thread(os.statvfs, self._setting.root)
        return [self._pod_metrics(each, disk) for each in measured]

    def _pod_metrics(self, measured: pods.Measured, disk: os.statvfs_result) -> pb.PodSandboxMetrics:
        pod, when = measured.pod, measured.time_ns
        return pb.PodSandboxMetrics(
            pod_sandbox_id=pod.id,
            metrics=list(_metrics(measured.network, _labels(pod, None), when)),
            container_metrics=[
                pb.ContainerMetrics(
                    container_id=container.id,
                    metrics=list(
                        _metrics(
                            [*readings, *self._derived(container, readings, when, disk)], _labels(pod, container), when
                        )
                    ),
                )
                for container, readings in measured.containers
            ],
        )

    def _derived(
        self, container: Container, readings: Iterable[pods.Reading], when: int, disk: os.statvfs_result
    ) -> Iterator[pods.Reading]:
        """What is not read of the container's own cgroup and processes."""
        known = {reading.name: reading.value for reading in readings}
        usage, inactive = known.get("memory_usage", 0), known.get("memory_inactive_file", 0)
        yield pods.Reading("working_set", max(0, usage - inactive))
        yield pods.Reading("spec_cpu_quota", max(0, known.get("cpu_quota", 0)))
        yield pods.Reading("last_seen", when // SECOND)
        yield pods.Reading("started", container.started_ns // SECOND)
        layer = self._usages.get(container.id)
        yield pods.Reading("fs_usage", layer.bytes if layer else 0)
        yield pods.Reading("fs_limit", disk.f_blocks * disk.f_frsize)
        yield pods.Reading("inodes_free", disk.f_ffree)
        yield pods.Reading("inodes_total", disk.f_files)


def _descriptor(metric: Metric) -> pb.MetricDescriptor:
    return pb.MetricDescriptor(name=metric.name, help=metric.help, label_keys=(*LABELS, *metric.keys))


def _labels(pod: PodRecord, container: Container | None) -> tuple[str, ...]:
    """Values for LABELS."""
    own = (container.id, container.name, container.config.image) if container else (pod.id, "", "")
    name = container.config.metadata_name if container else ""
    return (*own, name, pod.config.namespace, pod.config.name)


def _metrics(readings: Iterable[pods.Reading], labels: tuple[str, ...], when: int) -> Iterator[pb.Metric]:
    for reading in readings:
        for metric in _BY_SOURCE.get(reading.name, ()):
            yield pb.Metric(
                name=metric.name,
                timestamp=when,
                metric_type=pb.COUNTER if metric.counter else pb.GAUGE,
                label_values=(*labels, *(metric.values or reading.labels)),
                value=pb.UInt64Value(value=max(0, reading.value) // metric.unit),
            )


_BY_SOURCE: dict[str, list[Metric]] = {}
for _metric in METRICS:
    _BY_SOURCE.setdefault(_metric.source, []).append(_metric)
