"""The btrfs driver: every layer is a subvolume, a snapshot of the one below it, and a container's root file system is one more snapshot.

`tree` is the subvolume: read-only in a layer, so that nothing can change it any more. Snapshots cost a transaction of the file system
and no copy; what containers share they share on the disk, though not in the page cache.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from moorage.server.cancel import CancelToken
from moorage.server.errors import Internal, MoorageError, NotFound, ResourceExhausted
from moorage.server.graph.drivers import qgroups, subvolumes
from moorage.server.graph.drivers.base import DriverStatus
from moorage.server.graph.drivers.storage import no_quota
from moorage.server.graph.drivers.treedriver import TreeDriver
from moorage.server.model import DiskUsage


class BtrfsDriver(TreeDriver):
    """See the module's text and `treedriver.TreeDriver`."""

    name = "btrfs"

    def _copy(self, source: Path | None, target: Path, cancel: CancelToken) -> None:
        with _told(f"make subvolume {target}"):
            if source is None:
                subvolumes.create(target.parent, target.name)
                target.chmod(0o755)
            else:
                subvolumes.snapshot(source, target.parent, target.name)

    def _seal(self, tree: Path) -> None:
        with _told(f"make subvolume {tree} read-only"):
            subvolumes.make_read_only(tree)

    def _limit(self, container_id: str, tree: Path, size: int) -> None:
        obstacle = qgroups.obstacle(tree)
        if obstacle:
            hint = f"run `btrfs quota enable {self._storage.root}`; with `--simple` from Linux 6.7 on"
            raise no_quota(container_id, obstacle, hint, path=self._storage.root)
        with _told(f"limit the size of container {container_id}"):
            qgroups.limit(tree, subvolumes.id_of(tree), size)

    def _before_deletion(self, path: Path) -> None:
        """Delete the subvolume, with all that a container made inside: an ordinary deletion would fail at those that are read-only."""
        tree = path / "tree"
        if subvolumes.is_subvolume(tree):
            with _told(f"delete subvolume {tree}"):
                qgroups.forget(path, subvolumes.destroy(tree))

    def usages(self, container_ids: Sequence[str]) -> dict[str, DiskUsage]:
        """What the snapshots do not share with the layers they were made of; written data counts once it is on the disk."""
        found = {}
        for container_id in container_ids:
            with suppress(NotFound), _told(f"measure container {container_id}"):
                found[container_id] = DiskUsage(*subvolumes.changed(self._tree(container_id)))
        return found

    def status(self) -> DriverStatus:
        root = self._storage.root
        obstacle = qgroups.obstacle(root)
        return DriverStatus("btrfs", ("snapshots",), "" if obstacle else qgroups.kind(root), obstacle)


@contextmanager
def _told(action: str) -> Iterator[None]:
    """Turn an error of the kernel into one of ours."""
    try:
        yield
    except OSError as error:
        number = error.errno or 0
        kind: type[MoorageError] = ResourceExhausted if number in (errno.ENOSPC, errno.EDQUOT) else Internal
        raise kind(f"cannot {action}: {os.strerror(number).lower()}", errno=number) from error
