"""What of the image store may go: an image with its last name, and what nothing reaches any more.

An edge `forgotten <image ID>` marks an image whose names were taken away while containers hold it: it goes with the last of those. While
a lease is held, nothing that was reached a moment ago is deleted: it waits for the last lease's end.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from moorage.server.errors import FailedPrecondition, NotFound
from moorage.server.graph.content import ContentStore, days_ago_ns
from moorage.server.graph.drivers.base import GraphDriver
from moorage.server.graph.graphdb import GraphDB, short_id
from moorage.server.graph.layers import Layers
from moorage.server.graph.names import CONTENT, DIGEST, FORGOTTEN, KEPT, KIND, TAG, all_images, held_content, with_names
from moorage.server.model import Image, Layer

KEEP_DAYS = 7.0
"""How long what an interrupted pull left is kept for the next one."""

Users = Callable[[str], Sequence[str]]
"""Answers the containers made from an image (full ID)."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Removed:
    """What went: names, IDs of images and chain IDs of layers, bytes freed."""

    untagged: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()
    reclaimed: int = 0

    def __add__(self, other: Removed) -> Removed:
        return Removed(self.untagged + other.untagged, self.deleted + other.deleted, self.reclaimed + other.reclaimed)


@dataclass(frozen=True)
class Collected:
    """What `Garbage.collect` found that nothing reached: layers, root file systems, blobs and half-done things, and the bytes of blobs
    and layers freed. `lost` are IDs of images given up, as a layer of theirs was not on the disk."""

    layers: int
    rootfs: int
    blobs: int
    unfinished: int
    reclaimed: int
    lost: tuple[str, ...] = ()


