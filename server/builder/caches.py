"""The directories of `RUN --mount=type=cache`: by their IDs, on the disk, and who may use one at a time.

shared    all use one directory at once
locked    one directory, one user after the other
private   whoever finds the directory in use by another such gets a further one, which is the next one's in turn
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import secrets
import shutil
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from moorage.server.builder.runmounts import RunMount
from moorage.server.builder.trees import Trees

Fill = Callable[[int, Path], Awaitable[None]]
"""Puts into a new directory what the mount of that number begins with."""
_DRAFT = ".new"


class Caches:
    """On an event loop. `root` is the directory of the directories."""

    def __init__(self, root: Path, trees: Trees) -> None:
        self._root = root
        for draft in root.glob(f"*{_DRAFT}"):
            shutil.rmtree(draft)
        self._trees = trees
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._private: set[Path] = set()
        """Those that somebody has for himself now."""

    @asynccontextmanager
    async def use(self, mounts: Sequence[RunMount], fill: Fill | None = None) -> AsyncIterator[list[Path]]:
        """The directory of each mount, all of one RUN; made, and filled, when first used. Waits for those that are locked."""
        async with AsyncExitStack() as stack:
            # In one order for all, so that no two wait for each other.
            for identity in sorted({mount.id for mount in mounts if mount.sharing == "locked"}):
                await stack.enter_async_context(self._locks[identity])
            own: dict[str, Path] = {}
            for mount in mounts:
                if mount.sharing == "private" and mount.id not in own:
                    own[mount.id] = self._free(mount)
                    self._private.add(own[mount.id])
                    stack.callback(self._private.discard, own[mount.id])
            yield [
                await self._made(mount, own.get(mount.id, self._path(mount.id, 0)), fill, number)
                for number, mount in enumerate(mounts)
            ]

    def _free(self, mount: RunMount) -> Path:
        numbers = itertools.count()
        return next(path for number in numbers if (path := self._path(mount.id, number)) not in self._private)

    def _path(self, identity: str, number: int) -> Path:
        name = identity if not number else f"{identity}\0{number}"
        return self._root / hashlib.sha256(name.encode()).hexdigest()

    @staticmethod
    async def _made(mount: RunMount, path: Path, fill: Fill | None, number: int) -> Path:
        if path.exists():
            return path
        draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}{_DRAFT}")
        draft.mkdir(mode=0o700)
        try:
            if fill is not None:
                await fill(number, draft)
            os.chown(draft, mount.uid, mount.gid)
            draft.chmod(mount.mode)
            # Another RUN may have made it meanwhile.
            if not path.exists():
                draft.rename(path)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return path

    def drop(self) -> None:
        """Delete them. A RUN that uses one goes on without."""
        for path in list(self._root.iterdir()):
            self._trees.remove(path)
