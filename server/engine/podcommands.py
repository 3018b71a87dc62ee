"""The typed arguments of the jobs about pods: several containers that share namespaces, as orchestrators know them."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from moorage.server.engine.commands import Sample
from moorage.server.engine.job import Command
from moorage.server.model import PodConfig, PodRecord, Resources


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


@dataclass(frozen=True)
class PodSample:
    """What a pod uses as a whole, and each of its running containers."""

    pod: PodRecord
    cpu_ns: int
    cpu_nano_cores: int | None
    memory: int
    working_set: int
    pids: int
    rx_bytes: int
    tx_bytes: int
    containers: tuple[Sample, ...]


@dataclass(frozen=True)
class SamplePods(Command[list[PodSample]]):
    """What pods use now; all that are ready, or those of `ids`."""

    ids: tuple[str, ...] = ()
