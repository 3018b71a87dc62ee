"""CRI over the server of conftest.py: stubs, and messages in few words."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from moorage.cri.v1 import api_pb2 as pb
from moorage.cri.v1.api_pb2_grpc import ImageServiceStub, RuntimeServiceStub

NUMBERS = itertools.count(1)


class Cri:
    """Both services. `run` and `create` answer IDs."""

    def __init__(self, channel: Any) -> None:
        self.runtime: RuntimeServiceStub = RuntimeServiceStub(channel)
        self.images: ImageServiceStub = ImageServiceStub(channel)

    def run(self, *, handler: str = "", security: dict[str, Any] | None = None, **fields: Any) -> str:
        """RunPodSandbox; `security` are fields of the security context."""
        number = next(NUMBERS)
        metadata = pb.PodSandboxMetadata(name=f"pod{number}", namespace="ns", uid=f"uid{number}")
        context = pb.LinuxSandboxSecurityContext(**security or {})
        given = {"metadata": metadata, "linux": pb.LinuxPodSandboxConfig(security_context=context), **fields}
        request = pb.RunPodSandboxRequest(config=pb.PodSandboxConfig(**given), runtime_handler=handler)
        return self.runtime.RunPodSandbox(request).pod_sandbox_id

    def create(
        self, pod: str, *args: str, security: dict[str, Any] | None = None, name: str = "", **fields: Any
    ) -> str:
        """CreateContainer; `security` are fields of the security context."""
        metadata = pb.ContainerMetadata(name=name or f"c{next(NUMBERS)}")
        context = pb.LinuxContainerSecurityContext(**security or {})
        given: dict[str, Any] = {
            "metadata": metadata,
            "image": pb.ImageSpec(image="base"),
            "command": args or ("sleep",),
            "linux": pb.LinuxContainerConfig(security_context=context),
            **fields,
        }
        request = pb.CreateContainerRequest(pod_sandbox_id=pod, config=pb.ContainerConfig(**given))
        return self.runtime.CreateContainer(request).container_id

    def start(self, container: str) -> None:
        self.runtime.StartContainer(pb.StartContainerRequest(container_id=container))

    def started(self, pod: str, *args: str, **fields: Any) -> str:
        """A container that runs."""
        container = self.create(pod, *args, **fields)
        self.start(container)
        return container

    def status(self, container: str) -> pb.ContainerStatus:
        return self.runtime.ContainerStatus(pb.ContainerStatusRequest(container_id=container)).status

    def pod_status(self, pod: str) -> pb.PodSandboxStatus:
        return self.runtime.PodSandboxStatus(pb.PodSandboxStatusRequest(pod_sandbox_id=pod)).status

    def containers(self, **wanted: Any) -> list[str]:
        request = pb.ListContainersRequest(filter=pb.ContainerFilter(**wanted))
        return [each.id for each in self.runtime.ListContainers(request).containers]

    def pods(self, **wanted: Any) -> list[str]:
        request = pb.ListPodSandboxRequest(filter=pb.PodSandboxFilter(**wanted))
        return [each.id for each in self.runtime.ListPodSandbox(request).items]


@contextmanager
def refused(code: grpc.StatusCode, *words: str) -> Iterator[None]:
    """The call inside is answered with this status, in a message with these words."""
    with pytest.raises(grpc.RpcError) as caught:
        yield
    error: Any = caught.value
    assert error.code() == code, error.details()
    assert all(word in error.details() for word in words), error.details()
