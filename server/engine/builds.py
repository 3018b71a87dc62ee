"""Handlers for builds: take the context in, run the build, hand on its progress; prune what builds have cached."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace

from moorage.server.builder.agents import Agents
from moorage.server.builder.context import BuildContext
from moorage.server.builder.gitsource import Git
from moorage.server.builder.lint import lint
from moorage.server.builder.parse import parse
from moorage.server.builder.remote import fetched
from moorage.server.builder.run import Build, Tools, first_of, planned
from moorage.server.cancel import CancelToken
from moorage.server.engine import buildcommands as b
from moorage.server.engine.buildhouse import BuildHouse, EventQueue, Parts
from moorage.server.engine.engine import Lane
from moorage.server.engine.job import Job
from moorage.server.errors import DataLoss, InvalidArgument
from moorage.server.graph.content import ContentStore, Draft
from moorage.server.model import Image

BATCH = 10_000
"""Digests in one message."""
MAX_DOCKERFILE = 4 << 20
"""Bytes of a Dockerfile that is read here."""


class Builds:
    """Handlers for builds."""

    def __init__(self, parts: Parts, tools: Tools) -> None:
        self._parts = parts
        self._tools = tools

    async def build(self, job: Job, command: b.Build) -> AsyncIterator[b.BuildEvent]:
        """Ask for what is lacking of the context, then build. A reader that goes away stops it."""
        options = replace(command.options, tags=tuple(self._parts.images.tag_of(tag) for tag in command.tags))
        if options.dockerfile or "" not in options.repositories:
            planned(options, self._tools.platform)
        cancel = CancelToken()
        with self._tools.graph.lease(), job.cancel.on_cancel(lambda: cancel.cancel("the build was cancelled")):
            job.stage("context")
            contexts = await _listed(command.inputs, options)
            receiver = Receiver(self._tools.graph.content, contexts.values())
            wanted = await self._parts.engine.blocking(Lane.DISK, receiver.begin)
            for at in range(0, max(1, len(wanted)), BATCH):
                yield b.Wanted(tuple(wanted[at : at + BATCH]), last=at + BATCH >= len(wanted))
            await self._receive(receiver, command.inputs)
            contexts |= await self._parts.engine.blocking(Lane.TRANSFER, self._fetch, options, cancel)
            if not options.dockerfile:
                options = replace(options, dockerfile=self._dockerfile(options, contexts[""]))
                planned(options, self._tools.platform)
            if options.check:
                for finding in lint(parse(options.dockerfile, options.file)):
                    yield b.Warned(str(finding))
                return
            job.stage("build")
            async for event in self._run(job, options, contexts, command.inputs, cancel):
                yield event

    def _fetch(self, options: b.BuildOptions, cancel: CancelToken) -> dict[str, BuildContext]:
        """The contexts that come from repositories."""
        git = Git(self._tools.workshop.repositories, options.epoch, cancel)
        return {name: fetched(url, git, self._tools.graph.content) for name, url in options.repositories.items()}

    def _dockerfile(self, options: b.BuildOptions, context: BuildContext) -> bytes:
        """The Dockerfile of a context that was fetched."""
        entry = context.get(options.file)
        if entry is None or entry.kind != "file":
            raise InvalidArgument(
                f"context {options.repositories['']}: there is no file {options.file} in it", field="file_name"
            )
        return self._tools.graph.content.read(entry.digest, MAX_DOCKERFILE)

    async def _receive(self, receiver: Receiver, inputs: AsyncIterator[b.BuildInput]) -> None:
        with receiver:
            while receiver.lacking:
                item = await anext(inputs, None)
                if not isinstance(item, b.Contents):
                    raise InvalidArgument(
                        "the context ended before all files that were wanted had come", field="context"
                    )
                await self._parts.engine.blocking(Lane.DISK, receiver.take, item.pieces)

    async def _run(
        self,
        job: Job,
        options: b.BuildOptions,
        contexts: Mapping[str, BuildContext],
        inputs: AsyncIterator[b.BuildInput],
        cancel: CancelToken,
    ) -> AsyncIterator[b.BuildEvent]:
        queue = EventQueue()
        house = BuildHouse(self._parts, job.context, queue, cancel)
        agents = Agents(options.agents, queue.put, queue.room)
        build = Build(self._tools, house, options, contexts, agents, queue.put, cancel)
        task = asyncio.get_running_loop().create_task(_with_agents(build, agents, inputs))
        task.add_done_callback(lambda _: queue.close())
        try:
            async for event in queue.read():
                yield event
            image = await task
            if image is not None:
                yield b.Built(image)
        finally:
            cancel.cancel("the caller hung up")
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled():
                task.exception()

    def prune(self, job: Job, command: b.PruneBuilds) -> b.Pruned:
        """Forget old entries, and delete what only they held."""
        pruned = self._tools.cache.prune(time.time_ns() - int(command.unused_seconds * 10**9))
        if command.caches:
            self._tools.workshop.caches.drop()
        return pruned


async def _with_agents(build: Build, agents: Agents, inputs: AsyncIterator[b.BuildInput]) -> Image | None:
    """Run a build; what the client goes on to say is from its SSH agents."""
    if not agents.ids:
        return await build.run()

    async def take() -> None:
        async for item in inputs:
            if not isinstance(item, b.AgentData):
                raise InvalidArgument("after the context, a build takes only what agents answer", field="message")
            agents.take(item)
        agents.close()

    try:
        async with asyncio.TaskGroup() as group:
            taking = group.create_task(take())
            image = await build.run()
            taking.cancel()
    except ExceptionGroup as several:
        raise first_of(several) from None
    return image


async def _listed(inputs: AsyncIterator[b.BuildInput], options: b.BuildOptions) -> dict[str, BuildContext]:
    """The contexts that the client lists, by name."""
    names = {"", *(name for name, image in options.contexts.items() if not image)} - options.repositories.keys()
    entries: dict[str, list[b.ContextEntry]] = {name: [] for name in names}
    async for item in inputs:
        if not isinstance(item, b.Listed):
            raise InvalidArgument("a file's contents came before the list of the context was complete", field="context")
        if item.entries and item.context not in entries:
            raise InvalidArgument(
                f"files were listed of a context {item.context[:80]!r}, which has none", field="list.context"
            )
        entries.get(item.context, []).extend(item.entries)
        if item.last:
            return {name: BuildContext(listed) for name, listed in entries.items()}
    raise InvalidArgument("the list of the context has no end", field="context")


class Receiver:
    """Files of contexts on their way into the content store. Blocking; a context manager."""

    def __init__(self, content: ContentStore, contexts: Iterable[BuildContext]) -> None:
        self._content = content
        self._sizes = {digest: size for context in contexts for digest, size in context.files().items()}
        self.lacking: set[str] = set()
        self._stack = ExitStack()
        self._digest = ""
        self._draft: Draft | None = None

    def begin(self) -> list[str]:
        """The digests that are lacking; an empty file need not be sent."""
        self.lacking = {digest for digest in self._sizes if not self._content.exists(digest)}
        empty = next((digest for digest in self.lacking if self._sizes[digest] == 0), "")
        if empty:
            self._piece(empty, b"")
        return sorted(self.lacking)

    def take(self, pieces: tuple[tuple[str, bytes], ...]) -> None:
        """Write pieces. Raises InvalidArgument for one that nobody wanted, DataLoss for a file that is not what was listed."""
        for digest, data in pieces:
            self._piece(digest, data)

    def _piece(self, digest: str, data: bytes) -> None:
        if digest not in self.lacking or self._digest not in ("", digest):
            raise InvalidArgument(f"contents of {digest[:80]} came, which were not wanted now", field="context")
        if self._draft is None:
            self._digest, self._draft = digest, self._stack.enter_context(self._content.draft())
        self._draft.write(data)
        if self._draft.size < self._sizes[digest]:
            return
        if self._draft.size > self._sizes[digest] or self._draft.digest != digest:
            raise DataLoss(
                "a file of the context is not what its digest says", hint="it changed while it was read: build again"
            )
        self._draft.commit()
        self.lacking.discard(digest)
        self._draft, self._digest = None, ""
        self._stack.close()

    def __enter__(self) -> Receiver:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()
