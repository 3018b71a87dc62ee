"""The image store: images with their names, the layers they are made of, and the root file systems that containers get from them.

    edges: tag     docker.io/library/busybox:latest           -> image
           digest  docker.io/library/busybox@sha256:…         -> image
           image layer  <image ID>/<index>      image         -> layer
           layer parent <chain ID>              layer         -> layer
           image content <image ID>/<digest>    image         -> config, manifest or index in the content store
           image kept    <image ID>/<digest>    image         -> what its index lists for other platforms
           layer blob    <chain ID>/<digest>    layer         -> blob of the content store

           forgotten <image ID>                 image         -> image (see garbage.py)

Names are canonical strings, given by the caller. What no name and no container leads to is garbage.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import BinaryIO

from moorage.server.cancel import CancelToken
from moorage.server.errors import DataLoss, InvalidArgument, NotFound
from moorage.server.graph import documents, imageconfig, layers, syncing
from moorage.server.graph.compression import Compression
from moorage.server.graph.content import ContentStore, check_digest
from moorage.server.graph.drivers.base import UNLIMITED, GraphDriver, RootfsMount, Sink, WritableLayer
from moorage.server.graph.fsck import Check
from moorage.server.graph.garbage import Collected, Garbage, Removed
from moorage.server.graph.graphdb import GraphDB, Transaction, short_id
from moorage.server.graph.layers import Layers
from moorage.server.graph.names import CONTENT, DIGEST, FORGOTTEN, KEPT, KIND, TAG, all_images, held_content, with_names
from moorage.server.graph.packing import MadeLayer, apply_blob, pack_changes, pack_layer
from moorage.server.graph.usage import Usage, measure
from moorage.server.model import DiskUsage, Image, Layer, LayerBlob

_ID = re.compile(r"(sha256:)?[0-9a-f]{1,64}", re.ASCII)


class Graph:
    """Thread-safe. Work on one container's root file system is serialised by the caller."""

    def __init__(self, root: Path, db: GraphDB, content: ContentStore, driver: GraphDriver) -> None:
        self.content = content
        self.driver = driver
        self._root = root
        self._db = db
        self._layers = Layers(db, driver)
        self._garbage = Garbage(db, content, driver, self._layers)

    def lease(self) -> AbstractContextManager[None]:
        """While an operation runs: layers and blobs that no image reaches yet, or any more, stay."""
        return self._garbage.lease()

    def has_layer(self, chain_id: str) -> bool:
        return self._layers.has(chain_id)

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
        made = pack_changes(
            self.driver,
            self.content,
            self._layers,
            container_id,
            cancel,
            compression=compression,
            move=move,
            clamp_seconds=clamp_seconds,
            onto=None,
            keep_empty=True,
            still=still or nullcontext(),
        )
        assert made is not None
        return made

    def commit_changes(
        self, container_id: str, cancel: CancelToken, *, clamp_seconds: int | None = None, onto: str | None = None
    ) -> MadeLayer | None:
        """The same of a container that is of no more use then; None, and no layer, when it has changed nothing.

        With `onto` the layer is on top of that chain instead, and unpacked there.
        """
        return pack_changes(
            self.driver,
            self.content,
            self._layers,
            container_id,
            cancel,
            compression="gzip",
            move=True,
            clamp_seconds=clamp_seconds,
            onto=onto,
            keep_empty=False,
            still=nullcontext(),
        )

    def apply_blob(self, blob: LayerBlob, parent: str, cancel: CancelToken) -> Layer:
        """Have a blob of the content store be a layer on top of the chain `parent` too. Raises NotFound when it is not here."""
        return apply_blob(self.content, self._layers, blob, parent, cancel)

    def sync(self) -> None:
        """Have all of the store on the disk."""
        syncing.sync_file_system(self._root)

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

    def keep_blob(self, chain_id: str, blob: LayerBlob) -> None:
        """Have a blob of the content store stay as long as a layer does."""
        self._layers.keep_blob(chain_id, blob)

    def discard(self, digests: Sequence[str], chain_ids: Sequence[str] = ()) -> None:
        """Delete blobs and layers (from the top down), but for those that an image or a layer holds: what a failed operation made."""
        self._garbage.discard(digests, chain_ids)

    def add_document(self, data: bytes) -> str:
        """Put a config or manifest into the content store; answers its digest."""
        with self.content.draft() as draft:
            draft.write(data)
            return draft.commit()

    def document(self, image_id: str) -> bytes:
        """An image's config as it is. Raises NotFound, DataLoss."""
        return self.content.read(image_id, documents.MAX_DOCUMENT)

    def manifests(self, image: Image) -> list[bytes]:
        """The manifests that an image came or was made with, as they are: those first whose layers' blobs are all kept here, then the
        indexes that it was chosen from."""
        digests = [digest for digest in self._db.targets(CONTENT, image.id) if digest != image.id]
        found = [data for digest in digests if (data := self._whole(digest)) is not None]
        return sorted(found, key=lambda manifest: not self._has_all(manifest, image))

    def _whole(self, digest: str) -> bytes | None:
        """A document, None for one that is damaged or not here: `fsck` tells of it."""
        try:
            return self.content.read(digest, documents.MAX_DOCUMENT)
        except (DataLoss, NotFound):
            return None

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
        indexes: Sequence[str] = (),
        kept: Sequence[str] = (),
        action: str = "pull",
    ) -> Image:
        """Make an image of layers that are all applied, and give it its names; a tag held by another image moves.

        Config and manifest are in the content store already, and so are `indexes`, those it was chosen from, and `kept`, what they list for
        other platforms. `action` is the event's.

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
            for edge, held in ((CONTENT, (image_id, manifest_digest, *indexes)), (KEPT, kept)):
                for digest in held:
                    if tx.lookup(edge, f"{image_id}/{digest}") is None:
                        tx.link(edge, f"{image_id}/{digest}", digest, source=image_id)
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
        return all_images(self._db)

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
        return with_names(self._db, image)

    def remove(
        self, name: str, in_use: Callable[[str], Sequence[str]], forget: bool = False, force: bool = False
    ) -> Removed:
        """Take a name away, and with the last tag the image; by ID, take all names and the image.

        `in_use` answers the containers made from an image ID. Raises NotFound; FailedPrecondition, with nothing changed, when the image
        would go and a container holds it. With `force` it loses its names then and stays until its last container goes
        (`drop_nameless`); `forget` is the same, and takes all names whichever was given.
        """
        return self._garbage.remove(self.get(name), name, in_use, forget=forget, force=force)

    def usage(self, running: Mapping[str, bool]) -> Usage:
        """What the store takes on the disk; `running` says of every container whether it runs."""
        layers, blobs = self._garbage.unreached()
        return measure(
            self._root,
            self.driver.footprint(),
            self._root / self.driver.name,
            self.content,
            unreached=([layer.chain_id for layer in layers], blobs),
            running=running,
        )

    def held_by(self, image: Image) -> set[str]:
        """Chain IDs of the layers, and digests of the blobs, that an image leads to."""
        chain_ids = [layer.chain_id for layer in image.layers]
        blobs = (blob.digest for chain_id in chain_ids for blob in self._layers.blobs(chain_id))
        return {*chain_ids, *blobs, *held_content(self._db, image.id)}

    def check(self, cancel: CancelToken) -> Check:
        """A check of everything here."""
        return Check(self._db, self.content, self.driver, cancel)

    def unreached(self) -> tuple[Sequence[Layer], set[str]]:
        """The layers, and the blobs' digests, that no image leads to."""
        return self._garbage.unreached()

    def layers_of_blob(self, digest: str) -> Sequence[tuple[str, str]]:
        """Chain IDs and diff IDs of the layers that hold a blob."""
        return self._layers.of_blob(digest)

    def replace_blob(self, chain_id: str, digest: str, blob: LayerBlob) -> None:
        """Have a layer hold `blob` instead of the blob `digest`, which is no good."""
        self._layers.keep_blob(chain_id, blob)
        if blob.digest != digest:
            self.drop_blob(chain_id, digest)

    def drop_blob(self, chain_id: str, digest: str) -> None:
        """Have a layer hold a blob no more."""
        self._layers.drop_blob(chain_id, digest)
        self.discard([digest])

    def give_up_layer(self, chain_id: str) -> None:
        """A layer's files are lost: it counts as missing from now on, until it is applied again."""
        self._layers.give_up(chain_id)

    def viz(self) -> str:
        """The GraphDB in the dot language."""
        return self._db.viz()

    def drop_nameless(self, image_id: str, in_use: Callable[[str], Sequence[str]]) -> None:
        """Delete an image that was forgotten and has no container any more; any other, or none, is fine."""
        self._garbage.drop_nameless(image_id, in_use)

    def prune(self, in_use: Callable[[str], Sequence[str]], unwanted: Callable[[Image], bool]) -> Removed:
        """Delete the images that are `unwanted` and that no container holds, and all that nothing reaches."""
        return self._garbage.prune(in_use, unwanted)

    def collect(self, containers: set[str]) -> Collected:
        """Delete what nothing reaches. For a start, before any pull or container: `containers` are the IDs there should be.

        What an interrupted pull downloaded stays for a week. An image with a layer that is not on the disk any more goes too, so
        that it can be pulled again.
        """
        return self._garbage.collect(containers)

    def create_rootfs(self, container_id: str, image_id: str, layer: WritableLayer = UNLIMITED) -> None:
        """Make a container's writable layer on top of an image. Raises FailedPrecondition for a size that cannot be held."""
        image = self._by_id(image_id)
        self.driver.create(container_id, image.layers[-1].chain_id if image.layers else "", layer)

    def rootfs(self, container_id: str) -> tuple[RootfsMount, ...]:
        """The mounts that make a container's root file system."""
        return self.driver.rootfs(container_id)

    def view(self, image_id: str) -> tuple[RootfsMount, ...]:
        """The mounts that show the files of an image, or of a chain of layers, to be made read-only."""
        if self.has_layer(image_id):
            return self.driver.view(image_id)
        image = self._by_id(image_id)
        return self.driver.view(image.layers[-1].chain_id if image.layers else "")

    def export_rootfs(self, container_id: str, sink: Sink, cancel: CancelToken) -> None:
        """A container's root file system as an uncompressed tar stream."""
        self.driver.export(container_id, sink, cancel)

    def remove_rootfs(self, container_id: str) -> None:
        """Delete a container's writable layer; missing is fine."""
        self.driver.remove(container_id)

    def rootfs_usages(self, container_ids: Sequence[str]) -> dict[str, DiskUsage]:
        """What containers' writable layers take, by ID; those that are gone are left out."""
        return self.driver.usages(container_ids)

    def close(self) -> None:
        """Wait until what was removed is off the disk."""
        self.driver.close()


def _move(tx: Transaction, edge: str, name: str, image_id: str) -> bool:
    """Have a name lead to an image; answer whether it did not before."""
    if tx.lookup(edge, name) == image_id:
        return False
    tx.unlink(edge, name)
    tx.link(edge, name, image_id)
    tx.unlink(FORGOTTEN, image_id)
    return True