class Garbage:
    """Removal and collection over one store. Thread-safe."""

    def __init__(self, db: GraphDB, content: ContentStore, driver: GraphDriver, layers: Layers) -> None:
        self._db = db
        self._content = content
        self._driver = driver
        self._layers = layers
        self._lock = threading.Lock()
        self._leases = 0
        self._waiting_layers: list[Layer] = []
        self._waiting_blobs: list[str] = []

    @contextmanager
    def lease(self) -> Iterator[None]:
        """While an operation runs: layers and blobs that no image reaches yet, or any more, stay."""
        with self._lock:
            self._leases += 1
        try:
            yield
        finally:
            with self._lock:
                self._leases -= 1
                if not self._leases and (self._waiting_layers or self._waiting_blobs):
                    layers, self._waiting_layers = self._waiting_layers, []
                    blobs, self._waiting_blobs = self._waiting_blobs, []
                    self._delete(layers, blobs)

    def remove(self, image: Image, name: str, in_use: Users, *, forget: bool, force: bool) -> Removed:
        """See `Graph.remove`."""
        untagged = _names_to_go(image, image.id if forget else name)
        last = set(untagged) >= set(image.tags)
        if last:
            untagged = [*image.tags, *image.digests]
        holders = list(in_use(image.id)) if last else []
        if holders and not (forget or force):
            raise _in_use(image, holders)
        blobs = held_content(self._db, image.id)
        with self._db.transaction(durable=True) as tx:
            if (*tx.names(TAG, image.id), *tx.names(DIGEST, image.id)) != (*image.tags, *image.digests):
                raise FailedPrecondition(f"the names of image {short_id(image.id)} have just changed", hint="try again")
            for each in untagged:
                tx.unlink(TAG if each in image.tags else DIGEST, each)
                tx.event("image", "untag", image.id, each)
            if holders and tx.lookup(FORGOTTEN, image.id) is None:
                tx.link(FORGOTTEN, image.id, image.id, source=image.id)
            elif last and not holders:
                tx.unlink(FORGOTTEN, image.id)
                tx.delete(KIND, image.id)
                tx.event("image", "delete", image.id, name)
        if not last or holders:
            return Removed(tuple(untagged))
        swept = self._sweep(list(reversed(image.layers)), blobs)
        return Removed(tuple(untagged), (image.id, *swept.deleted), swept.reclaimed)

    def drop_nameless(self, image_id: str, in_use: Users) -> None:
        """Delete an image that was forgotten and has no container any more; any other, or none, is fine."""
        image = self._db.get(KIND, image_id, Image)
        if image is None or self._db.lookup(FORGOTTEN, image_id) is None or in_use(image_id):
            return
        named = with_names(self._db, image)
        if named.tags or named.digests:
            return
        try:
            self.remove(named, image_id, in_use, forget=False, force=False)
        except (NotFound, FailedPrecondition) as error:
            log.info("image %s is left to others: %s", image_id, error.message)

    def prune(self, in_use: Users, unwanted: Callable[[Image], bool]) -> Removed:
        """Delete the images that are `unwanted` and that no container holds, then all that nothing reaches: what interrupted pulls left
        goes too, unless something runs that may want it."""
        removed = Removed()
        for image in all_images(self._db):
            if unwanted(image) and not in_use(image.id):
                try:
                    removed += self.remove(image, image.id, in_use, forget=False, force=False)
                except (NotFound, FailedPrecondition) as error:
                    log.info("image %s is left to others: %s", image.id, error.message)
        with self._lock:
            if not self._leases:
                loose = self._content.digests() - self._reached()
                removed += self._delete(self._layers.unreached(), sorted(loose))
                removed += Removed(reclaimed=self._content.drop_ingests(days_ago_ns(0)))
        return removed

    def discard(self, digests: Sequence[str], chain_ids: Sequence[str] = ()) -> None:
        """See `Graph.discard`."""
        found = (self._layers.get(chain_id) for chain_id in chain_ids)
        with self._lock:
            self._delete([layer for layer in found if layer is not None], digests)

    def collect(self, containers: set[str]) -> Collected:
        """See `Graph.collect`."""
        unfinished = self._driver.collect()
        lost = self._drop_lost()
        loose = self._driver.containers() - containers
        for container_id in loose:
            self._driver.remove(container_id)
        gone = self._layers.remove(self._layers.unreached())
        unknown = self._layers.remove_unknown()
        before = days_ago_ns(KEEP_DAYS)
        blobs = self._content.digests() - self._reached()
        old = [blob for blob in blobs if blob in gone.blobs or self._content.modified_ns(blob) < before]
        size = gone.size + sum(self._content.delete(blob) for blob in old)
        size += self._content.drop_ingests(before) + self._content.drop_drafts()
        return Collected(len(gone.chain_ids) + unknown, len(loose), len(old), unfinished, size, lost)

    def unreached(self) -> tuple[list[Layer], set[str]]:
        """The layers, and the blobs' digests, that no image leads to."""
        return self._layers.unreached(), self._content.digests() - self._reached()

    def _sweep(self, layers: list[Layer], blobs: Sequence[str]) -> Removed:
        """Delete what only a deleted image reached, now or when the last lease ends."""
        with self._lock:
            if self._leases:
                self._waiting_layers += layers
                self._waiting_blobs += blobs
                return Removed()
            return self._delete(layers, blobs)

    def _delete(self, layers: Sequence[Layer], blobs: Sequence[str]) -> Removed:
        gone = self._layers.remove(layers)
        reached = self._reached()
        freed = sum(self._content.delete(blob) for blob in {*blobs, *gone.blobs} if blob not in reached)
        return Removed((), gone.chain_ids, gone.size + freed)

    def _reached(self) -> set[str]:
        held = {digest for edge in (CONTENT, KEPT) for digest in self._db.edges(edge).values()}
        return held | self._layers.blob_digests()

    def _drop_lost(self) -> tuple[str, ...]:
        present = self._driver.layers()
        given_up = []
        for image in all_images(self._db):
            lost = [layer.chain_id for layer in image.layers if layer.chain_id not in present]
            if not lost:
                continue
            log.error("image %s is lost: its layer %s is not on the disk", image.id, lost[0])
            given_up.append(image.id)
            with self._db.transaction(durable=True) as tx:
                for edge, names in ((TAG, image.tags), (DIGEST, image.digests), (FORGOTTEN, (image.id,))):
                    for name in names:
                        tx.unlink(edge, name)
                tx.delete(KIND, image.id)
                tx.event("image", "lost", image.id, image.tags[0] if image.tags else image.id, layer=lost[0])
        return tuple(given_up)


def _names_to_go(image: Image, name: str) -> list[str]:
    """With a tag go the digests of its repository, if it has no other tag there."""
    if name in image.digests:
        return [name]
    repositories = {tag: tag.rpartition(":")[0] for tag in image.tags}
    if name not in repositories:
        return [*image.tags, *image.digests]
    repository = repositories.pop(name)
    if repository in repositories.values():
        return [name]
    return [name, *(digest for digest in image.digests if digest.partition("@")[0] == repository)]


def _in_use(image: Image, holders: Sequence[str]) -> FailedPrecondition:
    shown = ", ".join(holders[:10]) + (f" and {len(holders) - 10} more" if len(holders) > 10 else "")
    subject = f"containers {shown} are" if len(holders) > 1 else f"container {shown} is"
    return FailedPrecondition(
        f"cannot remove image {short_id(image.id)}: {subject} made from it",
        reason="IMAGE_IN_USE",
        hint="remove them first, or force it: then the names go, and the image with its last container",
        image=image.id,
        containers=",".join(holders),
    )
