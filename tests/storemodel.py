"""What the image store should hold: names, images, layers and containers as sets, and what can be reached from them.

It learns what was made from what the daemon answers, and works out by itself what a removal leaves. `found` reads the same things off a
root directory: the GraphDB's file, and the driver's and the content store's directories.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections import defaultdict
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from moorage.server.graph.layers import chain_ids


@dataclass(frozen=True)
class Held:
    """What there is. `tags` are pairs of a name and an image's ID; `layers` and `made` (those with a blob that is kept) chain IDs;
    `cached` the layers that the build cache holds."""

    images: frozenset[str]
    tags: frozenset[tuple[str, str]]
    layers: frozenset[str]
    made: frozenset[str]
    cached: frozenset[str]
    containers: frozenset[str]


@dataclass
class Model:
    """The store as it should be."""

    chains: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Chain IDs from the base up, by image ID."""
    tags: dict[str, str] = field(default_factory=dict)
    containers: dict[str, str] = field(default_factory=dict)
    forgotten: set[str] = field(default_factory=set)
    made: set[str] = field(default_factory=set)
    cached: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Chains, from the base up, by the layer that the build cache holds."""

    def image(self, image_id: str, diff_ids: Iterable[str], tags: Iterable[str]) -> None:
        """An image is here, under these names."""
        self.chains[image_id] = tuple(chain_ids(diff_ids))
        for tag in tags:
            self.tag(image_id, tag)

    def tag(self, image_id: str, tag: str) -> None:
        self.tags[tag] = image_id
        self.forgotten.discard(image_id)

    def commit(self, image_id: str, diff_ids: Iterable[str], tags: Iterable[str]) -> None:
        """An image whose last layer was made here."""
        self.image(image_id, diff_ids, tags)
        self.made.add(self.chains[image_id][-1])

    def build(self, image_id: str, diff_ids: Iterable[str], tag: str, steps: int) -> None:
        """An image whose last `steps` layers were made, or found in the cache, by a step each."""
        self.image(image_id, diff_ids, [tag])
        chain = self.chains[image_id]
        for end in range(len(chain) - steps + 1, len(chain) + 1):
            self.cached[chain[end - 1]] = chain[:end]
            self.made.add(chain[end - 1])

    def users(self, image_id: str) -> list[str]:
        return [name for name, held in self.containers.items() if held == image_id]

    def names(self, image_id: str) -> list[str]:
        return [tag for tag, held in self.tags.items() if held == image_id]

    def refuses(self, name: str) -> bool:
        """Whether the removal of a tag, or of an image by its ID, is refused: it is the last, and a container holds the image."""
        image_id = self.tags.get(name, name)
        return bool(self.users(image_id)) and not set(self.names(image_id)) - {name, *self._all_of(name)}

    def remove(self, name: str) -> None:
        """A removal with force."""
        image_id = self.tags.get(name, name)
        for tag in {name, *self._all_of(name)} & set(self.tags):
            del self.tags[tag]
        if not self.names(image_id):
            self.forgotten.add(image_id)
            self._drop_forgotten()

    def _all_of(self, name: str) -> list[str]:
        return self.names(name) if name in self.chains else []

    def remove_container(self, name: str) -> None:
        del self.containers[name]
        self._drop_forgotten()

    def prune(self) -> None:
        for image_id in [each for each in self.chains if not self.names(each) and not self.users(each)]:
            del self.chains[image_id]

    def prune_builds(self) -> None:
        self.cached.clear()

    def _drop_forgotten(self) -> None:
        for image_id in [each for each in self.forgotten if not self.users(each)]:
            self.forgotten.remove(image_id)
            self.chains.pop(image_id, None)

    @property
    def held(self) -> Held:
        reached = {layer for chain in (*self.chains.values(), *self.cached.values()) for layer in chain}
        self.made &= reached
        return Held(
            frozenset(self.chains),
            frozenset(self.tags.items()),
            frozenset(reached),
            frozenset(self.made),
            frozenset(self.cached),
            frozenset(self.containers),
        )


def found(root: Path, driver: str) -> Held:
    """What is below a daemon's root directory. What its database and its directories disagree about is an AssertionError."""
    nodes, edges = _rows(root)
    images, layers = nodes["image"], nodes["layer"]
    assert {name.partition("/")[0] for name, _ in edges["image content"]} == images
    assert on_disk(root / driver / "layers") == layers
    blobs = {target for kind in ("image content", "layer blob") for _, target in edges[kind]}
    assert blobs <= on_disk(root / "content" / "blobs" / "sha256")
    return Held(
        frozenset(images),
        frozenset(edges["tag"]),
        frozenset(layers),
        frozenset(name.partition("/")[0] for name, _ in edges["layer blob"]),
        frozenset(target for name, target in edges["image layer"] if name.startswith("build/")),
        frozenset(name for name, _ in edges["container-name"]),
    )


def _rows(root: Path) -> tuple[dict[str, set[str]], dict[str, set[tuple[str, str]]]]:
    """IDs of nodes, and names and targets of edges, by kind: of a copy, as the daemon keeps its database to itself."""
    nodes: dict[str, set[str]] = defaultdict(set)
    edges: dict[str, set[tuple[str, str]]] = defaultdict(set)
    with TemporaryDirectory(prefix="moorage-db-") as directory:
        for path in root.glob("graph.db*"):
            shutil.copy(path, directory)
        with closing(sqlite3.connect(f"{directory}/graph.db")) as db:
            for kind, id in db.execute("SELECT kind, id FROM nodes"):
                nodes[kind].add(id)
            for kind, name, target in db.execute("SELECT kind, name, target FROM edges"):
                edges[kind].add((name, target))
    return nodes, edges


def on_disk(directory: Path) -> set[str]:
    """The digests that a directory's entries are named by."""
    return {f"sha256:{name}" for name in os.listdir(directory)}
