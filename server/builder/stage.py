"""What has become of a stage so far: settings, layers, history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from moorage.server.builder.imagespec import ImageSpec
from moorage.server.graph import documents
from moorage.server.graph.content import DIGEST
from moorage.server.graph.graph import Graph
from moorage.server.graph.layers import chain_id_on
from moorage.server.model import Image, LayerBlob, Platform
from moorage.server.registry.buildcache import CachedStep

INLINE_CACHE = "moorage.cache.v1"
"""Member of an image's config: the keys of its layers' steps, for who builds on another machine (`--cache-from`)."""


@dataclass
class StageState:
    """`chain_id` is of the topmost layer, empty where there is none. `created_ns` is when the last layer was made.

    `steps` are those that changed files, or would have.
    """

    spec: ImageSpec
    reference: str = ""
    chain_id: str = ""
    diff_ids: list[str] = field(default_factory=list)
    blobs: list[LayerBlob] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    created_ns: int = 0
    steps: list[CachedStep] = field(default_factory=list)

    def copy(self) -> StageState:
        """One to go on with apart."""
        return StageState(
            self.spec.copy(),
            self.reference,
            self.chain_id,
            list(self.diff_ids),
            list(self.blobs),
            list(self.history),
            self.created_ns,
            list(self.steps),
        )

    def add_layer(self, blob: LayerBlob, created_ns: int) -> None:
        self.chain_id = chain_id_on(self.chain_id, blob.diff_id)
        self.diff_ids.append(blob.diff_id)
        self.blobs.append(blob)
        self.created_ns = max(self.created_ns, created_ns)

    def add_history(self, text: str, *, empty: bool) -> None:
        step: dict[str, Any] = {"created": rfc3339(self.created_ns), "created_by": text, "comment": "moorage build"}
        if empty:
            step["empty_layer"] = True
        self.history.append(step)

    def config(self, platform: Platform, *, inline_cache: bool) -> bytes:
        """The image's config document."""
        document: dict[str, Any] = {
            "created": rfc3339(self.created_ns),
            "architecture": platform.architecture,
            "os": platform.os,
            **({"variant": platform.variant} if platform.variant else {}),
            "config": self.spec.members,
            "rootfs": {"type": "layers", "diff_ids": self.diff_ids},
            "history": self.history,
        }
        if inline_cache:
            document[INLINE_CACHE] = [{"key": step.key, "chain_id": step.chain_id} for step in self.steps if step.blob]
        return documents.encode(document)


def of_image(graph: Graph, image: Image, reference: str) -> StageState:
    """The state of a stage that begins with an image."""
    document = documents.decode(graph.document(image.id))
    diff_ids = [layer.diff_id for layer in image.layers]
    return StageState(
        ImageSpec(document.get("config")),
        reference,
        image.layers[-1].chain_id if image.layers else "",
        diff_ids,
        list(graph.blobs(image)),
        _fitting(document.get("history"), diff_ids),
        image.created_ns,
    )


def inline_cache(graph: Graph, image: Image) -> list[tuple[str, str, LayerBlob]]:
    """Keys, chain IDs and blobs that an image tells of; only those of its own layers count."""
    blobs = {layer.chain_id: blob for layer, blob in zip(image.layers, graph.blobs(image), strict=True)}
    found = documents.decode(graph.document(image.id)).get(INLINE_CACHE)
    entries = [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []
    return [
        (each["key"], each["chain_id"], blobs[each["chain_id"]])
        for each in entries
        if DIGEST.fullmatch(str(each.get("key"))) and each.get("chain_id") in blobs
    ]


def _fitting(history: object, diff_ids: Sequence[str]) -> list[dict[str, Any]]:
    """A history with a step for each layer; what does not fit is replaced by steps that nothing is known of."""
    steps = [dict(step) for step in history if isinstance(step, dict)] if isinstance(history, list) else []
    if sum(not step.get("empty_layer") for step in steps) == len(diff_ids):
        return steps
    return [{"comment": "unknown"} for _ in diff_ids]


def rfc3339(nanoseconds: int) -> str:
    moment = datetime.fromtimestamp(nanoseconds // 10**9, UTC)
    return moment.isoformat().replace("+00:00", "Z")
