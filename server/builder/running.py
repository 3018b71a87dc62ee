"""RUN: the mounts that it asks for, made of caches, secrets, agents, stages and the context."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moorage.server.builder.agents import Agents
from moorage.server.builder.caches import Caches
from moorage.server.builder.layout import SCRIPT, RunAction
from moorage.server.builder.runmounts import RunMount
from moorage.server.builder.source import Place
from moorage.server.builder.trees import Trees
from moorage.server.model import Mount

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
        self.repositories = root / "build" / "repositories"
        caches = root / "build" / "caches"
        for directory in (self._scripts, self._secrets, self.repositories):
            shutil.rmtree(directory, ignore_errors=True)
        for directory in (root / "build", caches, self._scripts, self._secrets, self.repositories):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.caches = Caches(caches, trees)

    @asynccontextmanager
    async def furnish(
        self, id: str, action: RunAction, shown: Sequence[Shown], given: Given, place: Place
    ) -> AsyncIterator[Furnished]:
        """The mounts of a RUN while it runs; `shown` has an entry for each mount of the action."""
        parts = _Parts()
        async with AsyncExitStack() as stack:
            scripts = stack.enter_context(_directory(self._scripts / id))
            private = stack.enter_context(_directory(self._secrets / id))
            caches = [mount for mount in action.mounts if mount.kind == "cache"]
            for mount, path in zip(caches, await stack.enter_async_context(self.caches.use(caches)), strict=True):
                parts.bind(mount.target, path, read_only=mount.read_only)
            for number, (mount, source) in enumerate(zip(action.mounts, shown, strict=True)):
                match mount.kind:
                    case "tmpfs":
                        parts.mounts.append(Mount("tmpfs", mount.target, size=mount.size))
                    case "bind":
                        parts.mounts.append(_bind(mount, source))
                        parts.mounted += [source.view] if source.view else []
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
