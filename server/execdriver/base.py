"""The interface of an exec driver: pods (namespaces held for containers), containers in them, and their streams.

Blocking methods are called on the engine's worker threads, `async` ones on its event loop.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from moorage.server.execdriver.runtimeoptions import NATIVE_RUNTIME as NATIVE_RUNTIME
from moorage.server.libcontainer.channel import StageListener
from moorage.server.model import ExitStatus, Identity, IdMap, LogConfig
from moorage.server.networkdriver.base import InterfaceConfig


@dataclass(frozen=True)
class PodSpec:
    """A pod to run. `namespaces` are those it gets of its own (`net`, `ipc`, `uts`); the others are the host's.

    With `users` and `groups` there is a user namespace too, which owns the others and which every container joins. With `shm_size` the
    containers share a /dev/shm of so many bytes.
    """

    id: str
    hostname: str
    namespaces: frozenset[str] = frozenset({"net", "ipc", "uts"})
    sysctls: dict[str, str] = field(default_factory=dict)
    users: tuple[IdMap, ...] = ()
    groups: tuple[IdMap, ...] = ()
    shm_size: int = 0


@dataclass(frozen=True)
class Pod:
    """A running pod. `pid` is its supervisor's: `/proc/<pid>/ns/net` is the pod's network namespace."""

    id: str
    pid: int


class PodOrder:
    """A pod on its way: what does not need it can be done meanwhile. For one thread."""

    def __init__(self, arrival: Callable[[], Pod]) -> None:
        """`arrival` waits until the pod is there, once."""
        self._arrival = arrival
        self._pod: Pod | None = None

    def wait(self) -> Pod:
        """The pod, when it is there. Raises what went wrong; nothing is left then."""
        if self._pod is None:
            self._pod = self._arrival()
        return self._pod


@dataclass(frozen=True)
class ContainerSpec:
    """A container to start in a pod.

    `config` is an OCI runtime-spec config (config.json); `process.user.username` may hold `name[:group]`, resolved inside the root file
    system; `linux.cgroupsPath` is below each hierarchy's root. `rootfs` are the mounts that make its root file system, bottom first
    (OCI `mounts` shape without destination). `log_path` is where stdout and stderr go in CRI's log format. `pid` as
    `model.ContainerConfig.pid`; the config says nothing of the pod's namespaces.
    """

    id: str
    config: dict[str, Any]
    rootfs: Sequence[Mapping[str, Any]]
    log_path: str
    log: LogConfig = field(default_factory=LogConfig)
    stdin_open: bool = False
    stdin_once: bool = False
    init: bool = False
    pid: str = ""
    runtime: str = ""
    """The OCI runtime to make it with, of ExecDriver.runtimes; empty for the driver's own way."""


@dataclass(frozen=True)
class Started:
    """A process that runs; on return its command has been executed."""

    pid: int
    started_ns: int
    identity: Identity | None = None
    """Whom its command began as; None where the driver does not know."""


@dataclass(frozen=True)
class ContainerStatus:
    """A container as its supervisor knows it. `exit` is set when it has ended."""

    id: str
    pid: int
    started_ns: int
    exit: ExitStatus | None = None


@dataclass(frozen=True)
class PodStatus:
    """A pod found at start-up, with its containers."""

    pod: Pod
    containers: tuple[ContainerStatus, ...]


@dataclass(frozen=True)
class AttachSpec:
    """What to connect. `lossless`: a slow reader holds the container back; otherwise it is cut off with RESOURCE_EXHAUSTED."""

    stdin: bool = False
    stdout: bool = True
    stderr: bool = True
    size: tuple[int, int] | None = None
    """Columns, rows."""
    lossless: bool = False


@dataclass(frozen=True)
class ExecSpec:
    """One more process in a running container. `process` is the OCI config's `process` object, complete."""

    process: dict[str, Any]
    stdin: bool = False
    detach: bool = False


@dataclass(frozen=True)
class Output:
    """Bytes from a process."""

    stream: Literal["stdout", "stderr"]
    data: bytes


