"""A graph and content store in memory, with the interfaces that a pull uses: what it was given, and what it kept."""

from __future__ import annotations

import hashlib
import io
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import BinaryIO

from moorage.server.cancel import CancelToken
from moorage.server.errors import DataLoss
from moorage.server.model import Image, ImageConfig, Layer, LayerBlob, Platform


class MemoryWriter:
    def __init__(self, content: MemoryContent, digest: str, size: int) -> None:
        self._content, self._digest, self._size = content, digest, size
        self._data = content.ingests.setdefault(digest, bytearray())

    @property
    def offset(self) -> int:
        return len(self._data)

    def write(self, data: bytes) -> None:
        self._data += data

    def commit(self) -> None:
        data = bytes(self._content.ingests.pop(self._digest))
        algorithm = self._digest.partition(":")[0]
        actual = f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"
        if actual != self._digest or len(data) != self._size:
            raise DataLoss(f"blob {self._digest} has the digest {actual} and {len(data)} of {self._size} bytes")
        self._content.blobs[self._digest] = data

    def abort(self) -> None:
        self._content.ingests.pop(self._digest, None)


class MemoryContent:
    """`ingests` holds what was begun, `blobs` what has a name."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.ingests: dict[str, bytearray] = {}
        self.writing: set[str] = set()

    @contextmanager
    def writer(self, digest: str, expected_size: int, *, durable: bool = True) -> Iterator[MemoryWriter]:
        assert digest not in self.writing
        self.writing.add(digest)
        try:
            yield MemoryWriter(self, digest, expected_size)
        finally:
            self.writing.remove(digest)

    def open(self, digest: str) -> BinaryIO:
        return io.BytesIO(self.blobs[digest])

    def exists(self, digest: str) -> bool:
        return digest in self.blobs

    def delete(self, digest: str) -> None:
        self.blobs.pop(digest, None)
        self.ingests.pop(digest, None)


class MemoryDriver:
    def __init__(self, independent_layers: bool) -> None:
        self.independent_layers = independent_layers


class MemoryGraph:
    """`layers` and `tars` by chain ID; `applied` in the order of their beginning."""

    def __init__(self, *, independent_layers: bool = True) -> None:
        self.content = MemoryContent()
        self.driver = MemoryDriver(independent_layers)
        self.layers: dict[str, Layer] = {}
        self.tars: dict[str, bytes] = {}
        self.applied: list[str] = []
        self.images: list[Image] = []
        self.leases = 0
        self.packable: dict[str, LayerBlob] = {}
        """What `pack_layer` makes of a layer, by chain ID; its bytes are in the content already."""
        self.kept: dict[str, str] = {}
        self.indexes: dict[str, tuple[str, ...]] = {}
        self._lock = threading.Lock()

    @contextmanager
    def lease(self) -> Iterator[None]:
        self.leases += 1
        try:
            yield
        finally:
            self.leases -= 1

    def has_layer(self, chain_id: str) -> bool:
        return chain_id in self.layers

    def apply_layer(self, chain_id: str, diff_id: str, parent: str, tar: BinaryIO, cancel: CancelToken) -> Layer:
        assert self.leases
        with self._lock:
            self.applied.append(chain_id)
        assert self.driver.independent_layers or not parent or parent in self.layers
        parts = []
        while part := tar.read(1 << 16):
            cancel.check()
            parts.append(part)
        data = b"".join(parts)
        if "sha256:" + hashlib.sha256(data).hexdigest() != diff_id:
            raise DataLoss(f"layer {chain_id} has the wrong diff ID")
        self.layers[chain_id] = Layer(chain_id, diff_id, parent, len(data))
        self.tars[chain_id] = data
        return self.layers[chain_id]

    def register(
        self,
        *,
        config: bytes,
        manifest_digest: str,
        tags: tuple[str, ...],
        digests: tuple[str, ...],
        indexes: tuple[str, ...] = (),
    ) -> Image:
        document = json.loads(config)
        layers, parent = [], ""
        for diff_id in document["rootfs"]["diff_ids"]:
            joined = "sha256:" + hashlib.sha256(f"{parent} {diff_id}".encode()).hexdigest() if parent else diff_id
            layers.append(self.layers[joined])
            parent = joined
        platform = Platform(document["os"], document["architecture"], document.get("variant", ""))
        digest = "sha256:" + hashlib.sha256(config).hexdigest()
        self.indexes[digest] = indexes
        self.images.append(Image(digest, 0, platform, ImageConfig(), tuple(layers), tags, digests))
        return self.images[-1]

    def document(self, image_id: str) -> bytes:
        return self.content.blobs[image_id]

    def manifests(self, image: Image) -> list[bytes]:
        config = f'"digest":"{image.id}"'.encode()
        found = [blob for blob in self.content.blobs.values() if config in blob and b'"layers"' in blob]
        return [*found, *(self.content.blobs[digest] for digest in self.indexes.get(image.id, ()))]

    def pack_layer(self, chain_id: str, cancel: CancelToken) -> LayerBlob:
        return self.packable[chain_id]

    def layer_blobs(self, chain_id: str) -> list[LayerBlob]:
        return []

    def add_digest(self, image_id: str, name: str) -> None:
        at = next(at for at, image in enumerate(self.images) if image.id == image_id)
        self.images[at] = replace(self.images[at], digests=(*self.images[at].digests, name))

    def keep_blob(self, chain_id: str, blob: LayerBlob) -> None:
        self.kept[blob.digest] = chain_id

    def discard(self, digests: Sequence[str]) -> None:
        for digest in digests:
            if digest not in self.kept:
                self.content.delete(digest)

    def list(self) -> tuple[Image, ...]:
        return tuple(self.images)
