"""The image store: images with their names, the layers they are made of, and the root file systems that containers get from them.

    edges: tag     docker.io/library/busybox:latest           -> image
           digest  docker.io/library/busybox@sha256:…         -> image
           image layer  <image ID>/<index>      image         -> layer
           layer parent <chain ID>              layer         -> layer
           image content <image ID>/<digest>    image         -> config or manifest in the content store
           layer blob    <chain ID>/<digest>    layer         -> blob of the content store

Names are canonical strings, given by the caller. What no name and no container leads to is garbage.
"""

from __future__ import annotations

import hashlib
import logging
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from moorage.server.cancel import CancelToken
from moorage.server.errors import DataLoss, FailedPrecondition, InvalidArgument, NotFound
from moorage.server.graph import documents, imageconfig, layers, syncing
from moorage.server.graph.compression import Compression
from moorage.server.graph.content import ContentStore, check_digest, days_ago_ns
from moorage.server.graph.drivers.base import GraphDriver, RootfsMount
from moorage.server.graph.graphdb import GraphDB, Transaction, short_id
from moorage.server.graph.layers import Layers
from moorage.server.graph.packing import MadeLayer, pack_changes, pack_layer
from moorage.server.model import DiskUsage, Image, Layer, LayerBlob

KIND = "image"
TAG = "tag"
DIGEST = "digest"
CONTENT = "image content"

KEEP_DAYS = 7.0
"""How long what an interrupted pull left is kept for the next one."""

log = logging.getLogger(__name__)

_ID = re.compile(r"(sha256:)?[0-9a-f]{1,64}", re.ASCII)


@dataclass(frozen=True)
class Removed:
    """What `Graph.remove` did: names taken away, IDs of images deleted, bytes freed."""

    untagged: tuple[str, ...]
    deleted: tuple[str, ...]
    reclaimed: int


@dataclass(frozen=True)
class Collected:
    """What `Graph.collect` found that nothing reached: layers, root file systems, blobs and half-done things, and the bytes of blobs and
    layers freed."""

    layers: int
    rootfs: int
    blobs: int
    unfinished: int
    reclaimed: int


