"""RUN: the mounts that it asks for, made of caches, secrets, stages and the context."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moorage.server.builder.layout import SCRIPT, RunAction
from moorage.server.builder.runmounts import RunMount
from moorage.server.builder.source import Place
from moorage.server.builder.trees import Trees
from moorage.server.model import Mount

STUBS = ("/proc", "/sys", "/dev", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf")
"""Where every container has something mounted. What is made there for that is no part of a layer."""


@dataclass(frozen=True)
class Shown:
    """What a mount of type bind shows: files of a chain of layers or an image, or (`host`) a file or directory of the daemon's own."""

    view: str = ""
    path: str = ""
    host: str = ""


@dataclass(frozen=True)
class Furnished:
    """The mounts of one RUN: `mounted` are the views of those of kind `image`; `env` has secrets."""

    mounts: tuple[Mount, ...]
    mounted: tuple[str, ...]
    env: tuple[str, ...]

    @property
    def stubs(self) -> tuple[str, ...]:
        """Where mounting may leave empty files and directories."""
        return (*STUBS, *(mount.target for mount in self.mounts))


class Workshop:
    """Directories of the builder: caches that stay, on the disk; secrets, where the daemon's state is (in memory, usually)."""

    def __init__(self, root: Path, state: Path, trees: Trees) -> None:
        self._trees = trees
        self.caches = root / "build" / "caches"
        self._scripts = root / "build" / "scripts"
        self._secrets = state / "build"
        for directory in (self._scripts, self._secrets):
            shutil.rmtree(directory, ignore_errors=True)
        for directory in (root / "build", self.caches, self._scripts, self._secrets):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    @asynccontextmanager
    async def furnish(
        self, id: str, action: RunAction, shown: Sequence[Shown], secrets: Mapping[str, bytes], place: Place
    ) -> AsyncIterator[Furnished]:
        """The mounts of a RUN while it runs; `shown` has an entry for each mount of the action."""
        async with AsyncExitStack() as stack:
            scripts = stack.enter_context(_directory(self._scripts / id))
            private = stack.enter_context(_directory(self._secrets / id))
            mounts: list[Mount] = []
            mounted: list[str] = []
            env: list[str] = []
            for number, (mount, source) in enumerate(zip(action.mounts, shown, strict=True)):
                match mount.kind:
                    case "cache":
                        if mount.sharing != "shared":
                            await stack.enter_async_context(self._locks[mount.id])
                        mounts.append(Mount("bind", mount.target, str(self._cache(mount)), mount.read_only))
                    case "tmpfs":
                        mounts.append(Mount("tmpfs", mount.target, size=mount.size))
                    case "bind":
                        mounts.append(_bind(mount, source))
                        mounted += [source.view] if source.view else []
                    case "secret":
                        self._secret(mount, private / str(number), secrets, place, mounts, env)
            if action.script:
                path = scripts / "script"
                _write(path, action.script.encode(), 0o755, 0, 0)
                mounts.append(Mount("bind", SCRIPT, str(path), read_only=True))
            targets = [mount.target for mount in mounts]
            if len(set(targets)) != len(targets):
                raise place.error("RUN has two mounts at one place")
            yield Furnished(tuple(mounts), tuple(mounted), tuple(env))

    def _cache(self, mount: RunMount) -> Path:
        """The directory of a cache, by its ID; made when it is first used."""
        path = self.caches / hashlib.sha256(mount.id.encode()).hexdigest()
        if not path.exists():
            path.mkdir(mode=0o700)
            os.chown(path, mount.uid, mount.gid)
            path.chmod(mount.mode)
        return path

    @staticmethod
    def _secret(
        mount: RunMount,
        path: Path,
        secrets: Mapping[str, bytes],
        place: Place,
        mounts: list[Mount],
        env: list[str],
    ) -> None:
        value = secrets.get(mount.id)
        if value is None:
            if mount.required:
                raise place.error(
                    f"RUN --mount=type=secret,id={mount.id}: no such secret was given", "give it with --secret"
                )
            return
        if mount.variable:
            env.append(f"{mount.variable}={value.decode('utf-8', 'surrogateescape')}")
        if mount.target:
            _write(path, value, mount.mode, mount.uid, mount.gid)
            mounts.append(Mount("bind", mount.target, str(path), read_only=True))

    def drop_caches(self) -> None:
        """Delete the caches. A RUN that uses one goes on without."""
        for path in list(self.caches.iterdir()):
            self._trees.remove(path)


def told(action: RunAction, shown: Sequence[Shown]) -> dict[str, Any]:
    """What the cache key of a RUN is made of; secrets by their names only."""
    mounts = [
        [mount.kind, mount.target, mount.id, mount.mode, mount.uid, mount.gid, mount.size, source.view, source.path]
        for mount, source in zip(action.mounts, shown, strict=True)
    ]
    return {
        "run": action.args,
        "env": sorted(action.env),
        "cwd": action.working_dir,
        "user": action.user,
        "network": action.network,
        "script": action.script,
        "mounts": mounts,
    }


def _bind(mount: RunMount, source: Shown) -> Mount:
    if source.host:
        return Mount("bind", mount.target, source.host, read_only=True)
    return Mount("image", mount.target, source.view, read_only=True, sub_path=source.path)


@contextmanager
def _directory(path: Path) -> Iterator[Path]:
    path.mkdir(mode=0o700)
    try:
        yield path
    finally:
        shutil.rmtree(path)


def _write(path: Path, data: bytes, mode: int, uid: int, gid: int) -> None:
    path.touch(mode=0o600, exist_ok=False)
    path.write_bytes(data)
    os.chown(path, uid, gid)
    path.chmod(mode)
