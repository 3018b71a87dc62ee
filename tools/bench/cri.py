"""An engine driven over CRI as a kubelet drives it: the same calls, with the same configs, whichever daemon answers."""

from __future__ import annotations

import itertools
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import grpc

from moorage.cri.v1 import api_pb2 as cri
from moorage.cri.v1.api_pb2_grpc import ImageServiceStub, RuntimeServiceStub
from tools.bench.engine import Sample, Samples

T = TypeVar("T")

CGROUP_PARENT = f"/moorage-bench-{os.getpid()}"
MESSAGE_LIMIT = 16 << 20
START_SECONDS = 30
MASKED = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
]
READ_ONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]


class Server(Protocol):
    """A daemon that serves CRI on a socket."""

    @property
    def url(self) -> str:
        """gRPC's name of the socket."""
        ...

    @property
    def pid(self) -> int: ...

    def processes(self) -> Iterable[int]:
        """The engine's own processes: its daemon and what stands beside containers, not what runs inside them."""
        ...

    def restart(self) -> float:
        """Stop it and start it again, until its socket listens; answers when it was started, on the clock of `perf_counter`."""
        ...


class Cri:
    """Implements `Engine`. A container is a pod with one container in it: that is what gives it a network."""

    def __init__(self, name: str, server: Server, image: str, logs: Path) -> None:
        self.name = name
        self.calls: defaultdict[str, Sample] = defaultdict(Sample)
        """How long the calls of `up` and `down` took each. Their callers clear it."""
        self._server, self._image, self._logs = server, image, logs
        self._numbers = itertools.count()
        self._pods: dict[str, str] = {}
        self._connect()

    def close(self) -> None:
        """Stop and remove every pod."""
        for container in list(self._pods):
            self.down(container)
        self._channel.close()

    def pull(self, reference: str) -> None:
        self._images.PullImage(cri.PullImageRequest(image=cri.ImageSpec(image=reference)))

    def up(self, command: Sequence[str]) -> str:
        name = f"bench-{next(self._numbers)}"
        pod_config, config = self._pod_config(name), self._container_config(name, command)
        run = cri.RunPodSandboxRequest(config=pod_config)
        pod: str = self._timed("RunPodSandbox", run).pod_sandbox_id
        self._pods[pod] = pod
        create = cri.CreateContainerRequest(pod_sandbox_id=pod, config=config, sandbox_config=pod_config)
        container: str = self._timed("CreateContainer", create).container_id
        self._timed("StartContainer", cri.StartContainerRequest(container_id=container))
        self._pods[container] = self._pods.pop(pod)
        return container

    def down(self, container: str) -> None:
        pod = self._pods.pop(container)
        self._timed("StopPodSandbox", cri.StopPodSandboxRequest(pod_sandbox_id=pod))
        self._timed("RemovePodSandbox", cri.RemovePodSandboxRequest(pod_sandbox_id=pod))

    def exec(self, container: str, command: Sequence[str]) -> None:
        answer = self._runtime.ExecSync(cri.ExecSyncRequest(container_id=container, cmd=command, timeout=30))
        if answer.exit_code:
            raise RuntimeError(f"exec in {self.name}: exit {answer.exit_code}: {answer.stderr!r}")

    def samplers(self) -> Mapping[str, Callable[[], Samples]]:
        return {"stats": self._container_stats, "pod_stats": self._pod_stats}

    def status(self, container: str) -> None:
        self._runtime.ContainerStatus(cri.ContainerStatusRequest(container_id=container))

    def list(self) -> int:
        return len(self._runtime.ListContainers(cri.ListContainersRequest()).containers)

    def wait(self, container: str) -> float:
        while True:
            status = self._runtime.ContainerStatus(cri.ContainerStatusRequest(container_id=container)).status
            if status.state == cri.CONTAINER_EXITED:
                return (status.finished_at - status.started_at) / 1e9
            time.sleep(0.05)

    def log_size(self, container: str) -> int:
        status = self._runtime.ContainerStatus(cri.ContainerStatusRequest(container_id=container)).status
        return Path(status.log_path).stat().st_size

    def version(self) -> None:
        self._runtime.Version(cri.VersionRequest())

    def processes(self) -> Iterable[int]:
        return self._server.processes()

    def restart(self) -> float:
        self._channel.close()
        begun = self._server.restart()
        self._connect()
        return time.perf_counter() - begun

    def _connect(self) -> None:
        """A new channel: an old one waits between its attempts to connect, and would add that to what is measured."""
        options = [("grpc.max_receive_message_length", MESSAGE_LIMIT), ("grpc.use_local_subchannel_pool", 1)]
        options += [(f"grpc.{which}_reconnect_backoff_ms", 10) for which in ("initial", "min", "max")]
        self._channel = grpc.insecure_channel(self._server.url, options=options)
        self._runtime, self._images = RuntimeServiceStub(self._channel), ImageServiceStub(self._channel)
        end = time.perf_counter() + START_SECONDS
        while True:
            try:
                return self.version()
            except grpc.RpcError:  # containerd listens before it can answer
                if time.perf_counter() > end:
                    raise
                time.sleep(0.001)

    def _timed(self, name: str, request: object) -> Any:
        return self.calls[name].time(partial(getattr(self._runtime, name), request))

    def _container_stats(self) -> Samples:
        answer = self._runtime.ListContainerStats(cri.ListContainerStatsRequest())
        return [one.cpu.timestamp for one in answer.stats]

    def _pod_stats(self) -> Samples:
        answer = self._runtime.ListPodSandboxStats(cri.ListPodSandboxStatsRequest())
        return [one.linux.cpu.timestamp for one in answer.stats]

    def _pod_config(self, name: str) -> cri.PodSandboxConfig:
        return cri.PodSandboxConfig(
            metadata=cri.PodSandboxMetadata(name=name, uid=name, namespace="bench"),
            hostname=name,
            log_directory=str(self._logs),
            linux=cri.LinuxPodSandboxConfig(
                cgroup_parent=CGROUP_PARENT,
                security_context=cri.LinuxSandboxSecurityContext(
                    namespace_options=_namespaces(),
                    seccomp=cri.SecurityProfile(profile_type=cri.SecurityProfile.RuntimeDefault),
                ),
            ),
        )

    def _container_config(self, name: str, command: Sequence[str]) -> cri.ContainerConfig:
        security = cri.LinuxContainerSecurityContext(
            namespace_options=_namespaces(),
            masked_paths=MASKED,
            readonly_paths=READ_ONLY,
            seccomp=cri.SecurityProfile(profile_type=cri.SecurityProfile.Unconfined),
        )
        resources = cri.LinuxContainerResources(cpu_period=100_000, cpu_shares=2, oom_score_adj=1000)
        return cri.ContainerConfig(
            metadata=cri.ContainerMetadata(name=name),
            image=cri.ImageSpec(image=self._image),
            command=command,
            log_path=f"{name}.log",
            linux=cri.LinuxContainerConfig(resources=resources, security_context=security),
        )


def _namespaces() -> cri.NamespaceOption:
    """A kubelet's, for a pod that asks for nothing: network and IPC are the pod's, processes the container's."""
    return cri.NamespaceOption(network=cri.POD, ipc=cri.POD, pid=cri.CONTAINER)


def remove_cgroups() -> None:
    """Delete the cgroup that all pods were below: who named it, as a kubelet does, has it to delete."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    for hierarchy in (mount[1] for mount in mounts if mount[2].startswith("cgroup")):
        for directory, _, _ in os.walk(hierarchy + CGROUP_PARENT, topdown=False):
            os.rmdir(directory)
