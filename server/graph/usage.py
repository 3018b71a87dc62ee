"""What the store takes on the disk, as du(1) counts it, and what of it could go."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from moorage.server.graph.content import ContentStore
from moorage.server.graph.drivers.base import Footprint


@dataclass(frozen=True)
class Item:
    """One thing that takes space: its ID, bytes on the disk, and whether something uses it."""

    id: str
    size: int
    used: bool


@dataclass(frozen=True)
class Usage:
    """Everything below the daemon's root directory; the sizes add up to what du(1) says of it, but for what changes meanwhile.

    `layers` by chain ID, used by an image; `containers` with their writable layers, used while they run; `blobs` of the content store,
    used by an image; `other`: the database, logs, what is being made or deleted, directories.
    """

    layers: tuple[Item, ...]
    containers: tuple[Item, ...]
    blobs: tuple[Item, ...]
    other: int

    @property
    def total(self) -> int:
        return sum(item.size for item in (*self.layers, *self.containers, *self.blobs)) + self.other


def measure(
    root: Path,
    footprint: Footprint,
    driver_root: Path,
    content: ContentStore,
    *,
    unreached: tuple[Iterable[str], Iterable[str]],
    running: Mapping[str, bool],
) -> Usage:
    """Add it up. `unreached` are chain IDs and digests that no image leads to; `running` says of container IDs whether they run."""
    loose_layers, loose_blobs = set(unreached[0]), set(unreached[1])
    layers = tuple(Item(id, size, id not in loose_layers) for id, size in sorted(footprint.layers.items()))
    containers = tuple(Item(id, size, running.get(id, False)) for id, size in sorted(footprint.containers.items()))
    blobs = tuple(
        Item(digest, size, digest not in loose_blobs)
        for digest, size in sorted((digest, _blocks(content.path(digest))) for digest in content.digests())
    )
    rest = _tree(root, leave=driver_root) - sum(item.size for item in blobs)
    return Usage(layers, containers, blobs, footprint.other + rest)


def _tree(root: Path, leave: Path) -> int:
    """Bytes on disk of the daemon's own directories; nothing of what images or containers hold is in them."""
    total, pending = _blocks(root), [root]
    while pending:
        try:
            entries = list(os.scandir(pending.pop()))
        except FileNotFoundError:
            continue
        for entry in entries:
            path = Path(entry.path)
            if path == leave:
                continue
            total += _blocks(path)
            if entry.is_dir(follow_symlinks=False):
                pending.append(path)
    return total


def _blocks(path: Path) -> int:
    try:
        return path.lstat().st_blocks * 512
    except FileNotFoundError:
        return 0
