"""What the drivers share: a directory of trees, in which a tree appears whole or not at all, and goes at once.

    ROOT/layers/<hex of the chain ID>/   committed layers        ROOT/staging/<n>/   made here, renamed when whole
    ROOT/containers/<id>/                writable layers         ROOT/trash/<n>/     renamed to here, deleted in the background

All is 0700: what images hold (set-user-ID programs, devices) is for nobody on the host.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from moorage.server.errors import FailedPrecondition, InvalidArgument, MoorageError
from moorage.server.graph.content import check_digest
from moorage.server.graph.drivers.base import Confined, Footprint

PATIENCE_SECONDS = 0.2
"""How long a deleted tree waits for others: a process deletes them, and takes its time from whoever deletes or starts a container now."""

CONTAINER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}", re.ASCII)

log = logging.getLogger(__name__)


class Storage:
    """One driver's directory. Thread-safe for different IDs."""

    def __init__(self, root: Path, confined: Confined, before_deletion: Callable[[Path], None] | None = None) -> None:
        """`before_deletion` is called with each discarded tree when it is about to be deleted, in the thread that does that."""
        self.root = root
        self.layers = root / "layers"
        self.containers = root / "containers"
        self._staging = root / "staging"
        self._confined = confined
        self._numbers = count()
        self._measured: dict[str, int] = {}
        for directory in (root, self.layers, self.containers, self._staging):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory.chmod(0o700)
        self._trash = Trash(root / "trash", confined, before_deletion)

    def layer(self, chain_id: str) -> Path:
        """Where a layer is. Raises InvalidArgument for a malformed chain ID."""
        return self.layers / check_digest(chain_id)

    def container(self, container_id: str) -> Path:
        """Where a container's writable layer is. Raises InvalidArgument for an ID that is not one plain name."""
        if not CONTAINER_ID.fullmatch(container_id):
            raise InvalidArgument(f"container ID {container_id[:100]!r} is malformed")
        return self.containers / container_id

    @contextmanager
    def staged(self, final: Path) -> Iterator[Path]:
        """A new directory to fill, which becomes `final` when the block ends, and goes when it fails.

        Nothing is synced here: `Graph.register` syncs the file system before an image has a name, and at a start layers of no image go.
        """
        with self.draft() as path:
            yield path
            if final.exists():
                raise FailedPrecondition(f"cannot make {final}: it exists already", path=final)
            path.rename(final)

    @contextmanager
    def draft(self) -> Iterator[Path]:
        """A new directory to fill; what has not been renamed by the end of the block goes."""
        path = self._staging / f"{os.getpid()}-{next(self._numbers)}"
        path.mkdir(mode=0o700)
        try:
            yield path
        finally:
            if path.exists():
                self.discard(path)

    def discard(self, path: Path) -> None:
        """Have a tree gone; missing is fine."""
        self._trash.discard(path)

    def collect(self) -> int:
        """Delete what is staged and what was not yet deleted; answer how many trees. For a start, when nothing is under way."""
        found = self._trash.collect()
        for path in list(self._staging.iterdir()):
            self.discard(path)
            found += 1
        return found

    def footprint(self) -> Footprint:
        """What everything takes. A layer does not change, so that it is measured once."""
        layers = self._sizes(self.layers, self._measured)
        self._measured = layers
        containers = self._sizes(self.containers, {})
        rest = [path for path in self.root.iterdir() if path not in (self.layers, self.containers)]
        other = sum(self._size(path) for path in rest)
        other += sum(own_size(path) for path in (self.root, self.layers, self.containers))
        return Footprint({f"sha256:{name}": size for name, size in layers.items()}, containers, other)

    def _sizes(self, directory: Path, known: dict[str, int]) -> dict[str, int]:
        found = {}
        for name in os.listdir(directory):
            size = known.get(name) or self._size(directory / name)
            if size:
                found[name] = size
        return found

    def _size(self, path: Path) -> int:
        """0 for one that has gone."""
        try:
            return own_size(path) + (self._confined.measure_tree(str(path)).bytes if path.is_dir() else 0)
        except FileNotFoundError:
            return 0

    def close(self) -> None:
        """Wait until what was discarded is deleted."""
        self._trash.drain()


def own_size(path: Path) -> int:
    """What a file, or a directory without what is in it, takes. Raises FileNotFoundError."""
    return path.lstat().st_blocks * 512


class Trash:
    """Deletes trees in one background thread, several in one go when they come fast. What a crash leaves, `collect` finds."""

    def __init__(
        self, directory: Path, confined: Confined, before_deletion: Callable[[Path], None] | None = None
    ) -> None:
        directory.mkdir(mode=0o700, exist_ok=True)
        self._directory = directory
        self._before_deletion = before_deletion
        self._confined = confined
        self._lock = threading.Lock()
        self._numbers = count()
        self._batch: Path | None = None
        self._thread = ThreadPoolExecutor(1, "moorage-trash")
        self._last: Future[None] | None = None
        self._hurry = threading.Event()

    def discard(self, path: Path) -> None:
        with self._lock:
            batch = self._batch or self._directory / f"{os.getpid()}-{next(self._numbers)}"
            batch.mkdir(mode=0o700, exist_ok=True)
            try:
                path.rename(batch / str(next(self._numbers)))
            except FileNotFoundError:
                batch.rmdir() if self._batch is None else None
                return
            if self._batch is None:
                self._batch = batch
                self._last = self._thread.submit(self._delete_batch)

    def _delete_batch(self) -> None:
        self._hurry.wait(PATIENCE_SECONDS)
        with self._lock:
            batch, self._batch = self._batch, None
        if batch is not None:
            self._delete(batch)

    def _delete(self, path: Path) -> None:
        try:
            if self._before_deletion:
                for tree in path.iterdir():
                    self._before_deletion(tree)
            self._confined.remove_tree(str(path))
        except (MoorageError, OSError) as error:
            log.warning("cannot delete %s: %s", path, error)

    def collect(self) -> int:
        # In the thread that deletes: it is at no other batch then.
        with self._hurried():
            return self._thread.submit(self._collect).result()

    def _collect(self) -> int:
        with self._lock:
            left = [path for path in self._directory.iterdir() if path != self._batch]
        for path in left:
            self._delete(path)
        return len(left)

    def drain(self) -> None:
        with self._lock:
            last = self._last
        if last is not None:
            with self._hurried():
                last.result()

    @contextmanager
    def _hurried(self) -> Iterator[None]:
        self._hurry.set()
        try:
            yield
        finally:
            self._hurry.clear()


def no_quota(container_id: str, obstacle: str, hint: str, *, path: Path) -> FailedPrecondition:
    """The error for a container that cannot be limited in size."""
    message = f"cannot limit the size of container {container_id}: {obstacle}"
    return FailedPrecondition(message, reason="NO_QUOTA", hint=hint, path=path)
