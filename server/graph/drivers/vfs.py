"""The vfs driver: no file system magic, every layer and every container is a full copy. Slow and large, works everywhere; the reference
that the others are compared with.

    ROOT/vfs/layers/<hex>/{tree/, size, parent}      ROOT/vfs/containers/<id>/{tree/, parent}
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from moorage.server.cancel import CancelToken
from moorage.server.errors import AlreadyExists, NotFound
from moorage.server.graph.drivers.base import Confined, Footprint, Packed, RootfsMount, Sink, Snapshot
from moorage.server.graph.drivers.storage import Storage
from moorage.server.model import DiskUsage


class VfsDriver:
    """See the module's text and `base.GraphDriver`."""

    name = "vfs"
    independent_layers = False

    def __init__(self, root: Path, confined: Confined) -> None:
        self._storage = Storage(root / "vfs", confined)
        self._confined = confined
        self._empty = self._storage.root / "empty"
        (self._empty / "tree").mkdir(mode=0o755, parents=True, exist_ok=True)

    def apply(self, chain_id: str, parent: str, tar: BinaryIO, cancel: CancelToken) -> int:
        final = self._storage.layer(chain_id)
        if final.is_dir():
            return int((final / "size").read_text())
        with self._storage.staged(final) as path:
            tree = self._copy(parent, path, cancel)
            size = self._confined.unpack(str(tree), tar, "apply", cancel).size
            (path / "size").write_text(str(size))
            (path / "parent").write_text(parent)
        return size

    def _copy(self, parent: str, path: Path, cancel: CancelToken) -> Path:
        """A copy of the layer `parent`, or an empty tree, below `path`."""
        tree = path / "tree"
        tree.mkdir(mode=0o755)
        if parent:
            source = self._storage.layer(parent) / "tree"
            if not source.is_dir():
                raise NotFound(f"layer {parent} is not here", path=source)
            self._confined.copy_tree(str(source), str(tree), cancel)
        return tree

    def remove_layer(self, chain_id: str) -> None:
        self._storage.discard(self._storage.layer(chain_id))

    def layers(self) -> set[str]:
        return {f"sha256:{name}" for name in os.listdir(self._storage.layers)}

    def create(self, container_id: str, parent: str) -> None:
        final = self._storage.container(container_id)
        if final.exists():
            raise AlreadyExists(f"container {container_id} has a writable layer already", path=final)
        with self._storage.staged(final) as path:
            self._copy(parent, path, CancelToken())
            (path / "parent").write_text(parent)

    def rootfs(self, container_id: str) -> tuple[RootfsMount, ...]:
        return (RootfsMount("bind", str(self._tree(container_id)), ("bind",)),)

    def view(self, chain_id: str) -> tuple[RootfsMount, ...]:
        tree = (self._storage.layer(chain_id) if chain_id else self._empty) / "tree"
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
                (path / "tree").mkdir(mode=0o755)
                self._confined.copy_tree(str(source), str(path / "tree"), cancel)
            below = (self._storage.layer(parent) if parent else self._empty) / "tree"
            yield VfsSnapshot(self._storage, self._confined, path, parent, below)

    @contextmanager
    def layer_snapshot(self, chain_id: str, cancel: CancelToken) -> Iterator[Snapshot]:
        record = self._storage.layer(chain_id) / "parent"
        if not record.exists():
            raise NotFound(f"layer {chain_id} is not here, or from before its parent was written down", path=record)
        parent = record.read_text()
        with self._storage.draft() as path:
            self._copy(chain_id, path, cancel)
            below = (self._storage.layer(parent) if parent else self._empty) / "tree"
            yield VfsSnapshot(self._storage, self._confined, path, parent, below)

    def remove(self, container_id: str) -> None:
        self._storage.discard(self._storage.container(container_id))

    def containers(self) -> set[str]:
        return set(os.listdir(self._storage.containers))

    def usage(self, container_id: str) -> DiskUsage:
        return self._confined.measure_tree(str(self._tree(container_id)))

    def footprint(self) -> Footprint:
        return self._storage.footprint()

    def collect(self) -> int:
        return self._storage.collect()

    def close(self) -> None:
        self._storage.close()

    def _tree(self, container_id: str) -> Path:
        tree = self._storage.container(container_id) / "tree"
        if not tree.is_dir():
            raise NotFound(f"container {container_id} has no writable layer", path=tree)
        return tree


class VfsSnapshot:
    """A copy of a container's tree, on its way to become a layer."""

    def __init__(self, storage: Storage, confined: Confined, path: Path, parent: str, below: Path) -> None:
        self.parent = parent
        self._storage, self._confined, self._path, self._below = storage, confined, path, below

    def pack(self, sink: Sink, cancel: CancelToken, *, clamp_seconds: int | None = None) -> Packed:
        tree, below = str(self._path / "tree"), str(self._below)
        packed = self._confined.pack(
            tree, sink, "compare", cancel, lower=below, root=below, clamp_seconds=clamp_seconds
        )
        (self._path / "size").write_text(str(packed.size))
        (self._path / "parent").write_text(self.parent)
        return packed

    def commit(self, chain_id: str) -> None:
        final = self._storage.layer(chain_id)
        if not final.is_dir():
            self._path.rename(final)
