"""Layers: applied once however many pulls want them, verified while they stream, counted by the images that reach them."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

from moorage.server.cancel import CancelToken
from moorage.server.errors import DataLoss, FailedPrecondition, Internal, InvalidArgument
from moorage.server.graph.content import check_digest
from moorage.server.graph.drivers.base import GraphDriver
from moorage.server.graph.graphdb import GraphDB, Transaction
from moorage.server.model import Layer

KIND = "layer"
USED_BY = "image layer"
"""Edge `<image ID>/<index>` from an image to a layer."""
PARENT = "layer parent"
"""Edge `<chain ID>` from a layer to the one below."""


def chain_ids(diff_ids: Iterable[str]) -> list[str]:
    """The chain IDs of a stack of layers, from the base up (OCI image spec, config.md, "Layer ChainID")."""
    chain: list[str] = []
    for diff_id in diff_ids:
        both = f"{chain[-1]} {diff_id}".encode() if chain else b""
        chain.append(f"sha256:{hashlib.sha256(both).hexdigest()}" if chain else diff_id)
    return chain


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

    def get(self, chain_id: str) -> Layer | None:
        return self._db.get(KIND, chain_id, Layer)

    def apply(self, chain_id: str, diff_id: str, parent: str, tar: BinaryIO, cancel: CancelToken) -> Layer:
        """See `Graph.apply_layer`."""
        check_digest(diff_id)
        if parent:
            check_digest(parent)
        both = f"{parent} {diff_id}".encode()
        if chain_id != (f"sha256:{hashlib.sha256(both).hexdigest()}" if parent else diff_id):
            raise InvalidArgument(f"chain ID {chain_id} is not that of {diff_id} on top of {parent or 'nothing'}")
        with self._exclusive(chain_id, cancel):
            layer = self.get(chain_id)
            if layer is not None:
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
                tx.put(KIND, chain_id, layer)
                if parent:
                    tx.link(PARENT, chain_id, parent, source=chain_id)
            return layer

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

    def remove(self, layers: Iterable[Layer]) -> tuple[int, list[str]]:
        """Delete those of `layers` (from the top down) that nothing leads to; answers bytes and chain IDs."""
        size, removed = 0, []
        for layer in layers:
            with self._exclusive(layer.chain_id, CancelToken()):
                if self._forget(layer):
                    # The name goes first, so that what a crash leaves is found as unknown.
                    self._driver.remove_layer(layer.chain_id)
                    size += layer.size
                    removed.append(layer.chain_id)
        return size, removed

    def _forget(self, layer: Layer) -> bool:
        with self._db.transaction() as tx:
            if tx.get(KIND, layer.chain_id, Layer) is None:
                return False
            if tx.names(USED_BY, layer.chain_id) or tx.names(PARENT, layer.chain_id):
                return False
            tx.delete(KIND, layer.chain_id)
        return True

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
