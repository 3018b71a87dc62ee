"""Handlers that move images and root file systems between the store and archives: save, load, import, export."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, aclosing, contextmanager, nullcontext
from datetime import UTC, datetime
from typing import Any, BinaryIO, cast

from moorage.server.cancel import CancelToken
from moorage.server.engine import archives, imagechanges, storecommands
from moorage.server.engine.containers import Containers
from moorage.server.engine.engine import Lane
from moorage.server.engine.images import Images
from moorage.server.engine.job import Job
from moorage.server.engine.piping import Inlet, Outlet, produced
from moorage.server.engine.transfers import Blocking, transfer
from moorage.server.errors import FailedPrecondition, InvalidArgument, MoorageError
from moorage.server.graph import archive, documents, unarchive
from moorage.server.graph.graph import Graph
from moorage.server.graph.graphdb import short_id
from moorage.server.graph.indexes import Indexes
from moorage.server.graph.packing import PackingSink
from moorage.server.model import Container, Image, ImageIndex, Layer, LayerBlob, Platform
from moorage.server.registry import reference as references
from moorage.server.registry.client import Client
from moorage.server.registry.config import RegistryConfig
from moorage.server.registry.layerstream import LayerStream, compression_of
from moorage.server.registry.manifest import Descriptor
from moorage.server.registry.pull import Puller
from moorage.server.registry.wholes import Gatherer

TELL_EVERY = 8 << 20
"""Bytes between two reports of progress."""


class Archiving:
    """Handlers for archives."""

    def __init__(
        self,
        engine: Blocking,
        graph: Graph,
        images: Images,
        containers: Containers,
        puller: Puller,
        client: Client,
        indexes: Indexes,
        config: RegistryConfig,
        frozen: Callable[[Container], AbstractContextManager[None]],
    ) -> None:
        self._engine = engine
        self._graph = graph
        self._images = images
        self._containers = containers
        self._puller = puller
        self._client = client
        self._indexes = indexes
        self._config = config
        self._frozen = frozen

    # --- out

    async def save(self, job: Job, command: storecommands.Save) -> AsyncIterator[bytes]:
        """Images as one archive."""
        if not command.references:
            raise InvalidArgument("no image was named", field="references")
        if command.all_platforms:
            async with aclosing(self._save_indexes(job, command)) as pieces:
                async for piece in pieces:
                    yield piece
            return
        chosen = [(self._images.get(text), text) for text in command.references]

        def produce(outlet: Outlet, cancel: CancelToken) -> None:
            with self._graph.lease(), self._complete(chosen, cancel) as images:
                write = archive.docker_archive if command.format == "docker" else archive.oci_layout
                opener = self._open_plain if command.format == "docker" else self._open
                for piece in archive.joined(write(images, opener)):
                    outlet.write(piece)

        async with aclosing(produced(self._engine, Lane.ARCHIVE, produce, job.cancel)) as pieces:
            async for piece in pieces:
                yield piece

    async def _save_indexes(self, job: Job, command: storecommands.Save) -> AsyncGenerator[bytes, None]:
        """Indexes made here, or those that images were chosen from, with all that they list."""
        if command.format == "docker":
            why = "the older form of docker save holds images of one platform only"
            raise InvalidArgument(f"cannot save all platforms: {why}", field="format", hint="use the form oci")
        chosen = [self._index_or_image(text) for text in command.references]

        def produce(outlet: Outlet, cancel: CancelToken) -> None:
            with self._graph.lease():
                gatherer = Gatherer(self._graph, self._client, cancel)
                blobs: dict[str, Descriptor] = {}
                trees = []
                for names, found in chosen:
                    whole = gatherer.of_image(found) if isinstance(found, Image) else gatherer.of_index(found)
                    sizes = {digest: blob.size for digest, blob in whole.blobs.items()}
                    trees.append(archive.Tree(names, whole.digest, whole.media_type, whole.documents, sizes))
                    blobs |= whole.blobs
                for piece in archive.joined(archive.index_layout(trees, lambda digest: gatherer.open(blobs[digest]))):
                    outlet.write(piece)

        async with aclosing(produced(self._engine, Lane.ARCHIVE, produce, job.cancel)) as pieces:
            async for piece in pieces:
                yield piece

    def _index_or_image(self, text: str) -> tuple[tuple[str, ...], ImageIndex | Image]:
        """An index that was made here, else an image, each with the names to save it by."""
        index = None if self._graph.is_id(text) else self._indexes.find(self._images.key(text))
        if index is not None:
            return (index.name,), index
        image = self._images.get(text)
        return tuple(name for name in image.tags if name == self._images.key(text)), image

    async def export(self, job: Job, command: storecommands.Export) -> AsyncIterator[bytes]:
        """A container's root file system as a tar; a running container is held still meanwhile, if that was asked for."""
        container = self._containers.get(command.container)
        if container.state == "removing":
            raise FailedPrecondition(f"container {container.name} is being removed", state=container.state)
        still = command.pause and container.state == "running"

        def produce(outlet: Outlet, cancel: CancelToken) -> None:
            with self._frozen(container) if still else nullcontext():
                self._graph.export_rootfs(container.id, outlet, cancel)

        async with aclosing(produced(self._engine, Lane.ARCHIVE, produce, job.cancel)) as pieces:
            async for piece in pieces:
                yield piece

    @contextmanager
    def _complete(self, chosen: list[tuple[Image, str]], cancel: CancelToken) -> Iterator[list[archive.Packaged]]:
        """The images with all their blobs at hand; what was fetched for this goes again afterwards."""
        packaged: dict[str, archive.Packaged] = {}
        fetched: list[str] = []
        try:
            for image, text in chosen:
                names = tuple(name for name in image.tags if name == self._images.key(text))
                known = packaged.get(image.id)
                if known is not None:
                    packaged[image.id] = archive.Packaged(
                        (*known.names, *names), known.config, known.manifest, known.media_type, known.blobs
                    )
                else:
                    packaged[image.id] = self._package(image, names, fetched, cancel)
            yield list(packaged.values())
        finally:
            self._graph.discard(fetched)

    def _package(
        self, image: Image, names: tuple[str, ...], fetched: list[str], cancel: CancelToken
    ) -> archive.Packaged:
        config = self._graph.document(image.id)
        listed = self._graph.blobs(image)
        blobs = tuple(
            self._at_hand(layer, blob, fetched, cancel) for layer, blob in zip(image.layers, listed, strict=True)
        )
        manifest = next(
            raw
            for raw in (*self._graph.manifests(image), documents.make_manifest(config, blobs))
            if documents.layer_digests(raw) == [blob.digest for blob in blobs]
        )
        return archive.Packaged(names, config, manifest, documents.media_type_of(manifest), blobs)

    def _at_hand(self, layer: Layer, blob: LayerBlob, fetched: list[str], cancel: CancelToken) -> LayerBlob:
        """The layer's blob, or another of the same layer, in the content store. Raises FailedPrecondition when there is no way to one."""
        content = self._graph.content
        for known in (blob, *self._graph.layer_blobs(layer.chain_id)):
            if content.exists(known.digest):
                return known
        try:
            self._puller.fetch(blob.digest, cancel)
        except MoorageError as error:
            cancel.check()
            reason = error.message
        else:
            fetched.append(blob.digest)
            return blob
        packed = self._graph.pack_layer(layer.chain_id, cancel)
        fetched.append(packed.digest)
        if packed.diff_id == layer.diff_id:
            return packed
        raise FailedPrecondition(
            f"cannot save layer {short_id(layer.diff_id)}: its blob was not kept, and cannot be fetched again: {reason}",
            reason="BLOB_NOT_KEPT",
            hint="set keep_blobs = true in [registry] and pull the image again",
            layer=layer.diff_id,
        )

    def _open(self, blob: LayerBlob) -> BinaryIO:
        return self._graph.content.open(blob.digest)

    def _open_plain(self, blob: LayerBlob) -> BinaryIO:
        stream = LayerStream(
            archives.Stored(self._open(blob)),
            blob.digest,
            blob.size,
            compression_of(blob.media_type),
            self._config.max_layer_size,
            self._config.max_ratio,
        )
        return cast(BinaryIO, io.BufferedReader(stream, archive.CHUNK))

    # --- in

    async def load(self, job: Job, command: storecommands.Load) -> AsyncIterator[storecommands.LoadStep]:
        """Images out of an archive."""
        loop = asyncio.get_running_loop()

        def work(tell: Callable[[storecommands.LoadStep], None], cancel: CancelToken) -> None:
            inlet = Inlet(command.data, loop, cancel)
            with self._graph.lease():
                contents = unarchive.read(inlet, self._graph.content, cancel, _counted(tell))
                try:
                    for found in archives.Archive(self._graph, contents).images(Platform()):
                        self._admit(found, cancel)
                        image = archives.add(self._graph, found, self._config, cancel, tell, "load")
                        tell(storecommands.LoadStep("done", image=image, names=found.names))
                finally:
                    self._graph.discard(contents.added)

        async for step in transfer(self._engine, job, work, Lane.ARCHIVE):
            if isinstance(step, storecommands.LoadStep):
                yield step

    async def import_(self, job: Job, command: storecommands.Import) -> AsyncIterator[storecommands.LoadStep]:
        """An image of one layer out of the tar of a root file system."""
        tags = (self._images.tag_of(command.reference),) if command.reference else ()
        config: dict[str, Any] = {}
        imagechanges.apply(config, command.changes)
        loop = asyncio.get_running_loop()

        def work(tell: Callable[[storecommands.LoadStep], None], cancel: CancelToken) -> None:
            self._puller.admit([references.parse(tag) for tag in tags], (), "import", cancel)
            inlet = Inlet(command.data, loop, cancel)
            with self._graph.lease():
                blob = self._import_blob(inlet, cancel, _counted(tell))
                document = _imported(config, blob.diff_id, command)
                found = archives.Found(documents.encode(document), (blob,), None, tags)
                image = archives.add(self._graph, found, self._config, cancel, tell, "import")
                tell(storecommands.LoadStep("done", image=image, names=tags))

        async for step in transfer(self._engine, job, work, Lane.ARCHIVE):
            if isinstance(step, storecommands.LoadStep):
                yield step

    def _admit(self, found: archives.Found, cancel: CancelToken) -> None:
        names = [references.parse(name) for name in found.names]
        digests = () if found.manifest is None else (documents.digest_of(found.manifest), *found.indexes)
        self._puller.admit(names, digests, "load", cancel)

    def _import_blob(self, inlet: Inlet, cancel: CancelToken, progress: Callable[[int], None]) -> LayerBlob:
        """The tar, compressed or not, as a compressed blob. What it holds is looked at when it is unpacked."""
        size = 0
        with self._graph.content.draft() as draft:
            sink = PackingSink(draft, "gzip")
            tar = unarchive.plain(inlet)
            while data := unarchive.take(tar, archive.CHUNK):
                cancel.check()
                sink.write(data)
                size += len(data)
                if size > self._config.max_layer_size:
                    raise InvalidArgument(
                        f"cannot import: the archive unpacks to more than {self._config.max_layer_size} bytes",
                        hint="the limit is max_layer_size of [registry]",
                    )
                progress(size)
            if not size:
                raise InvalidArgument("cannot import: the archive is empty", reason="MALFORMED_ARCHIVE")
            return sink.finish()


def _counted(tell: Callable[[storecommands.LoadStep], None]) -> Callable[[int], None]:
    """Progress by bytes, told now and then."""
    told = 0

    def progress(count: int) -> None:
        nonlocal told
        if count - told >= TELL_EVERY:
            told = count
            tell(storecommands.LoadStep("receiving", current=count))

    return progress


def _imported(config: dict[str, Any], diff_id: str, command: storecommands.Import) -> dict[str, Any]:
    moment = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    platform = command.platform or Platform()
    comment = command.message or "imported"
    document: dict[str, Any] = {
        "architecture": platform.architecture,
        "os": platform.os,
        "created": moment,
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [{"created": moment, "comment": comment}],
    }
    if platform.variant:
        document["variant"] = platform.variant
    return document
