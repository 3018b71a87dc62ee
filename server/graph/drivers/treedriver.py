"""What drivers share that keep a whole tree for every layer and container, each made as a copy of the one below.

    ROOT/<name>/layers/<hex>/{tree/, size, parent}      ROOT/<name>/containers/<id>/{tree/, parent}

How a copy is made is the driver's: `_copy`. What it has to do besides is in `_seal` (a layer's tree is whole) and `_limit` (a container's
size).
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from moorage.server.cancel import CancelToken
from moorage.server.errors import AlreadyExists, NotFound
from moorage.server.graph.drivers.base import (
    UNLIMITED,
    Confined,
    Differences,
    DriverStatus,
    Footprint,
    Packed,
    RootfsMount,
    Sink,
    Snapshot,
    WritableLayer,
)
from moorage.server.graph.drivers.storage import Storage, no_quota
from moorage.server.model import DiskUsage

QUOTA_HINT = "give the daemon a root on btrfs with quotas, or on ext4 or xfs with project quotas"


class TreeDriver(ABC):
    """See the module's text and `base.GraphDriver`."""

    name: str
    independent_layers = False

    def __init__(self, root: Path, confined: Confined) -> None:
        self._storage = Storage(root / self.name, confined, self._before_deletion)
        self._confined = confined
        self._empty = self._storage.root / "empty"
        (self._empty / "tree").mkdir(mode=0o755, parents=True, exist_ok=True)

    def apply(self, chain_id: str, parent: str, tar: BinaryIO, cancel: CancelToken) -> int:
        final = self._storage.layer(chain_id)
        if final.is_dir():
            return int((final / "size").read_text())
        with self._storage.staged(final) as path:
            tree = self._derive(parent, path, cancel)
            size = self._confined.unpack(str(tree), tar, "apply", cancel).size
            (path / "size").write_text(str(size))
            (path / "parent").write_text(parent)
            self._seal(tree)
        return size

    def differences(self, chain_id: str, tar: BinaryIO, cancel: CancelToken) -> Differences:
        tree = self._layer_tree(chain_id)
        if not tree.is_dir():
            raise NotFound(f"layer {chain_id} is not here", path=tree)
        with self._storage.draft() as path:
            expected = self._derive((tree.parent / "parent").read_text(), path, cancel)
            self._confined.unpack(str(expected), tar, "apply", cancel)
            return self._confined.compare(str(tree), str(expected), (), cancel)

    def _derive(self, parent: str, path: Path, cancel: CancelToken) -> Path:
        """A copy of the layer `parent`, or an empty tree, below `path`."""
        if parent and not self._layer_tree(parent).is_dir():
            raise NotFound(f"layer {parent} is not here", path=self._layer_tree(parent))
        self._copy(self._layer_tree(parent) if parent else None, path / "tree", cancel)
        return path / "tree"

    @abstractmethod
    def _copy(self, source: Path | None, target: Path, cancel: CancelToken) -> None:
        """Make `target` a copy of the tree `source`, or an empty tree with mode 0755."""

    @abstractmethod
    def _seal(self, tree: Path) -> None:
        """A layer's tree is whole: nothing changes it any more."""

    def _limit(self, container_id: str, tree: Path, size: int) -> None:
        """Hold a new container to `size` bytes. Raises FailedPrecondition, reason NO_QUOTA, when that cannot be."""
        raise no_quota(container_id, self.status().no_quota, QUOTA_HINT, path=tree)

    @abstractmethod
    def _before_deletion(self, path: Path) -> None:
        """A layer or container that was removed is about to be deleted."""

    def remove_layer(self, chain_id: str) -> None:
        self._storage.discard(self._storage.layer(chain_id))

    def layers(self) -> set[str]:
        return {f"sha256:{name}" for name in os.listdir(self._storage.layers)}

    def create(self, container_id: str, parent: str, layer: WritableLayer = UNLIMITED) -> None:
        final = self._storage.container(container_id)
        if final.exists():
            raise AlreadyExists(f"container {container_id} has a writable layer already", path=final)
        with self._storage.staged(final) as path:
            tree = self._derive(parent, path, CancelToken())
            (path / "parent").write_text(parent)
            if layer.size:
                self._limit(container_id, tree, layer.size)

    def rootfs(self, container_id: str) -> tuple[RootfsMount, ...]:
        return (RootfsMount("bind", str(self._tree(container_id)), ("bind",)),)

    def export(self, container_id: str, sink: Sink, cancel: CancelToken) -> Packed:
        mount = RootfsMount("bind", str(self._tree(container_id)), ("bind", "ro"))
        return self._confined.export((mount,), sink, cancel)

    def view(self, chain_id: str) -> tuple[RootfsMount, ...]:
        tree = self._layer_tree(chain_id)
        if not tree.is_dir():
            raise NotFound(f"layer {chain_id} is not here", path=tree)
        return (RootfsMount("bind", str(tree), ("bind", "ro")),)

    @contextmanager
    def snapshot(self, container_id: str, cancel: CancelToken, *, move: bool = False) -> Iterator[Snapshot]:
        source = self._tree(container_id)
        parent = (source.parent / "parent").read_text()
        with self._storage.draft() as path:
            if move:
                source.rename(path / "tree")
            else:
                self._copy(source, path / "tree", cancel)
            yield TreeSnapshot(self, path, parent)

    @contextmanager
    def layer_snapshot(self, chain_id: str, cancel: CancelToken) -> Iterator[Snapshot]:
        record = self._storage.layer(chain_id) / "parent"
        if not record.exists():
            raise NotFound(f"layer {chain_id} is not here, or from before its parent was written down", path=record)
        parent = record.read_text()
        with self._storage.draft() as path:
            self._derive(chain_id, path, cancel)
            yield TreeSnapshot(self, path, parent)

    def pack(self, tree: Path, parent: str, sink: Sink, cancel: CancelToken, clamp_seconds: int | None) -> Packed:
        """Pack what a tree has other than the layer `parent`, for a snapshot."""
        below = str(self._layer_tree(parent))
        return self._confined.pack(
            str(tree), sink, "compare", cancel, lower=below, root=below, clamp_seconds=clamp_seconds
        )

    def adopt(self, path: Path, chain_id: str) -> None:
        """Make a snapshot's draft the layer `chain_id`, unless it is there already."""
        final = self._storage.layer(chain_id)
        if not final.is_dir():
            self._seal(path / "tree")
            path.rename(final)

    def remove(self, container_id: str) -> None:
        self._storage.discard(self._storage.container(container_id))

    def containers(self) -> set[str]:
        return set(os.listdir(self._storage.containers))

    @abstractmethod
    def usages(self, container_ids: Sequence[str]) -> dict[str, DiskUsage]: ...

    def footprint(self) -> Footprint:
        return self._storage.footprint()

    @abstractmethod
    def status(self) -> DriverStatus: ...

    def collect(self) -> int:
        return self._storage.collect()

    def close(self) -> None:
        self._storage.close()

    def _layer_tree(self, chain_id: str) -> Path:
        """The tree of a layer, an empty one for an empty chain ID."""
        return (self._storage.layer(chain_id) if chain_id else self._empty) / "tree"

    def _tree(self, container_id: str) -> Path:
        tree = self._storage.container(container_id) / "tree"
        if not tree.is_dir():
            raise NotFound(f"container {container_id} has no writable layer", path=tree)
        return tree


class TreeSnapshot:
    """A copy of a container's tree or of a layer's, on its way to become a layer."""

    def __init__(self, driver: TreeDriver, path: Path, parent: str) -> None:
        self.parent = parent
        self._driver, self._path = driver, path

    def pack(self, sink: Sink, cancel: CancelToken, *, clamp_seconds: int | None = None) -> Packed:
        packed = self._driver.pack(self._path / "tree", self.parent, sink, cancel, clamp_seconds)
        (self._path / "size").write_text(str(packed.size))
        (self._path / "parent").write_text(self.parent)
        return packed

    def commit(self, chain_id: str) -> None:
        self._driver.adopt(self._path, chain_id)