class Graph:
    """Thread-safe. Work on one container's root file system is serialised by the caller."""

    def __init__(self, root: Path, db: GraphDB, content: ContentStore, driver: GraphDriver) -> None:
        self.content = content
        self.driver = driver
        self._root = root
        self._db = db
        self._layers = Layers(db, driver)
        self._lock = threading.Lock()
        self._leases = 0

    @contextmanager
    def lease(self) -> Iterator[None]:
        """While a pull runs: layers and blobs that no image reaches yet, or any more, stay. Unreached ones go with the next removal."""
        with self._lock:
            self._leases += 1
        try:
            yield
        finally:
            with self._lock:
                self._leases -= 1

    def has_layer(self, chain_id: str) -> bool:
        return self._layers.get(chain_id) is not None

    def apply_layer(self, chain_id: str, diff_id: str, parent: str, tar: BinaryIO, cancel: CancelToken) -> Layer:
        """Unpack an uncompressed tar as the layer `chain_id`, on top of the layer `parent` (empty at the base).

        A second caller for the same chain ID waits for the first, and then gets its layer without reading its own `tar`. Raises DataLoss
        when the tar's digest is not `diff_id`, InvalidArgument for a hostile or damaged one; nothing is committed then.
        """
        return self._layers.apply(chain_id, diff_id, parent, tar, cancel)

    def commit_layer(
        self,
        container_id: str,
        cancel: CancelToken,
        *,
        compression: Compression = "gzip",
        move: bool = False,
        clamp_seconds: int | None = None,
        still: AbstractContextManager[None] | None = None,
    ) -> MadeLayer:
        """What a container has changed, as a layer on top of its image's and as a compressed blob of the content store.

        The same changes give the same digests. With `move` the container is of no more use, and only `remove_rootfs` may follow.
        No file is younger than `clamp_seconds` since the epoch. The files are copied inside `still`.
        Hold a `lease` until an image has the layer.
        Raises FailedPrecondition for a change that no layer can hold, ResourceExhausted for a full disk.
        """
        return pack_changes(
            self.driver,
            self.content,
            self._layers,
            container_id,
            cancel,
            compression=compression,
            move=move,
            clamp_seconds=clamp_seconds,
            still=still or nullcontext(),
        )

    def layer_blobs(self, chain_id: str) -> list[LayerBlob]:
        """The blobs of a layer that are kept in the content store."""
        return self._layers.blobs(chain_id)

    def pack_layer(self, chain_id: str, cancel: CancelToken) -> LayerBlob:
        """A gzip blob of a layer's files, whose own blob is not here any more; the caller's to delete.

        Its diff ID is the layer's own only if the layer was packed here once. Raises NotFound, ResourceExhausted for a full disk.
        """
        return pack_layer(self.driver, self.content, chain_id, cancel)

    def add_digest(self, image_id: str, name: str) -> None:
        """Have `repository@digest` lead to an image that has been pushed there. An image that is gone by now is no error."""
        with self._db.transaction() as tx:
            if tx.get(KIND, image_id, Image) is not None:
                _move(tx, DIGEST, name, image_id)
                tx.event("image", "push", image_id, name)

    def add_document(self, data: bytes) -> str:
        """Put a config or manifest into the content store; answers its digest."""
        with self.content.draft() as draft:
            draft.write(data)
            return draft.commit()

    def document(self, image_id: str) -> bytes:
        """An image's config as it is. Raises NotFound, DataLoss."""
        return self.content.read(image_id, documents.MAX_DOCUMENT)

    def manifests(self, image: Image) -> list[bytes]:
        """The manifests that an image came or was made with, as they are: those first whose layers' blobs are all kept here."""
        digests = [digest for digest in self._db.targets(CONTENT, image.id) if digest != image.id]
        found = [self.content.read(digest, documents.MAX_DOCUMENT) for digest in digests if self.content.exists(digest)]
        return sorted(found, key=lambda manifest: not self._has_all(manifest, image))

    def _has_all(self, manifest: bytes, image: Image) -> bool:
        blobs = documents.layer_blobs(manifest, [layer.diff_id for layer in image.layers])
        return blobs is not None and all(self.content.exists(blob.digest) for blob in blobs)

    def blobs(self, image: Image) -> tuple[LayerBlob, ...]:
        """The blobs of an image's layers, from the base up, as its manifest lists them; not all of them need be here.

        Raises DataLoss when there is no manifest.
        """
        for manifest in self.manifests(image):
            blobs = documents.layer_blobs(manifest, [layer.diff_id for layer in image.layers])
            if blobs is not None:
                return blobs
        raise DataLoss(f"the manifest of image {short_id(image.id)} is lost", hint="run `moorage fsck`")

    def make_image(
        self, config: bytes, blobs: Sequence[LayerBlob], *, tags: Sequence[str] = (), action: str = "commit"
    ) -> Image:
        """Make an image here: its documents go into the content store, then see `register`."""
        manifest = self.add_document(documents.make_manifest(config, blobs))
        self.add_document(config)
        return self.register(config=config, manifest_digest=manifest, tags=tags, action=action)

    def register(
        self,
        *,
        config: bytes,
        manifest_digest: str,
        tags: Sequence[str] = (),
        digests: Sequence[str] = (),
        action: str = "pull",
    ) -> Image:
        """Make an image of layers that are all applied, and give it its names; a tag held by another image moves.

        Config and manifest are in the content store already. `action` is the event's.

        The layers are on the disk before the image has a name. Raises InvalidArgument for a malformed config, FailedPrecondition
        when a layer is missing.
        """
        check_digest(manifest_digest)
        parsed = imageconfig.parse(config)
        image_id = f"sha256:{hashlib.sha256(config).hexdigest()}"
        syncing.sync_file_system(self._root)
        with self._db.transaction(durable=True) as tx:
            if tx.get(KIND, image_id, Image) is None:
                stack = self._layers.stack(tx, parsed.diff_ids)
                tx.put(KIND, image_id, Image(image_id, parsed.created_ns, parsed.platform, parsed.config, stack))
                for index, layer in enumerate(stack):
                    tx.link(layers.USED_BY, f"{image_id}/{index}", layer.chain_id, source=image_id)
            for digest in (image_id, manifest_digest):
                if tx.lookup(CONTENT, f"{image_id}/{digest}") is None:
                    tx.link(CONTENT, f"{image_id}/{digest}", digest, source=image_id)
            for digest in digests:
                _move(tx, DIGEST, digest, image_id)
            for tag in tags:
                if _move(tx, TAG, tag, image_id):
                    tx.event("image", "tag", image_id, tag)
            tx.event("image", action, image_id, tags[0] if tags else digests[0] if digests else image_id)
        return self._by_id(image_id)

    def tag(self, image_id: str, tag: str) -> Image:
        """Give an image (full ID) one more tag; another image that held it loses it. Raises NotFound."""
        with self._db.transaction(durable=True) as tx:
            if tx.get(KIND, image_id, Image) is None:
                raise NotFound(f"image {image_id} is not here", reason="IMAGE_NOT_FOUND", image=image_id)
            if _move(tx, TAG, tag, image_id):
                tx.event("image", "tag", image_id, tag)
        return self._by_id(image_id)

    def is_id(self, text: str) -> bool:
        """Whether `text` means an image by ID: a whole one, or the beginning of one that is not also the short form of a tag."""
        if not _ID.fullmatch(text):
            return False
        digits = text.removeprefix("sha256:")
        if text != digits or len(digits) == 64:
            return True
        named = any(tag.endswith(f"/{text}:latest") for tag in self._db.edges(TAG))
        return not named and bool(self._db.find(KIND, f"sha256:{digits}"))

    def get(self, name: str) -> Image:
        """An image by canonical tag or digest reference, ID, or unique beginning of an ID.

        Raises NotFound, and InvalidArgument listing the candidates when several IDs begin so.
        """
        return self._by_id(self._resolve(name))

    def list(self) -> tuple[Image, ...]:
        """Every image, with its names."""
        return tuple(self._named(image) for image in self._db.all(KIND, Image))

    def _resolve(self, name: str) -> str:
        found = self._db.lookup(TAG, name) or self._db.lookup(DIGEST, name)
        if found is None and _ID.fullmatch(name):
            candidates = self._db.find(KIND, f"sha256:{name.removeprefix('sha256:')}")
            if len(candidates) > 1:
                listed = ", ".join(short_id(id) for id in candidates[:10])
                raise InvalidArgument(f"image ID {name} is ambiguous: {listed}", reason="AMBIGUOUS")
            found = candidates[0] if candidates else None
        if found is None:
            raise NotFound(f"image {name} is not here", reason="IMAGE_NOT_FOUND", image=name)
        return found

    def _by_id(self, image_id: str) -> Image:
        image = self._db.get(KIND, image_id, Image)
        if image is None:
            raise NotFound(f"image {image_id} is not here", reason="IMAGE_NOT_FOUND", image=image_id)
        return self._named(image)

    def _named(self, image: Image) -> Image:
        return replace(
            image, tags=tuple(self._db.names(TAG, image.id)), digests=tuple(self._db.names(DIGEST, image.id))
        )

    def remove(self, name: str, in_use: Callable[[str], Sequence[str]], forget: bool = False) -> Removed:
        """Take a name away, and with the last tag the image; by ID, take all names and the image.

        `in_use` answers the containers made from an image ID. Raises NotFound; FailedPrecondition, with nothing changed, when the image
        would go and a container holds it. With `forget` all names go in any case, and an image that a container holds stays without
        one, for `drop_nameless`.
        """
        image = self.get(name)
        untagged = self._names_to_go(image, image.id if forget else name)
        last = set(untagged) >= set(image.tags)
        if last:
            untagged = [*image.tags, *image.digests]
        if last and forget and in_use(image.id):
            last = False
        elif last:
            self._refuse_in_use(image, in_use)
        blobs = [blob for edge, blob in self._db.edges(CONTENT).items() if edge.startswith(f"{image.id}/")]
        with self._db.transaction(durable=True) as tx:
            if (*tx.names(TAG, image.id), *tx.names(DIGEST, image.id)) != (*image.tags, *image.digests):
                raise FailedPrecondition(f"the names of image {short_id(image.id)} have just changed", hint="try again")
            for each in untagged:
                tx.unlink(TAG if each in image.tags else DIGEST, each)
                tx.event("image", "untag", image.id, each)
            if last:
                tx.delete(KIND, image.id)
                tx.event("image", "delete", image.id, name)
        if not last:
            return Removed(tuple(untagged), (), 0)
        return Removed(tuple(untagged), (image.id,), self._sweep(image, blobs))

    def drop_nameless(self, image_id: str, in_use: Callable[[str], Sequence[str]]) -> None:
        """Delete an image that has neither name nor container any more; any other, or none, is fine."""
        image = self._db.get(KIND, image_id, Image)
        if image is None or self._named(image).tags or self._named(image).digests or in_use(image_id):
            return
        try:
            self.remove(image_id, in_use)
        except (NotFound, FailedPrecondition) as error:
            log.info("image %s is left to others: %s", image_id, error.message)

    def _names_to_go(self, image: Image, name: str) -> Sequence[str]:
        """With a tag go the digests of its repository, if it has no other tag there."""
        if name in image.digests:
            return [name]
        if name not in image.tags:
            return [*image.tags, *image.digests]
        repository = name.rpartition(":")[0]
        if any(tag != name and tag.rpartition(":")[0] == repository for tag in image.tags):
            return [name]
        return [name, *(digest for digest in image.digests if digest.partition("@")[0] == repository)]

    def _refuse_in_use(self, image: Image, in_use: Callable[[str], Sequence[str]]) -> None:
        holders = list(in_use(image.id))
        if holders:
            raise FailedPrecondition(
                f"cannot remove image {short_id(image.id)}: container {', '.join(holders[:5])} is made from it",
                reason="IMAGE_IN_USE",
                hint="remove the container first",
                image=image.id,
            )

    def _sweep(self, image: Image, blobs: Iterable[str]) -> int:
        """Delete what only a deleted image reached, unless a pull may be about to use it."""
        with self._lock:
            if self._leases:
                return 0
            gone = self._layers.remove(reversed(image.layers))
            reached = self._reached_content()
            return gone.size + sum(self.content.delete(blob) for blob in (*blobs, *gone.blobs) if blob not in reached)

    def _reached_content(self) -> set[str]:
        return set(self._db.edges(CONTENT).values()) | self._layers.blob_digests()

    def collect(self, containers: set[str]) -> Collected:
        """Delete what nothing reaches. For a start, before any pull or container: `containers` are the IDs there should be.

        What an interrupted pull downloaded stays for a week. An image with a layer that is not on the disk any more goes too, so
        that it can be pulled again.
        """
        unfinished = self.driver.collect()
        self._drop_broken()
        loose = self.driver.containers() - containers
        for container_id in loose:
            self.driver.remove(container_id)
        gone = self._layers.remove(self._layers.unreached())
        unknown = self._layers.remove_unknown()
        before = days_ago_ns(KEEP_DAYS)
        blobs = self.content.digests() - self._reached_content()
        old = [blob for blob in blobs if blob in gone.blobs or self.content.modified_ns(blob) < before]
        size = gone.size + sum(self.content.delete(blob) for blob in old)
        size += self.content.drop_ingests(before) + self.content.drop_drafts()
        return Collected(len(gone.chain_ids) + unknown, len(loose), len(old), unfinished, size)

    def _drop_broken(self) -> None:
        present = self.driver.layers()
        for image in self.list():
            lost = [layer.chain_id for layer in image.layers if layer.chain_id not in present]
            if not lost:
                continue
            log.error("image %s is lost: its layer %s is not on the disk", image.id, lost[0])
            with self._db.transaction(durable=True) as tx:
                for edge, names in ((TAG, image.tags), (DIGEST, image.digests)):
                    for name in names:
                        tx.unlink(edge, name)
                tx.delete(KIND, image.id)
                tx.event("image", "lost", image.id, image.tags[0] if image.tags else image.id, layer=lost[0])

    def create_rootfs(self, container_id: str, image_id: str) -> None:
        """Make a container's writable layer on top of an image."""
        image = self._by_id(image_id)
        self.driver.create(container_id, image.layers[-1].chain_id if image.layers else "")

    def rootfs(self, container_id: str) -> tuple[RootfsMount, ...]:
        """The mounts that make a container's root file system."""
        return self.driver.rootfs(container_id)

    def view(self, image_id: str) -> tuple[RootfsMount, ...]:
        """The mounts that show an image's files, to be made read-only."""
        image = self._by_id(image_id)
        return self.driver.view(image.layers[-1].chain_id if image.layers else "")

    def remove_rootfs(self, container_id: str) -> None:
        """Delete a container's writable layer; missing is fine."""
        self.driver.remove(container_id)

    def rootfs_usage(self, container_id: str) -> DiskUsage:
        """What a container's writable layer takes."""
        return self.driver.usage(container_id)

    def close(self) -> None:
        """Wait until what was removed is off the disk."""
        self.driver.close()


def _move(tx: Transaction, edge: str, name: str, image_id: str) -> bool:
    """Have a name lead to an image; answer whether it did not before."""
    if tx.lookup(edge, name) == image_id:
        return False
    tx.unlink(edge, name)
    tx.link(edge, name, image_id)
    return True
