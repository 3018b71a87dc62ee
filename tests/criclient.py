"""A kubelet's side of CRI, over real gRPC: pods and containers in few words, and all of them gone at the end.

cri = Cri(daemon.url, IMAGE, logs)
pod = cri.pod()                                            # RunPodSandbox
box = pod.run("sh", "-c", "echo hello")                    # CreateContainer, StartContainer
assert box.ended().exit_code == 0
assert box.log() == [("stdout", "F", "hello")]

What is not said is as a kubelet says it: a seccomp profile of the runtime, namespaces of the pod's, no user.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest

from moorage.cri.v1 import api_pb2 as api
from moorage.cri.v1.api_pb2_grpc import ImageServiceStub, RuntimeServiceStub

T = TypeVar("T")
SECONDS = 30
HANDLER = os.environ.get("MOORAGE_HANDLER", "")
"""The runtime handler of pods that name none: `MOORAGE_HANDLER=runc make cri` has runc make all containers."""
RUNTIMES = f'[runtimes.{HANDLER}]\npath = "{shutil.which(HANDLER) or HANDLER}"\n' if HANDLER else ""
"""What the daemon must be told for that."""
_OPTIONS = [("grpc.max_receive_message_length", 16 << 20), ("grpc.max_send_message_length", 16 << 20)]


@contextmanager
def refused(code: grpc.StatusCode, *words: str) -> Iterator[None]:
    """The call inside is answered with this status, in a message with these words."""
    with pytest.raises(grpc.RpcError) as caught:
        yield
    error: Any = caught.value
    assert error.code() == code, error.details()
    for word in words:
        assert word in error.details()


def until(read: Callable[[], T], seconds: float = SECONDS) -> T:
    """What `read()` answers, as soon as that is true."""
    end = time.monotonic() + seconds
    while not (found := read()):
        assert time.monotonic() < end, f"still {found!r} after {seconds} seconds"
        time.sleep(0.01)
    return found


class Cri:
    """One daemon's two services. `logs` is the directory for the pods' logs, `image` what containers are made of."""

    def __init__(self, url: str, image: str, logs: Path) -> None:
        self.image, self.logs = image, logs
        self.channel = grpc.insecure_channel(url.replace("unix://", "unix:"), options=_OPTIONS)
        grpc.channel_ready_future(self.channel).result(SECONDS)
        self.runtime, self.images = RuntimeServiceStub(self.channel), ImageServiceStub(self.channel)
        self._numbers = count(1)

    def close(self) -> None:
        self.channel.close()

    def pod_config(self, name: str = "", **fields: Any) -> api.PodSandboxConfig:
        """A pod's config with a name of its own; `fields` are of PodSandboxConfig."""
        name = name or f"pod-{next(self._numbers)}"
        metadata = api.PodSandboxMetadata(name=name, namespace="tests", uid=f"uid-{name}")
        directory = self.logs / name
        directory.mkdir(parents=True, exist_ok=True)
        return api.PodSandboxConfig(**{"metadata": metadata, "log_directory": str(directory), **fields})

    def pod(self, name: str = "", *, handler: str = HANDLER, **fields: Any) -> Pod:
        """RunPodSandbox."""
        config = self.pod_config(name, **fields)
        return Pod(self, self.run(config, handler), config)

    def run(self, config: api.PodSandboxConfig, handler: str = HANDLER) -> str:
        return self.runtime.RunPodSandbox(
            api.RunPodSandboxRequest(config=config, runtime_handler=handler)
        ).pod_sandbox_id

    def namespaces_pod(self, **options: Any) -> Pod:
        """A pod with these NamespaceOption fields."""
        context = api.LinuxSandboxSecurityContext(namespace_options=api.NamespaceOption(**options))
        return self.pod(linux=api.LinuxPodSandboxConfig(security_context=context))

    def pods(self, **filter: Any) -> list[api.PodSandbox]:
        return list(self.runtime.ListPodSandbox(api.ListPodSandboxRequest(filter=api.PodSandboxFilter(**filter))).items)

    def containers(self, **filter: Any) -> list[api.Container]:
        request = api.ListContainersRequest(filter=api.ContainerFilter(**filter))
        return list(self.runtime.ListContainers(request).containers)

    def pull(self, image: str = "") -> str:
        return self.images.PullImage(api.PullImageRequest(image=api.ImageSpec(image=image or self.image))).image_ref

    def image_status(self, image: str) -> api.ImageStatusResponse:
        return self.images.ImageStatus(api.ImageStatusRequest(image=api.ImageSpec(image=image)))

    def remove_image(self, image: str) -> None:
        self.images.RemoveImage(api.RemoveImageRequest(image=api.ImageSpec(image=image)))

    def stop_pod(self, identifier: str) -> None:
        self.runtime.StopPodSandbox(api.StopPodSandboxRequest(pod_sandbox_id=identifier))

    def remove_pod(self, identifier: str) -> None:
        self.runtime.RemovePodSandbox(api.RemovePodSandboxRequest(pod_sandbox_id=identifier))

    def clear(self) -> None:
        """Stop and remove every pod."""
        for pod in self.pods():
            self.stop_pod(pod.id)
            self.remove_pod(pod.id)


