"""Compares the files of layers with the blobs that they were unpacked from, and unpacks one again that is damaged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from moorage.server.cancel import CancelToken
from moorage.server.engine import archives
from moorage.server.errors import FailedPrecondition, MoorageError, NotFound
from moorage.server.graph.drivers.base import Differences
from moorage.server.graph.fsck import Checked, Finding
from moorage.server.graph.graph import Graph
from moorage.server.graph.graphdb import short_id
from moorage.server.model import Layer, LayerBlob
from moorage.server.registry.config import RegistryConfig
from moorage.server.registry.pull import Puller

SHOWN = 5
"""Files that a finding names."""


class LayerFiles:
    """`running` answers the containers of an image (full ID) that run."""

    def __init__(
        self, graph: Graph, puller: Puller, config: RegistryConfig, running: Callable[[str], Sequence[str]]
    ) -> None:
        self._graph, self._puller, self._config, self._running = graph, puller, config, running

    def compared(self, checked: Checked, cancel: CancelToken) -> list[Finding]:
        """What is wrong in the layers of images, those below first. A layer whose blob is not to be had, or is damaged itself, is left
        out; `checked` counts the others."""
        findings = []
        for layer, blob, images in self._layers():
            try:
                with (
                    self._at_hand(layer, blob, cancel) as found,
                    archives.plain(self._graph, found, self._config) as tar,
                ):
                    differences = self._graph.driver.differences(layer.chain_id, tar, cancel)
            except MoorageError:
                cancel.check()
                continue
            checked.compared += 1
            if differences.count:
                findings.append(Finding("damaged layer", layer.chain_id, _detail(differences), images))
        return findings

    def restore(self, finding: Finding, cancel: CancelToken) -> tuple[str, bool]:
        """Unpack a damaged layer again. Raises FailedPrecondition, with nothing changed, while a container runs on it."""
        holders = [name for image in finding.images for name in self._running(image)]
        if holders:
            raise FailedPrecondition(f"containers that have it as their root run: {', '.join(holders[:10])}")
        layer, blob = next((layer, blob) for layer, blob, _ in self._layers() if layer.chain_id == finding.id)
        with self._at_hand(layer, blob, cancel) as found:
            self._graph.give_up_layer(layer.chain_id)
            archives.unpack(self._graph, found, layer.chain_id, layer.parent, self._config, cancel)
        return "unpacked again", True

    def _layers(self) -> Iterator[tuple[Layer, LayerBlob, tuple[str, ...]]]:
        """The layers of images, each once and after those below it, with the blob that a manifest lists it as, and the images' IDs."""
        images = self._graph.list()
        users: dict[str, list[str]] = {}
        for image in images:
            for layer in image.layers:
                users.setdefault(layer.chain_id, []).append(image.id)
        told: set[str] = set()
        for image in images:
            try:
                blobs = self._graph.blobs(image)
            except MoorageError:
                continue  # its manifest is lost, which is a finding of its own
            for layer, blob in zip(image.layers, blobs, strict=True):
                if layer.chain_id not in told:
                    told.add(layer.chain_id)
                    yield layer, blob, tuple(sorted(users[layer.chain_id]))

    @contextmanager
    def _at_hand(self, layer: Layer, listed: LayerBlob, cancel: CancelToken) -> Iterator[LayerBlob]:
        """A blob of the layer in the content store; one that is fetched for this goes again. Raises NotFound, and what a fetch does."""
        if not self._graph.has_layer(layer.chain_id):
            raise NotFound(f"layer {short_id(layer.chain_id)} is not here")
        content = self._graph.content
        kept = [blob for blob in (listed, *self._graph.layer_blobs(layer.chain_id)) if content.exists(blob.digest)]
        if kept:
            yield kept[0]
            return
        self._puller.fetch(listed.digest, cancel)
        try:
            yield listed
        finally:
            self._graph.discard([listed.digest])


def _detail(differences: Differences) -> str:
    named = ", ".join(f"{path} {what}" for path, what in differences.shown[:SHOWN])
    more = f", and {differences.count - SHOWN} more" if differences.count > SHOWN else ""
    return f"not as its blob: {named}{more}"
