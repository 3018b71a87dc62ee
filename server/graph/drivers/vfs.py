"""The vfs driver: no file system magic, every layer and every container is a full copy. Slow and large, works everywhere; the reference
that the others are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from moorage.server.cancel import CancelToken
from moorage.server.graph.drivers import backing
from moorage.server.graph.drivers.base import DriverStatus
from moorage.server.graph.drivers.treedriver import TreeDriver
from moorage.server.model import DiskUsage


class VfsDriver(TreeDriver):
    """See the module's text and `treedriver.TreeDriver`."""

    name = "vfs"

    def _copy(self, source: Path | None, target: Path, cancel: CancelToken) -> None:
        target.mkdir(mode=0o755)
        if source:
            self._confined.copy_tree(str(source), str(target), cancel)

    def _seal(self, tree: Path) -> None:
        """Nothing of the file system holds a copy still."""

    def _before_deletion(self, path: Path) -> None:
        """A copy is deleted like any tree."""

    def usages(self, container_ids: Sequence[str]) -> dict[str, DiskUsage]:
        places = {each: str(self._storage.container(each) / "tree") for each in container_ids}
        found = self._confined.measure_trees([*places.values()])
        return {each: found[place] for each, place in places.items() if place in found}

    def status(self) -> DriverStatus:
        return DriverStatus(backing.kind(self._storage.root), ("copies",), "", "graph driver vfs has no quotas")
