"""Handlers for what is done at registries: pushes, searches, lists, deletions, logins, and the indexes that are made here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

from moorage.server.cancel import CancelToken
from moorage.server.engine import registrycommands as r
from moorage.server.engine.engine import Lane
from moorage.server.engine.images import Images
from moorage.server.engine.job import Job
from moorage.server.engine.piping import Asked, Outlet, produced
from moorage.server.engine.transfers import Blocking, Ended, transfer
from moorage.server.errors import InvalidArgument, NotFound
from moorage.server.graph.indexes import Indexes
from moorage.server.model import Image, ImageIndex
from moorage.server.registry import putting
from moorage.server.registry import reference as references
from moorage.server.registry.client import Client
from moorage.server.registry.copying import Copier
from moorage.server.registry.discover import Discovery, Found, Page, Referrer
from moorage.server.registry.indexes import Indexer
from moorage.server.registry.manifest import Descriptor
from moorage.server.registry.progress import PushProgress, PushStage, Reporter
from moorage.server.registry.push import Pushed, Pusher
from moorage.server.registry.reference import Reference
from moorage.server.registry.upload import Sent

MAX_FOUND = 100
Tell = Callable[[PushProgress], None]


class Registries:
    """Handlers. `pusher`, `indexer` and `copier` move blobs, `client` asks for documents, `discovery` for everything else."""

    def __init__(
        self,
        engine: Blocking,
        images: Images,
        indexes: Indexes,
        client: Client,
        pusher: Pusher,
        indexer: Indexer,
        copier: Copier,
    ) -> None:
        self._engine, self._images, self._indexes = engine, images, indexes
        self._client, self._pusher, self._indexer, self._copier = client, pusher, indexer, copier
        self._discovery = Discovery(client)

    async def push(self, job: Job, command: r.Push) -> AsyncIterator[r.PushStep]:
        """Send an image to a registry."""
        image = self._images.get(command.reference)
        name = command.destination or self._own_name(image, command.reference)
        reference = self._images.reference(name).with_default_tag()
        auth = r.for_registry(command.given, reference.domain)

        def work(tell: Tell, cancel: CancelToken) -> Pushed:
            if command.all_platforms:
                return self._copier.push_index(image, reference, auth, tell, cancel)
            return self._pusher.push(reference, image, auth, tell, cancel)

        async for step in self._steps(job, work):
            yield step

    async def push_index(self, job: Job, command: r.PushIndex) -> AsyncIterator[r.PushStep]:
        """Send an index and its images to a registry."""
        index = self._indexes.get(self._index_name(command.name))
        target = self._images.reference(command.destination or index.name).with_default_tag()
        if target.digest:
            raise InvalidArgument(f"cannot push to {target}: a digest follows from what is pushed", field="destination")
        auth = r.for_registry(command.given, target.domain)

        def work(tell: Tell, cancel: CancelToken) -> Pushed:
            return self._indexer.push(index, target, auth, tell, cancel)

        async for step in self._steps(job, work):
            yield step

    async def blob(self, job: Job, command: r.GetBlob) -> AsyncIterator[bytes]:
        """A blob of a repository, as it is."""
        name, blob = self._images.reference(command.reference), _blob(command.digest, command.size)
        auth = r.for_registry(command.given, name.domain)

        def produce(outlet: Outlet, cancel: CancelToken) -> None:
            repository = self._client.repository(name, auth, cancel)
            for piece in repository.read_blob(blob, cancel):
                outlet.write(piece)

        async with aclosing(produced(self._engine, Lane.ARCHIVE, produce, job.cancel)) as pieces:
            async for piece in pieces:
                yield piece

    async def put_blob(self, job: Job, command: r.PutBlob) -> AsyncIterator[r.PutStep]:
        """Send a blob of the caller's to a repository."""
        name, blob = self._images.reference(command.reference), _blob(command.digest, command.size)
        auth = r.for_registry(command.given, name.domain)
        loop = asyncio.get_running_loop()

        def work(tell: Callable[[r.PutStep], None], cancel: CancelToken) -> Sent:
            def moved(count: int) -> None:
                report(blob.digest, PushStage.UPLOADING, count, blob.size)

            def ask(offset: int) -> None:
                tell(r.PutStep(send_from=offset))

            report: Reporter[PushStage] = Reporter(lambda step: tell(r.PutStep(step.stage.name.lower(), step.current)))
            content = Asked(command.data, ask, blob.digest, blob.size, loop, cancel)
            return putting.put_blob(self._client, name, blob, auth, content, moved, cancel)

        async for step in transfer(self._engine, job, work, Lane.ARCHIVE):
            if isinstance(step, Ended):
                yield r.PutStep("exists" if step.result is Sent.EXISTS else "done", blob.size)
            else:
                yield step

    def put_manifest(self, job: Job, command: r.PutManifest) -> Pushed:
        """Send a manifest or index of the caller's to its repository."""
        name = self._images.reference(command.reference).with_default_tag()
        auth = r.for_registry(command.given, name.domain)
        return putting.put_manifest(self._client, name, command.raw, command.media_type, auth, job.cancel)

    async def copy(self, job: Job, command: r.CopyManifest) -> AsyncIterator[r.PushStep]:
        """Copy an image, index or artifact from one repository to another."""
        source = self._images.reference(command.source).with_default_tag()
        target = self._images.reference(command.destination).with_default_tag()
        credentials = {
            source.domain: r.for_registry(command.source_given, source.domain),
            target.domain: r.for_registry(command.given, target.domain),
        }

        def work(tell: Tell, cancel: CancelToken) -> Pushed:
            return self._copier.copy(source, target, credentials, tell, cancel, referrers=command.referrers)

        async for step in self._steps(job, work):
            yield step

    async def _steps(self, job: Job, work: Callable[[Tell, CancelToken], Pushed]) -> AsyncIterator[r.PushStep]:
        yield r.PushStep(stage="preparing")
        async for step in transfer(self._engine, job, work):
            if isinstance(step, Ended):
                yield r.PushStep(stage="done", pushed=step.result)
            else:
                yield r.PushStep(step.digest, step.stage.name.lower(), step.current, step.total)

    def _own_name(self, image: Image, text: str) -> str:
        """The tag that an image was asked for by; its only one when it was asked for by ID."""
        key = self._images.key(text)
        if key in image.tags:
            return key
        if len(image.tags) == 1:
            return image.tags[0]
        why = f"it has the tags {', '.join(image.tags)}" if image.tags else "it has no tag"
        raise InvalidArgument(f"cannot push image {text}: {why}", hint="say under which name to push it")

    def authenticate(self, job: Job, command: r.Authenticate) -> bool:
        """Try credentials at a registry."""
        domain = self._domain(command.registry)
        return self._discovery.authenticate(domain, r.for_registry(command.given, domain), job.cancel)

    def search(self, job: Job, command: r.Search) -> list[Found]:
        """Find repositories."""
        if not command.term.strip():
            raise InvalidArgument("no search term was given", field="term")
        if not 0 < command.limit <= MAX_FOUND:
            raise InvalidArgument(f"limit must be 1 to {MAX_FOUND}, not {command.limit}", field="limit")
        domain, term = self._images.names.split(command.term.strip())
        found = self._discovery.search(domain, term, command.limit, r.for_registry(command.given, domain), job.cancel)
        return [
            entry for entry in found if entry.stars >= command.min_stars and (entry.official or not command.official)
        ]

    def tags(self, job: Job, command: r.ListTags) -> Page:
        """The tags of a repository."""
        name = self._images.reference(command.repository)
        auth = r.for_registry(command.given, name.domain)
        return self._discovery.tags(name, command.query, command.size, auth, job.cancel)

    def repositories(self, job: Job, command: r.ListRepositories) -> Page:
        """The catalogue of a registry."""
        domain = self._domain(command.registry)
        auth = r.for_registry(command.given, domain)
        return self._discovery.repositories(domain, command.query, command.size, auth, job.cancel)

    def referrers(self, job: Job, command: r.ListReferrers) -> tuple[str, list[Referrer]]:
        """What refers to a manifest."""
        name = self._images.reference(command.reference).with_default_tag()
        auth = r.for_registry(command.given, name.domain)
        return self._discovery.referrers(name, command.artifact_type, auth, job.cancel)

    def delete(self, job: Job, command: r.DeleteManifest) -> str:
        """Delete a tag or manifest from a registry."""
        name = self._images.reference(command.reference)
        return self._discovery.delete(name, r.for_registry(command.given, name.domain), job.cancel)

    def manifest(self, job: Job, command: r.GetManifest) -> r.RawManifest:
        """The document of a name: of an index here, else of its registry."""
        name = self._images.reference(command.reference).with_default_tag()
        index = self._indexes.find(str(name))
        if index is not None:
            return r.RawManifest(index.raw.encode(), index.digest, index.media_type, local=True)
        repository = self._client.repository(name, r.for_registry(command.given, name.domain), job.cancel)
        document = repository.get_document(name.target)
        return r.RawManifest(document.raw, document.digest, document.media_type)

    def create_index(self, job: Job, command: r.CreateIndex) -> ImageIndex:
        """Make an index of images here, or in registries where they are not here."""
        name = self._images.reference(command.name).with_default_tag()
        if name.digest:
            raise InvalidArgument(f"{name} has a digest: an index made here is given a tag", field="name")
        auth = r.for_registry(command.given, name.domain)
        members = [self._member(text) for text in command.images]
        index = self._indexer.make(name, members, command.annotations, auth, job.cancel)
        self._indexes.put(index)
        return index

    def indexes(self, job: Job, command: r.ListIndexes) -> list[ImageIndex]:
        """The indexes here."""
        return list(self._indexes.list())

    def remove_index(self, job: Job, command: r.RemoveIndex) -> None:
        """Delete an index here."""
        self._indexes.remove(self._index_name(command.name))

    def _index_name(self, text: str) -> str:
        return str(self._images.reference(text).with_default_tag())

    def _member(self, text: str) -> Image | Reference:
        try:
            return self._images.get(text)
        except NotFound:
            return self._images.reference(text).with_default_tag()

    def _domain(self, registry: str) -> str:
        return references.parse_domain(registry) if registry else self._images.names.default


def _blob(digest: str, size: int) -> Descriptor:
    if not references.is_digest(digest) or size < 0:
        raise InvalidArgument(f"{digest[:100]!r} of {size} bytes is no blob", field="digest")
    return Descriptor("", digest, size)
