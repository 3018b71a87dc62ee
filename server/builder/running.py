"""RUN: the mounts that it asks for, made of caches, secrets, agents, stages and the context."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from io import RawIOBase
from pathlib import Path
from typing import Any

from moorage.server.builder.agents import Agents
from moorage.server.builder.caches import Caches
from moorage.server.builder.context import Whole
from moorage.server.builder.layout import SCRIPT, RunAction
from moorage.server.builder.runmounts import RunMount
from moorage.server.builder.source import Place
from moorage.server.builder.trees import Placement, Sources, Trees
from moorage.server.cancel import CancelToken
from moorage.server.errors import InvalidArgument
from moorage.server.graph.drivers.base import RootfsMount
from moorage.server.model import Mount

View = Callable[[str], tuple[RootfsMount, ...]]
"""The mounts that show a chain of layers or an image."""
Blocking = Callable[..., Awaitable[Any]]
"""Runs a blocking function on a thread."""

STUBS = ("/proc", "/sys", "/dev", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf")
"""Where every container has something mounted. What is made there for that is no part of a layer."""

AGENT_VARIABLE = "SSH_AUTH_SOCK"
AGENT_SOCKET = "/run/moorage/ssh-agent.{}"


@dataclass(frozen=True)
class Given:
    """What the client gives to RUN steps and nobody keeps: secrets by ID, and its SSH agents."""

    secrets: Mapping[str, bytes]
    agents: Agents


@dataclass(frozen=True)
class Means:
    """What copying needs: what shows a chain or an image, threads, and the build's end."""

    see: View
    blocking: Blocking
    cancel: CancelToken


@dataclass(frozen=True)
class Shown:
    """What a mount of type bind shows: files of a chain of layers or an image, or (`host`) a file or directory of the daemon's own.

    `view` and `path` are in the step's key.
    """

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


@dataclass
class _Parts:
    """The same, while it is put together."""

    mounts: list[Mount] = field(default_factory=list)
    mounted: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)

    def bind(self, target: str, path: Path, *, read_only: bool = True) -> None:
        self.mounts.append(Mount("bind", target, str(path), read_only))


