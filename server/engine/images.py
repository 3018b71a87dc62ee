"""Handlers for images: the graph seen from outside, and the pull that fills it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

from moorage.server.cancel import CancelToken
from moorage.server.engine import commands, imagefilter
from moorage.server.engine.containers import Containers
from moorage.server.engine.engine import Lane
from moorage.server.engine.job import Job
from moorage.server.errors import InvalidArgument
from moorage.server.graph.graph import Graph
from moorage.server.model import Image, Platform
from moorage.server.registry import reference as references
from moorage.server.registry.progress import PullProgress
from moorage.server.registry.pull import Puller


class Blocking(Protocol):
    """The part of the engine that runs blocking functions for `async` handlers."""

    async def blocking(self, lane: Lane, function: Callable[..., Any], *args: Any) -> Any:
        """Run a blocking function on a lane's threads."""
        ...


class Images:
    """Handlers for images."""

    def __init__(self, engine: Blocking, graph: Graph, puller: Puller, containers: Containers) -> None:
        self._engine = engine
        self._graph = graph
        self._puller = puller
        self._containers = containers

    def get(self, text: str) -> Image:
        """An image by reference, digest, ID or unique ID prefix. Raises NotFound or InvalidArgument."""
        if not text:
            raise InvalidArgument("no image was named", field="image")
        return self._graph.get(self.key(text))

    def key(self, text: str) -> str:
        """What the graph knows an image as: an ID stays as it is, a reference becomes canonical."""
        if self._graph.is_id(text):
            return text
        reference = references.parse(text).with_default_tag()
        return f"{reference.repository}@{reference.digest}" if reference.digest else str(reference)

    async def pull(self, job: Job, command: commands.Pull) -> AsyncIterator[commands.Progress]:
        """Run the puller on a transfer thread and hand on its progress; a reader that goes away stops it."""
        reference = references.parse(command.reference).with_default_tag()
        platform = command.platform or Platform()
        loop = asyncio.get_running_loop()
        progress: asyncio.Queue[PullProgress | None] = asyncio.Queue()
        cancel = CancelToken()

        def tell(step: PullProgress | None) -> None:
            loop.call_soon_threadsafe(progress.put_nowait, step)

        def work() -> Image:
            try:
                return self._puller.pull(reference, platform, command.auth, tell, cancel)
            finally:
                tell(None)

        with job.cancel.on_cancel(lambda: cancel.cancel("the pull was cancelled")):
            task = loop.create_task(self._engine.blocking(Lane.TRANSFER, work))
            try:
                yield commands.Progress(stage="resolving")
                while (step := await progress.get()) is not None:
                    yield commands.Progress(step.digest, step.stage.name.lower(), step.current, step.total)
                yield commands.Progress(stage="done", image=await task)
            finally:
                cancel.cancel("the caller hung up")
                await asyncio.wait({task})
                if not task.cancelled():
                    task.exception()

    def images(self, job: Job, command: commands.ListImages) -> list[Image]:
        """Images, newest first."""
        images = sorted(self._graph.list(), key=lambda image: (-image.created_ns, image.id))
        before = self.get(command.before) if command.before else None
        since = self.get(command.since) if command.since else None
        if command.reference:
            images = [image for image in images if _named(image, references.parse(command.reference))]
        return [image for image in images if imagefilter.matches(image, command, before, since)]

    def inspect(self, job: Job, command: commands.InspectImage) -> Image:
        """One image."""
        return self.get(command.reference)

    def users(self, job: Job, command: commands.ImageUsers) -> list[str]:
        """Containers made from an image."""
        return self._containers.using(command.image_id)

    def remove(self, job: Job, command: commands.RemoveImage) -> commands.RemovedImage:
        """Delete a tag or an image that no container holds."""
        removed = self._graph.remove(self.key(command.reference), self._containers.using, command.forget, command.force)
        return commands.RemovedImage(tuple(removed.untagged), tuple(removed.deleted), removed.reclaimed)


def _named(image: Image, wanted: references.Reference) -> bool:
    """Whether an image has this very name, or one in this repository."""
    names = (*image.tags, *image.digests)
    if wanted.tag or wanted.digest:
        return str(wanted) in names
    return any(_repository(name) == wanted.repository for name in names)


def _repository(name: str) -> str:
    return references.parse(name).repository
