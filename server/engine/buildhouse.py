"""The engine as a build sees it: images by reference, and containers for RUN steps by the same way as any other container."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from moorage.server.builder.base import Output, RunSpec
from moorage.server.builder.progress import BuildEvent, Files
from moorage.server.cancel import CancelToken
from moorage.server.engine import commands, imagecommands
from moorage.server.engine.containers import Containers
from moorage.server.engine.engine import Engine, Lane
from moorage.server.engine.images import Images
from moorage.server.engine.job import Context
from moorage.server.engine.lifecycle import Lifecycle, merged_env
from moorage.server.engine.piping import produced
from moorage.server.engine.places import Places
from moorage.server.errors import Internal, NotFound
from moorage.server.execdriver import spec as oci
from moorage.server.graph.drivers.base import Sink
from moorage.server.model import (
    Container,
    ContainerConfig,
    ExitStatus,
    Image,
    ImageConfig,
    NetworkAttachment,
    Resources,
)
from moorage.server.registry.buildcache import BuildCaches, CachedStep, RemoteCache
from moorage.server.registry.progress import PullProgress, PushProgress

ROOM = 256
"""Events that may wait for the reader before a step's output does."""


class EventQueue:
    """A build's progress on its way to whoever reads it."""

    def __init__(self) -> None:
        self._events: deque[BuildEvent] = deque()
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._closed = False

    def put(self, event: BuildEvent) -> None:
        self._events.append(event)
        self._changed.set()
        if len(self._events) >= ROOM:
            self._room.clear()

    async def hand_over(self, event: BuildEvent) -> None:
        """Put, and wait until the reader has come to it."""
        self.put(event)
        self._room.clear()
        await self._room.wait()

    async def room(self) -> None:
        """Wait until the reader has caught up."""
        await self._room.wait()

    def close(self) -> None:
        """Nothing more comes."""
        self._closed = True
        self._changed.set()

    async def read(self) -> AsyncIterator[BuildEvent]:
        """The events until the end."""
        while True:
            while self._events:
                event = self._events.popleft()
                if len(self._events) < ROOM:
                    self._room.set()
                yield event
            if self._closed:
                return
            self._changed.clear()
            await self._changed.wait()


@dataclass(frozen=True)
class Parts:
    """The parts of the engine that builds use."""

    engine: Engine
    images: Images
    containers: Containers
    lifecycle: Lifecycle
    places: Places
    caches: BuildCaches


class BuildHouse:
    """One build's; see `builder.base.House`."""

    def __init__(self, parts: Parts, context: Context, queue: EventQueue, cancel: CancelToken) -> None:
        self._parts = parts
        self._context = context
        self._queue = queue
        self._cancel = cancel

    async def image(self, reference: str, *, pull: bool, status: Callable[[str], None]) -> Image:
        if not pull:
            try:
                return self._parts.images.get(reference)
            except NotFound as error:
                status(f"{error.message}: pulling")
        stages: dict[str, str] = {}
        async with aclosing(self._parts.engine.stream(imagecommands.Pull(reference), self._context)) as steps:
            async for step in steps:
                if step.image is not None:
                    return step.image
                if stages.get(step.digest) != step.stage:
                    stages[step.digest] = step.stage
                    status(f"{step.digest[7:19] or reference} {step.stage}")
        raise Internal(f"pull of {reference} ended without an image")

    async def find_cache(self, reference: str) -> RemoteCache | None:
        name = self._parts.images.reference(reference)
        found: RemoteCache | None = await self.blocking(self._parts.caches.find, name, self._cancel, lane=Lane.TRANSFER)
        return found

    async def fetch_cached(self, cache: RemoteCache, step: CachedStep, status: Callable[[str], None]) -> None:
        tell = self._telling(status)
        await self.blocking(cache.fetch, step, tell, self._cancel, lane=Lane.TRANSFER)

    async def export_cache(self, reference: str, steps: Sequence[CachedStep], status: Callable[[str], None]) -> int:
        name, tell = self._parts.images.reference(reference), self._telling(status)
        return int(await self.blocking(self._parts.caches.export, name, steps, tell, self._cancel, lane=Lane.TRANSFER))

    @staticmethod
    def _telling(status: Callable[[str], None]) -> Callable[[PullProgress | PushProgress], None]:
        """Takes progress on a thread, and tells of the stages that something enters."""
        loop, stages = asyncio.get_running_loop(), dict[str, str]()

        def tell(step: PullProgress | PushProgress) -> None:
            stage = step.stage.name.lower()
            if step.digest and stages.get(step.digest) != stage:
                stages[step.digest] = stage
                loop.call_soon_threadsafe(status, f"{step.digest[7:19]} {stage}")

        return tell

    async def send(self, produce: Callable[[Sink, CancelToken], None]) -> None:
        async with aclosing(produced(self._parts.engine, Lane.DISK, produce, self._cancel)) as pieces:
            async for piece in pieces:
                await self._queue.hand_over(Files(piece))

    @asynccontextmanager
    async def container(self, spec: RunSpec, output: Output) -> AsyncIterator[Callable[[], Any]]:
        await self.blocking(self._add, spec)
        try:
            yield lambda: self._execute(spec.id, output)
        finally:
            await asyncio.shield(self._remove(spec.id))

    async def blocking(self, function: Callable[..., Any], *args: Any, lane: Lane = Lane.DISK) -> Any:
        task = asyncio.ensure_future(self._parts.engine.blocking(lane, function, *args))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._cancel.cancel("the build was cancelled")
            await asyncio.wait({task})
            if not task.cancelled():
                task.exception()
            raise

    def _add(self, spec: RunSpec) -> None:
        config = ContainerConfig(
            image=spec.image,
            network=NetworkAttachment(network=spec.network or "bridge", extra_hosts=spec.extra_hosts),
            mounts=spec.mounts,
            resources=Resources(rlimits=spec.rlimits),
        )
        oci.check(config)
        container = Container(
            id=spec.id,
            name=f"build-{spec.id[:12]}",
            image_id="",
            config=config,
            command=spec.args,
            env=merged_env(ImageConfig(), spec.env),
            user=spec.user,
            cwd=spec.working_dir,
            stop_signal="SIGKILL",
            state="created",
            created_ns=time.time_ns(),
            mounted_images=spec.mounted,
            transient=True,
        )
        self._parts.lifecycle.private_env[spec.id] = spec.private_env
        self._parts.places.directory(spec.id).mkdir(mode=0o700)
        self._parts.containers.add(container)

    async def _execute(self, id: str, output: Output) -> int:
        """Run it to its end; a reader that is slow slows it."""
        attach = commands.Attach(id, inputs=_nothing(), start=True, lossless=True)
        async with aclosing(self._parts.engine.stream(attach, self._context)) as items:
            async for item in items:
                match item:
                    case commands.Chunk(stream, data):
                        output(stream, data)
                        await self._queue.room()
                    case ExitStatus():
                        return item.exit_code
        raise Internal(f"the streams of container {id} ended before it did")

    async def _remove(self, id: str) -> None:
        self._parts.lifecycle.private_env.pop(id, None)
        await self._parts.lifecycle.end(id)
        await self._parts.lifecycle.discard(id)


async def _nothing() -> AsyncIterator[commands.Input]:
    none: tuple[commands.Input, ...] = ()
    for item in none:
        yield item