@dataclass(frozen=True)
class Pod:
    """A pod that was run."""

    cri: Cri
    id: str
    config: api.PodSandboxConfig

    def create(
        self, *command: str, name: str = "", image: str = "", linux: dict[str, Any] | None = None, **fields: Any
    ) -> Box:
        """CreateContainer; `linux` are fields of LinuxContainerSecurityContext or `resources`, `fields` of ContainerConfig."""
        name = name or f"box-{next(self.cri._numbers)}"
        security = {"seccomp": api.SecurityProfile(), **(linux or {})}
        resources = security.pop("resources", None)
        config = api.ContainerConfig(
            **{
                "metadata": api.ContainerMetadata(name=name),
                "image": api.ImageSpec(image=image or self.cri.image),
                "command": command,
                "log_path": f"{name}.log",
                "linux": api.LinuxContainerConfig(
                    resources=resources,
                    security_context=api.LinuxContainerSecurityContext(
                        **{"namespace_options": self.config.linux.security_context.namespace_options, **security}
                    ),
                ),
                **fields,
            }
        )
        if not self.config.linux.security_context.HasField("namespace_options") and "namespace_options" not in security:
            config.linux.security_context.ClearField("namespace_options")
        request = api.CreateContainerRequest(pod_sandbox_id=self.id, config=config, sandbox_config=self.config)
        return Box(self.cri, self, self.cri.runtime.CreateContainer(request).container_id)

    def run(self, *command: str, **fields: Any) -> Box:
        """CreateContainer and StartContainer."""
        box = self.create(*command, **fields)
        box.start()
        return box

    def sh(self, script: str, **fields: Any) -> str:
        """What a script prints in a container of its own, which must end well."""
        box = self.run("sh", "-c", script, **fields)
        status = box.ended()
        text = "".join(text + "\n" for _, _, text in box.log())
        assert status.exit_code == 0, text
        return text

    def status(self) -> api.PodSandboxStatus:
        return self.cri.runtime.PodSandboxStatus(api.PodSandboxStatusRequest(pod_sandbox_id=self.id)).status

    @property
    def ip(self) -> str:
        return self.status().network.ip

    def stop(self) -> None:
        self.cri.stop_pod(self.id)

    def remove(self) -> None:
        self.cri.remove_pod(self.id)


@dataclass(frozen=True)
class Box:
    """A container that was created."""

    cri: Cri
    pod: Pod
    id: str

    def start(self) -> None:
        self.cri.runtime.StartContainer(api.StartContainerRequest(container_id=self.id))

    def stop(self, timeout: int = 0) -> None:
        self.cri.runtime.StopContainer(api.StopContainerRequest(container_id=self.id, timeout=timeout))

    def remove(self) -> None:
        self.cri.runtime.RemoveContainer(api.RemoveContainerRequest(container_id=self.id))

    def status(self) -> api.ContainerStatus:
        return self.cri.runtime.ContainerStatus(api.ContainerStatusRequest(container_id=self.id)).status

    def ended(self) -> api.ContainerStatus:
        """Its status once it is EXITED."""
        until(lambda: self.status().state == api.CONTAINER_EXITED)
        return self.status()

    def exec(self, *command: str, timeout: int = 0) -> api.ExecSyncResponse:
        request = api.ExecSyncRequest(container_id=self.id, cmd=command, timeout=timeout)
        return self.cri.runtime.ExecSync(request, timeout=SECONDS)

    def sh(self, script: str) -> str:
        """What a script prints inside, which must end well."""
        done = self.exec("sh", "-c", script)
        assert done.exit_code == 0, (done.stdout, done.stderr)
        return done.stdout.decode()

    def reopen_log(self) -> None:
        self.cri.runtime.ReopenContainerLog(api.ReopenContainerLogRequest(container_id=self.id))

    @property
    def log_path(self) -> Path:
        return Path(self.status().log_path)

    def log(self) -> list[tuple[str, str, str]]:
        """The log's lines: stream, P or F, text."""
        return [parse(line)[1:] for line in self.log_path.read_text().splitlines()]


def parse(line: str) -> tuple[str, str, str, str]:
    """Time, stream, tag and text of a line of a log."""
    moment, stream, tag, text = line.split(" ", 3)
    return moment, stream, tag, text
