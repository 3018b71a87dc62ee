"""Layers: applied once however many pulls want them, verified while they stream, counted by the images that reach them."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from moorage.server.cancel import CancelToken
from moorage.server.errors import DataLoss, FailedPrecondition, Internal, InvalidArgument
from moorage.server.graph.content import check_digest
from moorage.server.graph.drivers.base import GraphDriver, Snapshot
from moorage.server.graph.graphdb import GraphDB, Transaction
from moorage.server.model import Layer, LayerBlob

KIND = "layer"
USED_BY = "image layer"
"""Edge `<image ID>/<index>` from an image to a layer."""
PARENT = "layer parent"
"""Edge `<chain ID>` from a layer to the one below."""
BLOB_KIND = "blob"
BLOB = "layer blob"
"""Edge `<chain ID>/<digest>` from a layer to a blob of the content store that it was unpacked from, or packed into."""


def chain_ids(diff_ids: Iterable[str]) -> list[str]:
    """The chain IDs of a stack of layers, from the base up (OCI image spec, config.md, "Layer ChainID")."""
    chain: list[str] = []
    for diff_id in diff_ids:
        chain.append(chain_id_on(chain[-1] if chain else "", diff_id))
    return chain


def chain_id_on(parent: str, diff_id: str) -> str:
    """The chain ID of a layer on top of the chain `parent`, empty at the base."""
    return f"sha256:{hashlib.sha256(f'{parent} {diff_id}'.encode()).hexdigest()}" if parent else diff_id


@dataclass(frozen=True)
class Gone:
    """Layers that were deleted: their bytes, chain IDs, and the blobs that only they held."""

    size: int
    chain_ids: tuple[str, ...]
    blobs: tuple[str, ...]


class VerifyingReader:
    """Hashes a tar stream as it is read; its end raises DataLoss when it is not the one promised, before anything is committed."""

    def __init__(self, tar: BinaryIO, diff_id: str) -> None:
        self._tar = tar
        self._diff_id = diff_id
        self._hash = hashlib.sha256()
        self.verified = False

    def read(self, size: int = -1) -> bytes:
        data = self._tar.read(size)
        self._hash.update(data)
        if not data:
            actual = f"sha256:{self._hash.hexdigest()}"
            if actual != self._diff_id:
                raise DataLoss(
                    f"layer is not what the image's config says: its diff ID is {actual}, not {self._diff_id}"
                )
            self.verified = True
        return data


class Layers:
    """The layers of the GraphDB and of the driver. Thread-safe."""

    def __init__(self, db: GraphDB, driver: GraphDriver) -> None:
        self._db = db
        self._driver = driver
        self._lock = threading.Lock()
        self._busy: dict[str, threading.Lock] = {}
        self._waiting: dict[str, int] = {}
        self._given_up: set[str] = set()

    def get(self, chain_id: str) -> Layer | None:
        return self._db.get(KIND, chain_id, Layer)

    def apply(self, chain_id: str, diff_id: str, parent: str, tar: BinaryIO, cancel: CancelToken) -> Layer:
        """See `Graph.apply_layer`."""
        check_digest(diff_id)
        if parent:
            check_digest(parent)
        if chain_id != chain_id_on(parent, diff_id):
            raise InvalidArgument(f"chain ID {chain_id} is not that of {diff_id} on top of {parent or 'nothing'}")
        with self._exclusive(chain_id, cancel):
            layer = self.get(chain_id)
            if layer is not None and chain_id not in self._given_up:
                return layer
            # What is on disk and unknown here is left from a crash, or being left by a removal.
            self._driver.remove_layer(chain_id)
            reader = VerifyingReader(tar, diff_id)
            size = self._driver.apply(chain_id, parent, reader, cancel)  # type: ignore[arg-type]
            if not reader.verified:
                self._driver.remove_layer(chain_id)
                raise Internal(f"graph driver {self._driver.name} did not read layer {diff_id} to its end")
            layer = Layer(chain_id, diff_id, parent, size)
            with self._db.transaction() as tx:
                self._put(tx, layer)
            self._given_up.discard(chain_id)
            return layer

    def adopt(self, snapshot: Snapshot, blob: LayerBlob, size: int) -> Layer:
        """Make what was packed from a container, `size` bytes of file content, a layer, and `blob` its blob."""
        chain_id = chain_id_on(snapshot.parent, blob.diff_id)
        with self._exclusive(chain_id, CancelToken()):
            layer = self.get(chain_id)
            if layer is None:
                # What is on disk and unknown here is left from a crash, or being left by a removal.
                self._driver.remove_layer(chain_id)
                snapshot.commit(chain_id)
                layer = Layer(chain_id, blob.diff_id, snapshot.parent, size)
            with self._db.transaction() as tx:
                self._put(tx, layer)
                _put_blob(tx, chain_id, blob)
            return layer

    def keep_blob(self, chain_id: str, blob: LayerBlob) -> None:
        """Have a blob of the content store stay as long as a layer does."""
        with self._db.transaction() as tx:
            if tx.get(KIND, chain_id, Layer) is not None:
                _put_blob(tx, chain_id, blob)

    def blobs(self, chain_id: str) -> list[LayerBlob]:
        """The blobs that a layer is known to have."""
        found = (self._db.get(BLOB_KIND, digest, LayerBlob) for digest in self._db.targets(BLOB, chain_id))
        return [blob for blob in found if blob is not None]

    def has(self, chain_id: str) -> bool:
        """Whether a layer is here, and not lost."""
        return self.get(chain_id) is not None and chain_id not in self._given_up

    def give_up(self, chain_id: str) -> None:
        """See `Graph.give_up_layer`."""
        self._given_up.add(chain_id)

    def drop_blob(self, chain_id: str, digest: str) -> None:
        """Have a layer hold a blob no more."""
        with self._db.transaction() as tx:
            tx.unlink(BLOB, f"{chain_id}/{digest}")
            if not tx.names(BLOB, digest):
                tx.delete(BLOB_KIND, digest)

    def of_blob(self, digest: str) -> list[tuple[str, str]]:
        """Chain IDs and diff IDs of the layers that hold a blob."""
        held = (self.get(name.partition("/")[0]) for name in self._db.names(BLOB, digest))
        return [(layer.chain_id, layer.diff_id) for layer in held if layer is not None]

    def blob_digests(self) -> set[str]:
        """Every blob that a layer holds."""
        return set(self._db.edges(BLOB).values())

    @staticmethod
    def _put(tx: Transaction, layer: Layer) -> None:
        tx.put(KIND, layer.chain_id, layer)
        if layer.parent and tx.lookup(PARENT, layer.chain_id) is None:
            tx.link(PARENT, layer.chain_id, layer.parent, source=layer.chain_id)

    def stack(self, tx: Transaction, diff_ids: Iterable[str]) -> tuple[Layer, ...]:
        """The layers of an image, from the base up. Raises FailedPrecondition when one is not applied."""
        found = []
        for chain_id in chain_ids(diff_ids):
            layer = tx.get(KIND, chain_id, Layer)
            if layer is None:
                raise FailedPrecondition(f"layer {chain_id} is not here")
            found.append(layer)
        return tuple(found)

    def unreached(self) -> list[Layer]:
        """The layers that belong to no image, those on top first."""
        layers = {layer.chain_id: layer for layer in self._db.all(KIND, Layer)}
        reached = set()
        for top in self._db.edges(USED_BY).values():
            while top and top not in reached:
                reached.add(top)
                top = layers[top].parent if top in layers else ""
        loose = [layer for layer in layers.values() if layer.chain_id not in reached]
        return sorted(loose, key=lambda layer: self._depth(layer, layers), reverse=True)

    def _depth(self, layer: Layer, layers: dict[str, Layer]) -> int:
        depth = 0
        while layer.parent in layers:
            layer, depth = layers[layer.parent], depth + 1
        return depth

    def remove(self, layers: Iterable[Layer]) -> Gone:
        """Delete those of `layers` (from the top down) that nothing leads to."""
        size, removed, blobs = 0, [], []
        for layer in layers:
            with self._exclusive(layer.chain_id, CancelToken()):
                loose = self._forget(layer)
                if loose is not None:
                    # The name goes first, so that what a crash leaves is found as unknown.
                    self._driver.remove_layer(layer.chain_id)
                    size += layer.size
                    removed.append(layer.chain_id)
                    blobs += loose
        return Gone(size, tuple(removed), tuple(blobs))

    def _forget(self, layer: Layer) -> list[str] | None:
        """Take a layer that nothing leads to out of the GraphDB; answers the blobs that only it held, None when it stays."""
        with self._db.transaction() as tx:
            if tx.get(KIND, layer.chain_id, Layer) is None:
                return None
            if tx.names(USED_BY, layer.chain_id) or tx.names(PARENT, layer.chain_id):
                return None
            loose = []
            for digest in tx.targets(BLOB, layer.chain_id):
                tx.unlink(BLOB, f"{layer.chain_id}/{digest}")
                if not tx.names(BLOB, digest):
                    tx.delete(BLOB_KIND, digest)
                    loose.append(digest)
            tx.delete(KIND, layer.chain_id)
        return loose

    def remove_unknown(self) -> int:
        """Delete what the driver has and the GraphDB does not know; answers how many. For a start."""
        unknown = [chain_id for chain_id in self._driver.layers() if self.get(chain_id) is None]
        for chain_id in unknown:
            self._driver.remove_layer(chain_id)
        return len(unknown)

    @contextmanager
    def _exclusive(self, chain_id: str, cancel: CancelToken) -> Iterator[None]:
        """One at a time for a chain ID; who waits can be cancelled."""
        with self._lock:
            lock = self._busy.setdefault(chain_id, threading.Lock())
            self._waiting[chain_id] = self._waiting.get(chain_id, 0) + 1
        try:
            while not lock.acquire(timeout=0.1):
                cancel.check()
            try:
                yield
            finally:
                lock.release()
        finally:
            with self._lock:
                self._waiting[chain_id] -= 1
                if not self._waiting[chain_id]:
                    del self._waiting[chain_id], self._busy[chain_id]


def _put_blob(tx: Transaction, chain_id: str, blob: LayerBlob) -> None:
    tx.put(BLOB_KIND, blob.digest, blob)
    if tx.lookup(BLOB, f"{chain_id}/{blob.digest}") is None:
        tx.link(BLOB, f"{chain_id}/{blob.digest}", blob.digest, source=chain_id)
