"""The typed arguments of every job, by verb. The type parameter is the job's result.

`id` is always what the caller wrote: a full ID, a unique prefix or a name. Results are of `model.py` unless declared here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from moorage.server.engine.job import Command, Job, StreamCommand
from moorage.server.execdriver.runtimes import Examined as Examined
from moorage.server.graph.drivers.base import DriverStatus as DriverStatus
from moorage.server.model import (
    Container,
    ContainerConfig,
    DiskUsage,
    Event,
    ExitStatus,
    Network,
    Resources,
)
from moorage.server.registry.credentials import RegistryAuth as RegistryAuth

# --- containers -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Created:
    """A container was made."""

    id: str
    name: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Create(Command[Created]):
    """Make a container; an empty name has one made up. With `pod_id` it belongs to that pod."""

    name: str
    config: ContainerConfig
    pod_id: str = ""


@dataclass(frozen=True)
class Start(Command[int]):
    """Run a container; answers its first process. `connect` is called with the ID when the pod is there and nothing runs yet."""

    id: str
    connect: Callable[[str], None] | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Stop(Command[None]):
    """Stop signal, then SIGKILL after `timeout` seconds (None: the container's own)."""

    id: str
    timeout: float | None = None


@dataclass(frozen=True)
class Kill(Command[None]):
    """Signal the first process."""

    id: str
    signal: str = ""


@dataclass(frozen=True)
class Remove(Command[None]):
    """Delete a container."""

    id: str
    force: bool = False


@dataclass(frozen=True)
class Reap(Command[None]):
    """A container has ended: take it out of the network, end its pod, record how it ended."""

    id: str
    status: ExitStatus


@dataclass(frozen=True)
class ListContainers(Command[list[Container]]):
    """Containers, newest first; all conditions must hold."""

    all: bool = False
    states: frozenset[str] = frozenset()
    labels: dict[str, str] = field(default_factory=dict)
    name: str = ""
    image: str = ""


@dataclass(frozen=True)
class InspectContainer(Command[Container]):
    """One container."""

    id: str


@dataclass(frozen=True)
class MeasureContainers(Command[dict[str, DiskUsage]]):
    """What writable layers take, by ID (`ids` are whole); those of containers that are gone are left out."""

    ids: tuple[str, ...]


@dataclass(frozen=True)
class Wait(Command[ExitStatus]):
    """How a container ended, once it does not run."""

    id: str


@dataclass(frozen=True)
class ProcessInfo:
    """One process of a container, as the host sees it."""

    pid: int
    parent: int
    uid: int
    cpu_ns: int
    rss: int
    started_ns: int
    command: tuple[str, ...]
    state: str


@dataclass(frozen=True)
class Top(Command[list[ProcessInfo]]):
    """The processes of a container."""

    id: str


@dataclass(frozen=True)
class Update(Command[None]):
    """Change the limits of a container; fields that are 0 or empty stay as they are. Annotations, where given, replace the old."""

    id: str
    resources: Resources
    annotations: dict[str, str] | None = None


@dataclass(frozen=True)
class ReopenLog(Command[None]):
    """Go on in a new log file of the same name: the old one has been renamed."""

    id: str


@dataclass(frozen=True)
class ExecResult:
    """What a command printed, each stream cut at 16 MiB, and its exit code."""

    stdout: bytes
    stderr: bytes
    exit_code: int


@dataclass(frozen=True)
class ExecSync(Command[ExecResult]):
    """Run one more process to its end; DeadlineExceeded, and all it started killed, after `timeout` seconds (0: never)."""

    id: str
    command: tuple[str, ...]
    timeout: float = 0
    env: tuple[str, ...] = ()
    cwd: str = ""
    user: str = ""
    privileged: bool = False


class Sample(NamedTuple):
    """What one container uses. See `moorage.v1.ContainerStats`."""

    id: str
    name: str
    time_ns: int
    cpu_ns: int
    cpu_nano_cores: int | None
    cpu_throttled_ns: int
    memory: int
    working_set: int
    rss: int
    swap: int
    page_faults: int
    major_page_faults: int
    memory_limit: int
    pids: int
    pids_limit: int
    io_read: int
    io_write: int
    rx_bytes: int
    tx_bytes: int
    rx_packets: int
    tx_packets: int
    oom_kills: int


# --- streams ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stdin:
    """Bytes for stdin."""

    data: bytes


@dataclass(frozen=True)
class CloseStdin:
    """Nothing more for stdin."""


@dataclass(frozen=True)
class Resize:
    """Terminal's new size."""

    columns: int
    rows: int


@dataclass(frozen=True)
class Signal:
    """A signal by name or number."""

    name: str


Input = Stdin | CloseStdin | Resize | Signal


@dataclass(frozen=True)
class ProcessStarted:
    """The process runs (pid 0: attached, not started yet)."""

    pid: int


@dataclass(frozen=True)
class Chunk:
    """Output of a process."""

    stream: Literal["stdout", "stderr"]
    data: bytes


StreamItem = ProcessStarted | Chunk | ExitStatus


@dataclass(frozen=True)
class Attach(StreamCommand[StreamItem]):
    """Connect to a container's streams. First item ProcessStarted, last ExitStatus."""

    id: str
    inputs: AsyncIterator[Input]
    start: bool = False
    stdin: bool = False
    stdout: bool = True
    stderr: bool = True
    size: tuple[int, int] | None = None
    lossless: bool = False


@dataclass(frozen=True)
class Exec(StreamCommand[StreamItem]):
    """Run one more process. First item ProcessStarted, last ExitStatus (none when detached)."""

    id: str
    inputs: AsyncIterator[Input]
    command: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    cwd: str = ""
    user: str = ""
    tty: bool = False
    stdin: bool = False
    size: tuple[int, int] | None = None
    detach: bool = False
    privileged: bool = False


class LogLine(NamedTuple):
    """One line, or part of one, of a container's log. `data` has the newline where there was one."""

    time_ns: int
    stream: Literal["stdout", "stderr"]
    data: bytes
    partial: bool


@dataclass(frozen=True)
class Logs(StreamCommand[list[LogLine]]):
    """What a container wrote, in batches. `tail` None for all; times in ns, 0 for no bound."""

    id: str
    follow: bool = False
    tail: int | None = None
    since_ns: int = 0
    until_ns: int = 0
    streams: frozenset[str] = frozenset({"stdout", "stderr"})


@dataclass(frozen=True)
class Stats(StreamCommand[list[Sample]]):
    """Samples of the containers named, or of all that run."""

    ids: tuple[str, ...] = ()
    stream: bool = False
    interval: float = 1.0


@dataclass(frozen=True)
class LastEvent(Command[int]):
    """The newest event's sequence number, 0 before the first: who streams from there on misses nothing that happens after this."""


@dataclass(frozen=True)
class Events(StreamCommand[Event]):
    """Events in order. `after` None: only new ones, unless `since_ns` is set; 0: all that are kept."""

    after: int | None = None
    since_ns: int = 0
    until_ns: int = 0
    kinds: frozenset[str] = frozenset()
    actions: frozenset[str] = frozenset()
    object: str = ""


# --- networks ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CreateNetwork(Command[Network]):
    """Make a bridge network."""

    name: str
    subnet: str = ""
    gateway: str = ""
    internal: bool = False
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RemoveNetwork(Command[None]):
    """Delete a network."""

    network: str


@dataclass(frozen=True)
class NetworkView:
    """A network and the containers in it."""

    network: Network
    members: tuple[Container, ...]


@dataclass(frozen=True)
class ListNetworks(Command[list[NetworkView]]):
    """All networks, by name."""


@dataclass(frozen=True)
class InspectNetwork(Command[NetworkView]):
    """One network."""

    network: str


# --- the daemon -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Info:
    """How the daemon is set up and what it holds."""

    root: str
    state: str
    instance: str
    graph_driver: str
    exec_driver: str
    cgroup_version: int
    cgroup_parent: str
    cpus: int
    memory: int
    images: int
    containers: int
    running: int
    warnings: tuple[str, ...]
    listen: tuple[str, ...]
    pid: int
    started_ns: int
    driver_status: DriverStatus
    runtimes: tuple[Examined, ...] = ()


@dataclass(frozen=True)
class GetInfo(Command[Info]):
    """Information about the daemon."""


@dataclass(frozen=True)
class ListJobs(Command[list[Job]]):
    """The jobs that run, and with `all` the last that ended."""

    all: bool = False


@dataclass(frozen=True)
class CancelJob(Command[None]):
    """Ask a job to stop."""

    job_id: int


@dataclass(frozen=True)
class ServeApi(Command[None]):
    """Serve the API until the daemon is told to stop. Serving is itself a job."""

    listen: tuple[str, ...]
