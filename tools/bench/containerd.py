"""Debian's containerd and runc, over CRI: one of its own, with its own root, state, socket, CNI network and images, and no trace after.

Its shims are not children of it and end up with init; they are told from anybody else's by the socket in their arguments.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import grpc

from moorage.cri.v1 import api_pb2 as cri
from moorage.cri.v1.api_pb2_grpc import ImageServiceStub, RuntimeServiceStub
from tools.bench.process import with_argument

BRIDGE = "moorage-bench0"
SUBNET = "10.213.0.0/20"
PLUGINS = "/usr/lib/cni"
CNI_CACHE = Path("/var/lib/cni")
CGROUP_PARENT = "/moorage-bench"
MESSAGE_LIMIT = 16 << 20


class Containerd:
    """Implements `Engine`. A container is a pod with one container in it: that is what gives it a network."""

    name = "containerd"

    def __init__(self, directory: Path, registry_url: str, hosts: Sequence[str], image: str, pause: str) -> None:
        self.directory = directory
        self.socket = directory / "containerd.sock"
        self.image = image
        self._numbers = itertools.count()
        self._pods: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None
        (directory / "net.d").mkdir()
        (directory / "net.d" / "10-bench.conflist").write_text(json.dumps(_network(directory)))
        (directory / "config.toml").write_text(_config(directory, self.socket, registry_url, hosts, pause))
        options = [("grpc.max_receive_message_length", MESSAGE_LIMIT), ("grpc.use_local_subchannel_pool", 1)]
        self._channel = grpc.insecure_channel(f"unix://{self.socket}", options=options)
        self._runtime, self._images = RuntimeServiceStub(self._channel), ImageServiceStub(self._channel)

    @classmethod
    @contextmanager
    def running(
        cls, directory: Path, registry_url: str, hosts: Sequence[str], image: str, pause: str
    ) -> Iterator[Containerd]:
        """A containerd with all it has in `directory`."""
        engine = cls(directory, registry_url, hosts, image, pause)
        try:
            engine.start()
            yield engine
        finally:
            engine.close()

    def start(self) -> float:
        """Seconds from the start to the first answer."""
        begun = time.perf_counter()
        with open(self.directory / "log", "ab") as log:
            self._process = subprocess.Popen(
                ["containerd", "--config", str(self.directory / "config.toml")], stdout=log, stderr=log
            )
        while True:
            try:
                self._runtime.Version(cri.VersionRequest(), wait_for_ready=True, timeout=1)
                return time.perf_counter() - begun
            except grpc.RpcError as error:
                if self._process.poll() is not None or time.perf_counter() - begun > 30:
                    raise RuntimeError((self.directory / "log").read_text()) from error

    def restart(self) -> float:
        self._stop()
        return self.start()

    def close(self) -> None:
        """Remove every pod, stop the daemon and its shims, and delete the bridge that the CNI plugin made."""
        for container in list(self._pods):
            self.down(container)
        self._stop()
        self._channel.close()
        while shims := with_argument(str(self.socket)):
            for shim in shims:
                os.kill(shim, signal.SIGKILL)
            time.sleep(0.05)
        _unmount_below(self.directory)
        subprocess.run(["ip", "link", "delete", BRIDGE], check=False, stderr=subprocess.DEVNULL)
        _remove_cgroups(CGROUP_PARENT)
        _remove_empty(CNI_CACHE / "results")
        _remove_empty(CNI_CACHE)

    def pull(self, reference: str) -> None:
        self._images.PullImage(cri.PullImageRequest(image=cri.ImageSpec(image=reference)))

    def up(self, command: Sequence[str]) -> str:
        number = f"bench-{next(self._numbers)}"
        namespaces = cri.NamespaceOption(pid=cri.CONTAINER)
        pod_config = cri.PodSandboxConfig(
            metadata=cri.PodSandboxMetadata(name=number, uid=number, namespace="bench"),
            hostname=number,
            log_directory=str(self.directory / "logs"),
            linux=cri.LinuxPodSandboxConfig(
                cgroup_parent=CGROUP_PARENT,
                security_context=cri.LinuxSandboxSecurityContext(namespace_options=namespaces),
            ),
        )
        pod = self._runtime.RunPodSandbox(cri.RunPodSandboxRequest(config=pod_config)).pod_sandbox_id
        self._pods[pod] = pod
        config = cri.ContainerConfig(
            metadata=cri.ContainerMetadata(name=number),
            image=cri.ImageSpec(image=self.image),
            command=command,
            log_path=f"{number}.log",
            linux=cri.LinuxContainerConfig(
                security_context=cri.LinuxContainerSecurityContext(namespace_options=namespaces)
            ),
        )
        request = cri.CreateContainerRequest(pod_sandbox_id=pod, config=config, sandbox_config=pod_config)
        container = self._runtime.CreateContainer(request).container_id
        self._runtime.StartContainer(cri.StartContainerRequest(container_id=container))
        self._pods[container] = self._pods.pop(pod)
        return container

    def down(self, container: str) -> None:
        pod = self._pods.pop(container)
        if pod != container:
            self._runtime.StopContainer(cri.StopContainerRequest(container_id=container, timeout=0))
        self._runtime.StopPodSandbox(cri.StopPodSandboxRequest(pod_sandbox_id=pod))
        self._runtime.RemovePodSandbox(cri.RemovePodSandboxRequest(pod_sandbox_id=pod))

    def exec(self, container: str, command: Sequence[str]) -> None:
        answer = self._runtime.ExecSync(cri.ExecSyncRequest(container_id=container, cmd=command, timeout=30))
        if answer.exit_code:
            raise RuntimeError(f"exec in containerd: exit {answer.exit_code}: {answer.stderr!r}")

    def stats(self) -> int:
        return len(self._runtime.ListContainerStats(cri.ListContainerStatsRequest()).stats)

    def wait(self, container: str) -> float:
        while True:
            status = self._runtime.ContainerStatus(cri.ContainerStatusRequest(container_id=container)).status
            if status.state == cri.CONTAINER_EXITED:
                return (status.finished_at - status.started_at) / 1e9
            time.sleep(0.05)

    def log_size(self, container: str) -> int:
        return sum(path.stat().st_size for path in (self.directory / "logs").iterdir())

    def version(self) -> None:
        self._runtime.Version(cri.VersionRequest())

    def daemon_pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def processes(self) -> list[int]:
        """The daemon and the shims. The pause processes, which the image decides on, are left out to containerd's favour."""
        return [self.daemon_pid(), *with_argument(str(self.socket))]

    def _stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
            self._process = None


