"""A container's changes as a layer: packed, compressed and hashed in one pass, and in the graph without being unpacked again."""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass

from moorage.server.cancel import CancelToken
from moorage.server.graph.compression import MEDIA_TYPES, Compression, compressor, decompressed
from moorage.server.graph.content import ContentStore, Draft
from moorage.server.graph.drivers.base import GraphDriver
from moorage.server.graph.layers import Layers, chain_id_on
from moorage.server.model import Layer, LayerBlob


@dataclass(frozen=True)
class MadeLayer:
    """A layer that was made here. `entries` is 0 when nothing had changed."""

    layer: Layer
    blob: LayerBlob
    entries: int


class PackingSink:
    """Takes a plain tar; hashes it, and writes it compressed to a draft of the content store."""

    def __init__(self, draft: Draft, compression: Compression) -> None:
        self._draft, self._compression = draft, compression
        self._compressor = compressor(compression)
        self._hash = hashlib.sha256()

    def write(self, data: bytes) -> None:
        self._hash.update(data)
        if compressed := self._compressor.compress(data):
            self._draft.write(compressed)

    def finish(self) -> LayerBlob:
        """The end: the blob gets its name."""
        self._draft.write(self._compressor.flush())
        digest = self._draft.commit()
        diff_id = f"sha256:{self._hash.hexdigest()}"
        return LayerBlob(digest, MEDIA_TYPES[self._compression], self._draft.size, diff_id)


def pack_changes(
    driver: GraphDriver,
    content: ContentStore,
    layers: Layers,
    container_id: str,
    cancel: CancelToken,
    *,
    compression: Compression,
    move: bool,
    clamp_seconds: int | None,
    onto: str | None,
    keep_empty: bool,
    still: AbstractContextManager[None],
) -> MadeLayer | None:
    """See `Graph.commit_layer` and `Graph.commit_changes`, which does not `keep_empty`."""
    with ExitStack() as stack:
        with still:
            snapshot = stack.enter_context(driver.snapshot(container_id, cancel, move=move))
        draft = stack.enter_context(content.draft())
        sink = PackingSink(draft, compression)
        packed = snapshot.pack(sink, cancel, clamp_seconds=clamp_seconds)
        cancel.check()
        if not (packed.entries or keep_empty):
            return None
        blob = sink.finish()
        if onto in (None, snapshot.parent):
            layer = layers.adopt(snapshot, blob, packed.size)
        else:
            layer = apply_blob(content, layers, blob, str(onto), cancel)
        return MadeLayer(layer, blob, packed.entries)


def apply_blob(content: ContentStore, layers: Layers, blob: LayerBlob, parent: str, cancel: CancelToken) -> Layer:
    """See `Graph.apply_blob`."""
    chain_id = chain_id_on(parent, blob.diff_id)
    with content.open(blob.digest) as file:
        layer = layers.apply(chain_id, blob.diff_id, parent, decompressed(file, blob.media_type), cancel)
    layers.keep_blob(chain_id, blob)
    return layer


def pack_layer(driver: GraphDriver, content: ContentStore, chain_id: str, cancel: CancelToken) -> LayerBlob:
    """See `Graph.pack_layer`."""
    with driver.layer_snapshot(chain_id, cancel) as snapshot, content.draft() as draft:
        sink = PackingSink(draft, "gzip")
        snapshot.pack(sink, cancel)
        cancel.check()
        return sink.finish()