class ProcessStream(Protocol):
    """The streams of an attached container or an exec'ed process. A slow reader of `read` slows the process behind it."""

    pid: int

    async def read(self) -> Output | ExitStatus:
        """The next output; after all of it, how the process ended. Never called again after that."""
        ...

    async def write(self, data: bytes) -> None:
        """Give bytes to stdin; returns when they are taken, or when stdin is closed (the bytes are dropped then)."""
        ...

    async def close_stdin(self) -> None:
        """Nothing more for stdin."""
        ...

    async def resize(self, columns: int, rows: int) -> None:
        """The terminal's new size; nothing without a terminal."""
        ...

    async def signal(self, number: int) -> None:
        """Signal the process."""
        ...

    async def close(self) -> None:
        """Let go: detaches from an attached container, kills an exec'ed process that still runs. Safe to call twice."""
        ...


ExitCallback = Callable[[str, str, ExitStatus], None]
"""Called on the event loop with pod ID, container ID and how it ended, once per container."""


class ExecDriver(Protocol):
    """Runs processes. A pod's methods raise NotFound when there is no such pod."""

    name: str
    runtimes: frozenset[str]
    """OCI runtimes that it can make containers with."""

    async def open(self, on_exit: ExitCallback) -> None:
        """Bind to the running event loop: exits are told from now on."""
        ...

    async def close(self) -> None:
        """Let go of everything without ending any container."""
        ...

    async def recover(self) -> list[PodStatus]:
        """Reconnect to the pods that outlived the last daemon, and watch them. Exits among them are answered here, not called back."""
        ...

    def order_pod(self, spec: PodSpec) -> PodOrder:
        """Have a supervisor made for a pod, in its new namespaces; who removes a pod waits for one that nobody has waited for."""
        ...

    def configure_network(self, pod: Pod, interfaces: Sequence[InterfaceConfig]) -> None:
        """Set up addresses and routes inside the pod's network namespace (`lo` is up already)."""
        ...

    def start(
        self, pod_id: str, spec: ContainerSpec, stage: StageListener, meanwhile: Callable[[], None] | None = None
    ) -> Started:
        """Start a container; stages may be told as they begin, or at the end with the time they began.

        `meanwhile` is called while the container is made, and its command executed when that has returned. What it raises is raised here.

        Raises FailedPrecondition with metadata `exit_code` 126, 127 or 128, `stage`, `path`, `errno`; nothing is left then.
        """
        ...

    def signal(self, pod_id: str, container_id: str, number: int) -> None:
        """Signal the container's first process; one that has ended is fine."""
        ...

    def kill(self, pod_id: str, container_id: str) -> None:
        """SIGKILL every process of the container."""
        ...

    def stop_pod(self, pod_id: str) -> None:
        """SIGKILL every process of its containers; nothing can be started in it any more. Their ends are told. Missing is fine."""
        ...

    def remove_container(self, pod_id: str, container_id: str) -> None:
        """Forget a container, killing what still runs of it; the pod stays. Missing is fine, of a pod that is missing too."""
        ...

    def check_directory(self, mounts: Sequence[Mapping[str, Any]], path: str) -> None:
        """Raise FailedPrecondition unless `path` is a directory of what `mounts` show (`rootfs` as in ContainerSpec)."""
        ...

    def maps_owners(self, directory: str) -> bool:
        """Whether pods with user namespaces can have their files on the file system of that directory of the host."""
        ...

    def reopen_log(self, pod_id: str, container_id: str) -> None:
        """Go on in a new log file of the same name, which is there on return: the old one has been renamed."""
        ...

    def dial(self, pod_id: str, port: int) -> socket.socket:
        """A TCP connection, made in the pod's network namespace, to a port of its 127.0.0.1 or else ::1. Raises Unavailable."""
        ...

    def remove_pod(self, pod_id: str) -> None:
        """Kill what still runs in it, and delete it with its containers' cgroups. Missing is fine.

        Its ID is free on return; a process of ours that held it may be there a moment longer.
        """
        ...

    async def attach(self, pod_id: str, container_id: str, spec: AttachSpec) -> ProcessStream:
        """Connect to a container's streams; before `start` too, so that nothing is missed (`pid` is 0 until it runs)."""
        ...

    async def exec(self, pod_id: str, container_id: str, spec: ExecSpec) -> ProcessStream:
        """Run one more process. Errors as for `start`."""
        ...
