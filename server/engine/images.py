"""Handlers for images: the graph seen from outside, and the pull that fills it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from moorage.server.cancel import CancelToken
from moorage.server.engine import imagecommands, imagefilter
from moorage.server.engine.containers import Containers
from moorage.server.engine.job import Job
from moorage.server.engine.registrycommands import Given, for_registry
from moorage.server.engine.transfers import Blocking, Ended, transfer
from moorage.server.errors import InvalidArgument, NotFound
from moorage.server.graph.graph import Graph
from moorage.server.model import Image, Platform
from moorage.server.registry import reference as references
from moorage.server.registry.manifest import platform_name, suits
from moorage.server.registry.progress import PullProgress
from moorage.server.registry.pull import Puller
from moorage.server.registry.reference import Reference, ShortNames


class Images:
    """Handlers for images."""

    def __init__(
        self, engine: Blocking, graph: Graph, puller: Puller, containers: Containers, names: ShortNames
    ) -> None:
        self.names = names
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
        reference = self.reference(text).with_default_tag()
        return f"{reference.repository}@{reference.digest}" if reference.digest else str(reference)

    def reference(self, text: str) -> Reference:
        """What a name means here, with the configured rules for short ones. Raises InvalidArgument."""
        return self.names.parse(text)

    def tag_of(self, text: str) -> str:
        """The canonical tag that a name means. Raises InvalidArgument for one with a digest: a digest is what an image is, not a name."""
        reference = self.reference(text)
        if reference.digest:
            raise InvalidArgument(
                f"{text} has a digest: an image made or named here is given a tag", hint="leave the digest out"
            )
        return str(reference.with_default_tag())

    async def pull(self, job: Job, command: imagecommands.Pull) -> AsyncIterator[imagecommands.Progress]:
        """Run the puller on a transfer thread and hand on its progress; a reader that goes away stops it."""
        reference = self.reference(command.reference).with_default_tag()
        found = self._present(reference, command) if command.policy != "always" else None
        if found is not None:
            yield imagecommands.Progress(stage="done", image=found)
            return
        platform = command.platform or Platform()
        given = Given(command.auth, command.auth_registry) if command.auth else None
        auth = for_registry(given, reference.domain)

        def work(tell: Callable[[PullProgress], None], cancel: CancelToken) -> Image:
            return self._puller.pull(reference, platform, auth, tell, cancel)

        yield imagecommands.Progress(stage="resolving")
        async for step in transfer(self._engine, job, work):
            if isinstance(step, Ended):
                yield imagecommands.Progress(stage="done", image=step.result)
            else:
                yield imagecommands.Progress(step.digest, step.stage.name.lower(), step.current, step.total)

    def _present(self, reference: Reference, command: imagecommands.Pull) -> Image | None:
        """The image that is here under a name, for the platform asked for. Raises NotFound when the registry must not be asked."""
        try:
            found = self.get(str(reference))
        except NotFound:
            found = None
        wanted = command.platform
        if found is not None and (wanted is None or suits(found.platform, wanted)):
            return found
        if command.policy == "missing":
            return None
        on = f" for {platform_name(wanted)}" if wanted else ""
        hint = "the pull policy is never: pull it, or choose another policy"
        raise NotFound(f"image {reference}{on} is not here", reason="IMAGE_NOT_FOUND", hint=hint, image=str(reference))

    def images(self, job: Job, command: imagecommands.ListImages) -> list[Image]:
        """Images, newest first."""
        images = sorted(self._graph.list(), key=lambda image: (-image.created_ns, image.id))
        before = self.get(command.before) if command.before else None
        since = self.get(command.since) if command.since else None
        wanted = self.reference(command.reference) if command.reference else None

        def meant(name: str) -> bool:
            return (wanted is None or _means(wanted, name)) and imagefilter.fits(name, command.patterns)

        if wanted is not None:
            images = [image for image in images if any(_means(wanted, name) for name in (*image.tags, *image.digests))]
        found = [image for image in images if imagefilter.matches(image, command, before, since)]
        narrow = command.narrow and (wanted is not None or command.patterns)
        return [imagefilter.narrowed(image, meant) for image in found] if narrow else found

    def inspect(self, job: Job, command: imagecommands.InspectImage) -> Image:
        """One image."""
        return self.get(command.reference)

    def users(self, job: Job, command: imagecommands.ImageUsers) -> list[str]:
        """Containers made from an image."""
        return self._containers.using(command.image_id)

    def remove(self, job: Job, command: imagecommands.RemoveImage) -> imagecommands.RemovedImage:
        """Delete a tag or an image that no container holds."""
        removed = self._graph.remove(self.key(command.reference), self._containers.using, command.forget, command.force)
        return imagecommands.RemovedImage(tuple(removed.untagged), tuple(removed.deleted), removed.reclaimed)


def _means(wanted: references.Reference, name: str) -> bool:
    """Whether a name is this very one, or one in this repository."""
    if wanted.tag or wanted.digest:
        return str(wanted) == name
    return _repository(name) == wanted.repository


def _repository(name: str) -> str:
    return references.parse(name).repository
