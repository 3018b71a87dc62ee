"""An image's history, as its config tells it (OCI image spec, config.md, "history"): a remark of who made it, which nobody checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from moorage.server.errors import InvalidArgument
from moorage.server.graph.imageconfig import created_ns
from moorage.server.model import Layer


class _Entry(msgspec.Struct):
    created: str | None = None
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


class _Document(msgspec.Struct):
    history: list[_Entry] | None = None


@dataclass(frozen=True)
class Step:
    """One step; `layer` is None for a step that changed no file."""

    created_ns: int
    created_by: str
    author: str
    comment: str
    layer: Layer | None


def read(config: bytes, layers: Sequence[Layer]) -> list[Step]:
    """The steps from the first on. Where the history does not fit the layers, each layer is a step that nothing is known of."""
    try:
        entries = msgspec.json.decode(config, type=_Document).history or []
    except (msgspec.MsgspecError, RecursionError):
        entries = []
    if sum(not entry.empty_layer for entry in entries) != len(layers):
        return [Step(0, "", "", "", layer) for layer in layers]
    rest = iter(layers)
    return [
        Step(
            _created(each.created), each.created_by, each.author, each.comment, None if each.empty_layer else next(rest)
        )
        for each in entries
    ]


def _created(text: str | None) -> int:
    try:
        return created_ns(text)
    except InvalidArgument:
        return 0