def _network(directory: Path) -> dict[str, object]:
    ipam = {
        "type": "host-local",
        "dataDir": str(directory / "ipam"),
        "routes": [{"dst": "0.0.0.0/0"}],
        "ranges": [[{"subnet": SUBNET}]],
    }
    bridge = {"type": "bridge", "bridge": BRIDGE, "isGateway": True, "ipMasq": False, "ipam": ipam}
    return {"cniVersion": "0.4.0", "name": "moorage-bench", "plugins": [bridge]}


def _config(directory: Path, socket: Path, registry_url: str, hosts: Sequence[str], pause: str) -> str:
    mirrors = "\n".join(
        f'[plugins."io.containerd.grpc.v1.cri".registry.mirrors."{host}"]\nendpoint = ["{registry_url}"]'
        for host in hosts
    )
    return f"""version = 2
root = "{directory}/root"
state = "{directory}/state"
[grpc]
address = "{socket}"
[plugins."io.containerd.internal.v1.opt"]
path = "{directory}/opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
disable_apparmor = true
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{PLUGINS}"
conf_dir = "{directory}/net.d"
{mirrors}
"""


def _unmount_below(directory: Path) -> None:
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for mount in reversed([mount for mount in mounts if mount.startswith(f"{directory}/")]):
        subprocess.run(["umount", "-l", mount], check=True)


def _remove_empty(directory: Path) -> None:
    """libcni's cache has a fixed place; it goes unless somebody else's results are in it."""
    if directory.is_dir() and not any(directory.iterdir()):
        directory.rmdir()


def _remove_cgroups(parent: str) -> None:
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    for hierarchy in (mount[1] for mount in mounts if mount[2].startswith("cgroup")):
        for directory, _, _ in os.walk(hierarchy + parent, topdown=False):
            os.rmdir(directory)
