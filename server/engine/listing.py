"""Handlers that only read containers, all from memory but the size of a writable layer."""

from __future__ import annotations

from collections.abc import Callable

from moorage.server.engine import commands
from moorage.server.engine.containers import Containers
from moorage.server.engine.job import Job
from moorage.server.errors import NotFound
from moorage.server.graph.graph import Graph
from moorage.server.model import Container, DiskUsage, ExitStatus, Image


class Listing:
    """Handlers that read containers."""

    def __init__(self, containers: Containers, graph: Graph, images: Callable[[str], Image]) -> None:
        self._containers = containers
        self._graph = graph
        self._images = images

    def containers(self, job: Job, command: commands.ListContainers) -> list[Container]:
        """Containers that meet every condition, newest first."""
        image_id = self._image_id(command.image)
        return [
            c for c in self._containers.all() if _matches(c, command) and (not command.image or c.image_id == image_id)
        ]

    def container(self, job: Job, command: commands.InspectContainer) -> Container:
        """One container."""
        return self._containers.get(command.id)

    def usages(self, job: Job, command: commands.MeasureContainers) -> dict[str, DiskUsage]:
        """What the writable layers take of those containers that are still there."""
        return self._graph.rootfs_usages(command.ids)

    async def wait(self, job: Job, command: commands.Wait) -> ExitStatus:
        """How it ended, once it does not run."""
        return await self._containers.gone(self._containers.resolve(command.id))

    def _image_id(self, text: str) -> str:
        """An unknown image matches no container."""
        if not text:
            return ""
        try:
            return self._images(text).id
        except NotFound:
            return ""


def _matches(container: Container, command: commands.ListContainers) -> bool:
    if command.states:
        if _shown(container) not in command.states:
            return False
    elif not command.all and container.state != "running":
        return False
    if command.name and command.name not in container.name:
        return False
    own = container.config.labels
    return all(key in own and value in ("", own[key]) for key, value in command.labels.items())


def _shown(container: Container) -> str:
    """A container that is being started is still a created one to those outside."""
    return "created" if container.state == "starting" else container.state