class Workshop:
    """Directories of the builder: caches that stay, on the disk; secrets, where the daemon's state is (in memory, usually)."""

    def __init__(self, root: Path, state: Path, trees: Trees) -> None:
        self._scripts = root / "build" / "scripts"
        self._secrets = state / "build"
        self._copies = root / "build" / "copies"
        self._trees = trees
        self.repositories = root / "build" / "repositories"
        caches = root / "build" / "caches"
        transient = (self._scripts, self._secrets, self._copies, self.repositories)
        for directory in transient:
            shutil.rmtree(directory, ignore_errors=True)
        for directory in (root / "build", caches, *transient):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.caches = Caches(caches, trees)

    @asynccontextmanager
    async def copied(
        self, id: str, action: RunAction, shown: Sequence[Shown], means: Means
    ) -> AsyncIterator[list[Shown]]:
        """What the mounts of a RUN show, with a copy of what may be written to, which is gone after the block."""
        wanted = {number for number, mount in enumerate(action.mounts) if mount.kind == "bind" and not mount.read_only}
        if not wanted:
            yield list(shown)
            return
        directory = self._copies / id
        directory.mkdir(mode=0o700)
        try:
            found = list(shown)
            for number in wanted:
                found[number] = await means.blocking(self._copy, found[number], directory / str(number), means)
            yield found
        finally:
            await asyncio.shield(means.blocking(self._trees.remove, directory))

    def _copy(self, source: Shown, directory: Path, means: Means) -> Shown:
        directory.mkdir(mode=0o755)
        if source.host:
            copy = directory / "file"
            shutil.copy2(source.host, copy)
            return Shown(path=source.path, host=str(copy))
        above, _, name = source.path.rpartition("/")
        # With its own attributes, where it is not the top.
        sources = Sources((f"{above}/./{name}" if above else name or ".",), parents=bool(name))
        self._take(source, sources, directory, means)
        return Shown(view=source.view, path=source.path, host=str(directory / name))

    def _take(self, source: Shown, sources: Sources, directory: Path, means: Means) -> int:
        """Copy `sources` of what is shown into a directory; answers how many directories they are."""
        view, what = means.see(source.view), f"RUN --mount=…,source={source.path}"
        _, directories = self._trees.look(view, sources, what)

        def feed(pipe: RawIOBase) -> None:
            self._trees.take(view, sources, what, Whole(pipe), means.cancel)

        rootfs = (RootfsMount("bind", str(directory), ("bind",)),)
        self._trees.put(rootfs, Placement(what, "/", directory=True), feed, means.cancel)
        return directories

    def _begin(self, source: Shown, directory: Path, means: Means) -> None:
        """Fill the directory of a cache."""
        if source.host or not self._take(source, Sources((source.path or ".",)), directory, means):
            raise InvalidArgument(f"RUN --mount=type=cache,source={source.path}: not a directory", reason="DOCKERFILE")

    @asynccontextmanager
    async def furnish(
        self, id: str, action: RunAction, shown: Sequence[Shown], given: Given, means: Means, place: Place
    ) -> AsyncIterator[Furnished]:
        """The mounts of a RUN while it runs; `shown` has an entry for each mount of the action."""
        parts = _Parts()
        async with AsyncExitStack() as stack:
            scripts = stack.enter_context(_directory(self._scripts / id))
            private = stack.enter_context(_directory(self._secrets / id))
            begun = [pair for pair in zip(action.mounts, shown, strict=True) if pair[0].kind == "cache"]
            caches = [_cache(mount, source) for mount, source in begun]

            async def fill(number: int, directory: Path) -> None:
                if begun[number][0].origin:
                    await means.blocking(self._begin, begun[number][1], directory, means)

            for mount, path in zip(caches, await stack.enter_async_context(self.caches.use(caches, fill)), strict=True):
                parts.bind(mount.target, path, read_only=mount.read_only)
            for number, (mount, source) in enumerate(zip(action.mounts, shown, strict=True)):
                match mount.kind:
                    case "tmpfs":
                        parts.mounts.append(Mount("tmpfs", mount.target, size=mount.size))
                    case "bind":
                        parts.mounts.append(_bind(mount, source))
                        parts.mounted += [source.view] if source.view and not source.host else []
                    case "secret":
                        _secret(mount, private / str(number), given.secrets, place, parts)
                    case "ssh":
                        await stack.enter_async_context(
                            _agent(mount, private / str(number), given.agents, place, parts)
                        )
            if action.script:
                path = scripts / "script"
                _write(path, action.script.encode(), 0o755, 0, 0)
                parts.bind(SCRIPT, path)
            targets = [mount.target for mount in parts.mounts]
            if len(set(targets)) != len(targets):
                raise place.error("RUN has two mounts at one place")
            env = tuple(f"{name}={value}" for name, value in parts.env.items())
            yield Furnished(tuple(parts.mounts), tuple(parts.mounted), env)


def _cache(mount: RunMount, source: Shown) -> RunMount:
    """A cache that begins with something is another one for each such thing."""
    return replace(mount, id=f"{mount.id}\0{source.view}\0{source.path}") if mount.origin else mount


def _secret(mount: RunMount, path: Path, secrets: Mapping[str, bytes], place: Place, parts: _Parts) -> None:
    value = secrets.get(mount.id)
    if value is None:
        if mount.required:
            raise place.error(
                f"RUN --mount=type=secret,id={mount.id}: no such secret was given", "give it with --secret"
            )
        return
    if mount.variable:
        parts.env[mount.variable] = value.decode("utf-8", "surrogateescape")
    if mount.target:
        _write(path, value, mount.mode, mount.uid, mount.gid)
        parts.bind(mount.target, path)


@asynccontextmanager
async def _agent(mount: RunMount, path: Path, agents: Agents, place: Place, parts: _Parts) -> AsyncIterator[None]:
    """An SSH agent's socket; the first of a RUN is the one that its commands find."""
    if mount.id not in agents.ids:
        if mount.required:
            raise place.error(
                f"RUN --mount=type=ssh,id={mount.id}: no such agent is forwarded", "forward it with --ssh"
            )
        yield
        return
    target = mount.target or AGENT_SOCKET.format(path.name)
    async with agents.listen(mount.id, path, mode=mount.mode, uid=mount.uid, gid=mount.gid):
        parts.bind(target, path)
        parts.env.setdefault(AGENT_VARIABLE, target)
        yield


def told(action: RunAction, shown: Sequence[Shown]) -> dict[str, Any]:
    """What the cache key of a RUN is made of; secrets by their names only."""
    mounts = [
        [
            *(
                mount.kind,
                mount.target,
                mount.id,
                mount.mode,
                mount.uid,
                mount.gid,
                mount.size,
                source.view,
                source.path,
            ),
            *(("rw",) if mount.kind == "bind" and not mount.read_only else ()),
        ]
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
        return Mount("bind", mount.target, source.host, read_only=mount.read_only)
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
