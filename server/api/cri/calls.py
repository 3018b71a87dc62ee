"""What the RPCs of all CRI modules use: the engine, look-up of pods and containers, and their statuses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from grpc import aio

from moorage.cri.v1 import api_pb2 as pb
from moorage.server.api import context as ctx
from moorage.server.api.cri import convert_container, convert_pod
from moorage.server.api.derived import Derived
from moorage.server.config import Cri
from moorage.server.engine import commands, imagecommands
from moorage.server.engine import podcommands as pods
from moorage.server.engine.engine import Engine
from moorage.server.engine.job import Command, Context
from moorage.server.errors import NotFound
from moorage.server.model import Container, Image, PodRecord
from moorage.server.networkdriver.base import NetworkDriver
from moorage.server.streaming.server import StreamingServer

Ctx = aio.ServicerContext[Any, Any]
R = TypeVar("R")


@dataclass(frozen=True)
class Features:
    """What this machine can do and so is advertised."""

    recursive_read_only: bool = False
    user_namespaces: bool = False
    supplemental_groups_policy: bool = True
    pressure: bool = False
    """Whether the kernel tells each cgroup's pressure stall information."""


@dataclass(frozen=True)
class Setting:
    """What the services are made of. `root` is the directory that holds images and containers."""

    engine: Engine
    streaming: StreamingServer
    config: Cri
    root: Path
    version: str
    network: NetworkDriver
    """The driver of the network that pods join."""
    features: Features = Features()
    """Of containers that we make ourselves."""
    runtimes: tuple[commands.Examined, ...] = ()
    """OCI runtimes, each a runtime handler of its name."""


class Calls:
    """The base of every class that answers some of CRI's RPCs."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._engine = setting.engine
        self._recorded = Derived(convert_container.recorded_status)

    async def _run(self, command: Command[R], context: Ctx) -> R:
        return await self._engine.run(command, ctx.of(context))

    async def _pod(self, text: str, caller: Context) -> PodRecord:
        """By ID or unique prefix. Raises NotFound, InvalidArgument (ambiguous)."""
        return await self._engine.run(pods.InspectPod(text), caller)

    async def _container(self, text: str, caller: Context) -> Container:
        """By ID or unique prefix. Containers that belong to no pod are not CRI's. Raises NotFound, InvalidArgument (ambiguous)."""
        found = await self._engine.run(commands.InspectContainer(text), caller)
        if not found.pod_id or not found.id.startswith(text):
            raise NotFound(f"no such container: {text}", container=text)
        return found

    async def _containers(self, caller: Context) -> list[Container]:
        """Those of all pods, newest first."""
        found = await self._engine.run(commands.ListContainers(all=True), caller)
        return [container for container in found if container.pod_id]

    async def _image(self, image_id: str, caller: Context) -> Image | None:
        try:
            return await self._engine.run(imagecommands.InspectImage(image_id), caller)
        except NotFound:
            return None

    async def _container_status(self, container: Container, caller: Context) -> pb.ContainerStatus:
        image = await self._image(container.image_id, caller)
        return convert_container.container_status(container, self._recorded(container), image=image)

    async def _pod_statuses(
        self, pod: PodRecord, caller: Context
    ) -> tuple[pb.PodSandboxStatus, list[pb.ContainerStatus]]:
        """A pod's, and those of its containers."""
        members = [container for container in await self._containers(caller) if container.pod_id == pod.id]
        return convert_pod.pod_status(pod), [await self._container_status(each, caller) for each in members]
