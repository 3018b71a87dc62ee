"""The typed arguments of the jobs about pods: several containers that share namespaces, as orchestrators know them."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Any, NamedTuple

from moorage.server.engine.commands import Sample
from moorage.server.engine.job import Command
from moorage.server.model import Container, PodConfig, PodRecord, Resources
from moorage.server.networkdriver.counters import Counters


@dataclass(frozen=True)
class RunPod(Command[str]):
    """Make a pod and its namespaces; answers its ID. AlreadyExists when its name, namespace, uid and attempt are taken."""

    config: PodConfig


@dataclass(frozen=True)
class StopPod(Command[None]):
    """Kill its containers and take it out of its network. Stopped or unknown is fine."""

    id: str


@dataclass(frozen=True)
class RemovePod(Command[None]):
    """Stop it, and delete it with its containers. Unknown is fine."""

    id: str


@dataclass(frozen=True)
class ListPods(Command[list[PodRecord]]):
    """Every pod, newest first."""


@dataclass(frozen=True)
class InspectPod(Command[PodRecord]):
    """One pod, by ID or unique prefix."""

    id: str


@dataclass(frozen=True)
class DescribePod(Command[dict[str, Any]]):
    """What a pod's containers share, as an OCI runtime spec."""

    id: str


@dataclass(frozen=True)
class DescribeContainer(Command[dict[str, Any]]):
    """A container of a pod as an OCI runtime spec. Raises what keeps it from being told: a device that has gone, say."""

    id: str


@dataclass(frozen=True)
class UpdatePod(Command[None]):
    """Change the limits of a pod as a whole."""

    id: str
    resources: Resources
    overhead: Resources


@dataclass(frozen=True)
class DialPod(Command[socket.socket]):
    """A TCP connection to a port of the pod's loopback, made inside its network namespace. Unavailable when nothing listens."""

    id: str
    port: int


class PodSample(NamedTuple):
    """What a pod uses as a whole, and each of its running containers."""

    pod: PodRecord
    cpu_ns: int
    cpu_nano_cores: int | None
    memory: int
    working_set: int
    rss: int
    page_faults: int
    major_page_faults: int
    pids: int
    traffic: Counters
    containers: tuple[Sample, ...]
    time_ns: int = 0


@dataclass(frozen=True)
class SamplePods(Command[list[PodSample]]):
    """What pods use now; all that are ready, or those of `ids`."""

    ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reading:
    """One figure of a container or pod: its name, the values of its labels beyond those that say whose it is, and its value."""

    name: str
    value: int
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measured:
    """All figures of a pod: those of its network, and for each running container those of its cgroup and processes."""

    pod: PodRecord
    time_ns: int
    network: tuple[Reading, ...]
    containers: tuple[tuple[Container, tuple[Reading, ...]], ...]


@dataclass(frozen=True)
class MeasurePods(Command[list[Measured]]):
    """Every figure of all pods that are ready. Reads far more of the kernel than `SamplePods`."""
