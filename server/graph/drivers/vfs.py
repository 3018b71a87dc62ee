"""The vfs driver: no file system magic, every layer and every container is a full copy. Slow and large, works everywhere; the reference
that the others are compared with.

    ROOT/vfs/layers/<hex>/{tree/, size}      ROOT/vfs/containers/<id>/tree/
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from moorage.server.cancel import CancelToken
from moorage.server.errors import AlreadyExists, NotFound
from moorage.server.graph.drivers.base import Confined, RootfsMount
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

    def rootfs(self, container_id: str) -> tuple[RootfsMount, ...]:
        return (RootfsMount("bind", str(self._tree(container_id)), ("bind",)),)

    def view(self, chain_id: str) -> tuple[RootfsMount, ...]:
        tree = (self._storage.layer(chain_id) if chain_id else self._empty) / "tree"
        if not tree.is_dir():
            raise NotFound(f"layer {chain_id} is not here", path=tree)
        return (RootfsMount("bind", str(tree), ("bind", "ro")),)

    def remove(self, container_id: str) -> None:
        self._storage.discard(self._storage.container(container_id))

    def containers(self) -> set[str]:
        return set(os.listdir(self._storage.containers))

    def usage(self, container_id: str) -> DiskUsage:
        return self._confined.measure_tree(str(self._tree(container_id)))

    def collect(self) -> int:
        return self._storage.collect()

    def close(self) -> None:
        self._storage.close()

    def _tree(self, container_id: str) -> Path:
        tree = self._storage.container(container_id) / "tree"
        if not tree.is_dir():
            raise NotFound(f"container {container_id} has no writable layer", path=tree)
        return tree
