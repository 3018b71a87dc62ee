"""The typed arguments of the builder's jobs. See `commands.py`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from moorage.server.builder.agents import AgentData as AgentData
from moorage.server.builder.base import BuildOptions as BuildOptions
from moorage.server.builder.base import CacheExport as CacheExport
from moorage.server.builder.cache import CacheEntry as CacheEntry
from moorage.server.builder.cache import Pruned as Pruned
from moorage.server.builder.context import ContextEntry as ContextEntry
from moorage.server.builder.progress import BuildEvent as BuildEvent
from moorage.server.builder.progress import Built as Built
from moorage.server.builder.progress import Files as Files
from moorage.server.builder.progress import StepBegun as StepBegun
from moorage.server.builder.progress import StepEnded as StepEnded
from moorage.server.builder.progress import StepOutput as StepOutput
from moorage.server.builder.progress import Wanted as Wanted
from moorage.server.builder.progress import Warned as Warned
from moorage.server.engine.job import Command, StreamCommand


@dataclass(frozen=True)
class Listed:
    """Some of a context's files, of the build's own where `context` is empty; with `last` there are no more."""

    entries: tuple[ContextEntry, ...]
    last: bool = False
    context: str = ""


@dataclass(frozen=True)
class Contents:
    """Pieces of files that were wanted, by digest; a file's pieces come one after the other."""

    pieces: tuple[tuple[str, bytes], ...]


BuildInput = Listed | Contents | AgentData


@dataclass(frozen=True)
class Build(StreamCommand[BuildEvent]):
    """Build an image. First item Wanted, last Built unless files alone are asked for. `tags` are as the caller wrote them."""

    options: BuildOptions
    inputs: AsyncIterator[BuildInput]
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class PruneBuilds(Command[Pruned]):
    """Forget what the build cache has not used for `unused_seconds`; with `caches` also the directories of RUN's cache mounts."""

    unused_seconds: float = 0
    caches: bool = False
