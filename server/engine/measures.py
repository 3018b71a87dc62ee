"""The handler for what is read of the kernel only when somebody asks: every figure of every pod."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from moorage.server.engine import podcommands as commands
from moorage.server.engine.containers import Containers
from moorage.server.engine.engine import Lane, Verb
from moorage.server.engine.job import Job
from moorage.server.engine.places import Places
from moorage.server.engine.podcommands import Measured, Reading
from moorage.server.engine.pods import Pods
from moorage.server.libcontainer.cgroups import CgroupManager
from moorage.server.libcontainer.cgroups.figures import FigureReader, Figures
from moorage.server.model import Container, PodRecord

NETWORK = ("bytes", "packets", "errors", "packets_dropped")
"""The first four columns of /proc/net/dev, for each direction."""


class Measures:
    """Handlers that read /proc and cgroups. Blocking."""

    def __init__(
        self, containers: Containers, pods: Pods, places: Places, cgroups: CgroupManager, figures: FigureReader
    ) -> None:
        self._containers = containers
        self._pods = pods
        self._places = places
        self._cgroups = cgroups
        self._figures = figures

    def verbs(self) -> list[Verb]:
        """Rows for the engine's table."""
        return [
            Verb("pod_measure", commands.MeasurePods, self.measure, Lane.KERNEL),
        ]

    def measure(self, job: Job, command: commands.MeasurePods) -> list[Measured]:
        """All ready pods. What ends meanwhile is left out."""
        return [self._pod(pod) for pod in self._pods.all() if pod.state == "ready"]

    def _pod(self, pod: PodRecord) -> Measured:
        running = [container for container in self._containers.of_pod(pod.id) if container.state == "running"]
        return Measured(
            pod=pod,
            time_ns=time.time_ns(),
            network=tuple(_network(pod)),
            containers=tuple((container, tuple(self._container(container))) for container in running),
        )

    def _container(self, container: Container) -> Iterator[Reading]:
        path = self._places.cgroup_path(container.id)
        figures = self._figures.read(path)
        for name, value in figures.values.items():
            yield Reading(name, value)
        yield from _devices(figures)
        yield from _processes(container.pid, self._cgroups.cgroup(path).pids)


def _network(pod: PodRecord) -> Iterator[Reading]:
    """Of the pod's own interfaces; those of the host's network are nobody's."""
    if pod.config.network == "host" or not pod.pid:
        return
    try:
        lines = Path(f"/proc/{pod.pid}/net/dev").read_text().splitlines()[2:]
    except OSError:
        return
    for line in lines:
        interface, _, rest = line.partition(":")
        columns = [int(word) for word in rest.split()]
        if interface.strip() == "lo":
            continue
        for direction, start in (("receive", 0), ("transmit", 8)):
            for index, what in enumerate(NETWORK):
                yield Reading(f"{direction}_{what}", columns[start + index], (interface.strip(),))


def _devices(figures: Figures) -> Iterator[Reading]:
    """A container that has not touched a device yet has used 0 of none."""
    totals = {("Read", "bytes"): 0, ("Write", "bytes"): 0, ("Read", "count"): 0, ("Write", "count"): 0}
    for major, minor, operation, what, value in figures.devices or ((0, 0, "Read", "bytes", 0),):
        totals[operation, what] += value
        if what == "bytes":
            yield Reading("device_usage", value, (f"{major}:{minor}", str(major), str(minor), operation))
    for (operation, what), value in totals.items():
        yield Reading(f"{operation.lower()}_{what}", value)


def _processes(first: int, pids: Callable[[], list[int]]) -> Iterator[Reading]:
    threads = descriptors = sockets = 0
    try:
        found = pids()
    except OSError:
        return
    for pid in found:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
            threads += int(stat.rpartition(")")[2].split()[17])
            links = [_link(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")]
        except OSError:
            continue
        descriptors += len(links)
        sockets += sum(link.startswith("socket:") for link in links)
    yield Reading("processes", len(found))
    yield Reading("threads", threads)
    yield Reading("file_descriptors", descriptors)
    yield Reading("sockets", sockets)
    yield Reading("open_files_limit", _open_files_limit(first))


def _link(path: str) -> str:
    """Empty for a descriptor that has been closed since it was listed."""
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _open_files_limit(pid: int) -> int:
    """The soft limit; 0 when the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    except OSError:
        return 0
    words = next((line.split() for line in lines if line.startswith("Max open files")), [])
    return int(words[3]) if len(words) > 3 and words[3].isdecimal() else 0
