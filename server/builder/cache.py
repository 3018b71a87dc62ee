"""The build cache: which layer a step made, by a key of all that went into it.

A key names the layers below by their chain ID, which is a digest of their contents, and files by their digests. So it is the contents
that decide, whatever names they came by, and entries of another machine are as good as one's own.

    nodes   buildstep <key>                       edges   image layer  build/<key>  buildstep -> layer

An entry holds its layer until the cache is pruned. Until a build has synced the file system its entries carry the ID of this boot: after
a power loss they are not believed.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from moorage.server.graph import layers
from moorage.server.graph.graph import Graph
from moorage.server.graph.graphdb import GraphDB
from moorage.server.model import Layer, LayerBlob

KIND = "buildstep"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class CacheEntry:
    """What a step made: the layer `chain_id`, or (without `blob`) nothing new. `boot` is empty once it is safe on the disk."""

    key: str
    chain_id: str
    created_ns: int
    used_ns: int
    text: str
    blob: LayerBlob | None = None
    """The layer as an image's manifest lists it; the blob itself need not be here."""
    boot: str = ""


@dataclass(frozen=True)
class Pruned:
    """What pruning gave back."""

    entries: int
    reclaimed: int


def key_of(parent: str, what: dict[str, Any]) -> str:
    """A step's key, on top of the chain `parent`."""
    text = json.dumps({"format": 1, "parent": parent, **what}, sort_keys=True)
    return f"sha256:{hashlib.sha256(text.encode('utf-8', 'surrogateescape')).hexdigest()}"


class BuildCache:
    """Thread-safe."""

    def __init__(self, db: GraphDB, graph: Graph) -> None:
        self._db = db
        self._graph = graph
        self._boot = BOOT_ID.read_text().strip()

    def find(self, key: str) -> CacheEntry | None:
        """The entry of a key, if its layer is here."""
        entry = self._db.get(KIND, key, CacheEntry)
        if entry is None or (entry.chain_id and not self._graph.has_layer(entry.chain_id)):
            return None
        return entry

    def add(self, key: str, chain_id: str, blob: LayerBlob | None, *, text: str, created_ns: int) -> CacheEntry:
        """Remember what a step made (without `blob`: nothing new), instead of what is known of its key already."""
        entry = CacheEntry(key, chain_id, created_ns, time.time_ns(), text, blob, self._boot)
        with self._db.transaction() as tx:
            tx.unlink(layers.USED_BY, f"build/{key}")
            tx.put(KIND, key, entry)
            if chain_id and tx.get(layers.KIND, chain_id, Layer) is not None:
                tx.link(layers.USED_BY, f"build/{key}", chain_id, source=key)
        return entry

    def settle(self, keys: Iterable[str]) -> None:
        """A build is done, and the file system synced: its entries are used now, and safe."""
        now = time.time_ns()
        with self._db.transaction() as tx:
            for key in keys:
                entry = tx.get(KIND, key, CacheEntry)
                if entry is not None:
                    tx.put(KIND, key, replace(entry, used_ns=now, boot=""))

    def drop_unsafe(self) -> int:
        """Forget entries that were not yet safe when the machine went down; answers how many. For a start."""
        return self._forget(each for each in self.all() if each.boot not in ("", self._boot))

    def all(self) -> list[CacheEntry]:
        """Every entry, oldest first."""
        return self._db.all(KIND, CacheEntry)

    def prune(self, unused_since_ns: int) -> Pruned:
        """Forget entries last used before a time, and delete the layers and contents that nothing leads to then."""
        count = self._forget(each for each in self.all() if each.used_ns < unused_since_ns)
        return Pruned(count, self._graph.prune(lambda _: (), lambda _: False).reclaimed)

    def _forget(self, entries: Iterable[CacheEntry]) -> int:
        count = 0
        with self._db.transaction(durable=True) as tx:
            for entry in entries:
                tx.unlink(layers.USED_BY, f"build/{entry.key}")
                tx.delete(KIND, entry.key)
                count += 1
        return count
