"""Checks the image store: every blob against its digest, every node and edge of the GraphDB against what is on the disk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from moorage.server.cancel import CancelToken
from moorage.server.errors import MoorageError, NotFound
from moorage.server.graph import imageconfig
from moorage.server.graph.content import CHUNK, ContentStore
from moorage.server.graph.documents import MAX_DOCUMENT
from moorage.server.graph.drivers.base import GraphDriver
from moorage.server.graph.graphdb import GraphDB
from moorage.server.graph.layers import BLOB, USED_BY, chain_ids
from moorage.server.graph.layers import KIND as LAYER
from moorage.server.graph.names import CONTENT, DIGEST, KEPT, KIND, TAG, all_images
from moorage.server.model import Image, Layer

Problem = Literal[
    "damaged blob", "missing blob", "lost layer", "damaged layer", "broken image", "dangling name", "garbage"
]


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be: what, the digest, ID or name it is about, why, and the images (IDs) that suffer.

    "garbage" harms nobody: it is space that nothing reaches.
    """

    problem: Problem
    id: str
    detail: str
    images: tuple[str, ...] = ()


@dataclass
class Checked:
    """How much was looked at; of the layers, how many file by file."""

    blobs: int = 0
    layers: int = 0
    images: int = 0
    bytes: int = 0
    compared: int = 0


class Check:
    """One check of one store."""

    def __init__(self, db: GraphDB, content: ContentStore, driver: GraphDriver, cancel: CancelToken) -> None:
        self._db, self._content, self._driver, self._cancel = db, content, driver, cancel
        self.checked = Checked()

    def run(
        self, unreached: tuple[Iterable[Layer], Iterable[str]], tell: Callable[[Checked], None]
    ) -> Iterator[Finding]:
        """Everything that is wrong. `unreached` are the layers and blobs that no image leads to; `tell` hears of the progress."""
        yield from self._blobs(tell)
        yield from self._missing()
        yield from self._layers()
        for image in all_images(self._db):
            self._cancel.check()
            self.checked.images += 1
            yield from self._image(image)
        yield from self._names()
        for layer in unreached[0]:
            yield Finding("garbage", layer.chain_id, f"layer of {layer.size} bytes that no image has")
        for digest in unreached[1]:
            yield Finding("garbage", digest, "blob that no image has")

    def _blobs(self, tell: Callable[[Checked], None]) -> Iterator[Finding]:
        for digest in sorted(self._content.digests()):
            try:
                actual = self._digest(digest)
            except NotFound:
                continue
            self.checked.blobs += 1
            tell(self.checked)
            if actual != digest:
                yield Finding("damaged blob", digest, f"its digest is {actual}", self._users(digest))

    def _digest(self, digest: str) -> str:
        found = hashlib.sha256()
        with self._content.open(digest) as file:
            while data := file.read(CHUNK):
                self._cancel.check()
                found.update(data)
                self.checked.bytes += len(data)
        return f"sha256:{found.hexdigest()}"

    def _missing(self) -> Iterator[Finding]:
        for edge, what in ((CONTENT, "a config or manifest"), (KEPT, "a part of its index"), (BLOB, "a layer's blob")):
            for digest in sorted(set(self._db.edges(edge).values())):
                if not self._content.exists(digest):
                    yield Finding("missing blob", digest, f"{what} is not in the content store", self._users(digest))

    def _users(self, digest: str) -> tuple[str, ...]:
        """The images that a blob belongs to, by itself or as a layer."""
        direct = {name.partition("/")[0] for edge in (CONTENT, KEPT) for name in self._db.names(edge, digest)}
        layers = {name.partition("/")[0] for name in self._db.names(BLOB, digest)}
        return tuple(sorted(direct | {image for layer in layers for image in self._images_with(layer)}))

    def _images_with(self, chain_id: str) -> set[str]:
        """The images that have a layer; the build cache, which may hold it too, is none."""
        return {name.partition("/")[0] for name in self._db.names(USED_BY, chain_id)} - {"build"}

    def _layers(self) -> Iterator[Finding]:
        present = self._driver.layers()
        layers = {layer.chain_id: layer for layer in self._db.all(LAYER, Layer)}
        self.checked.layers = len(layers)
        for chain_id, layer in layers.items():
            users = tuple(sorted(self._images_with(chain_id)))
            if chain_id not in present:
                yield Finding("lost layer", chain_id, "it is not on the disk", users)
            elif layer.parent and layer.parent not in layers:
                yield Finding("lost layer", chain_id, f"the layer below, {layer.parent}, is unknown", users)
        for chain_id in sorted(present - set(layers)):
            yield Finding("garbage", chain_id, "layer on the disk that the database does not know")

    def _image(self, image: Image) -> Iterator[Finding]:
        """Whether the config still says what the database does. One that is damaged or missing was told already."""
        try:
            config = self._content.read(image.id, MAX_DOCUMENT)
        except MoorageError:
            return
        expected = chain_ids(imageconfig.parse(config).diff_ids)
        if [layer.chain_id for layer in image.layers] != expected:
            yield Finding("broken image", image.id, "its layers are not those of its config", (image.id,))
        held = {name: target for name, target in self._db.edges(USED_BY).items() if name.startswith(f"{image.id}/")}
        if held != {f"{image.id}/{index}": chain_id for index, chain_id in enumerate(expected)}:
            yield Finding("broken image", image.id, "the database does not hold its layers for it", (image.id,))

    def _names(self) -> Iterator[Finding]:
        for edge in (TAG, DIGEST):
            for name, target in self._db.edges(edge).items():
                if self._db.get(KIND, target, Image) is None:
                    yield Finding("dangling name", name, f"it leads to {target}, which is not here")
