"""A daemon on the test's own event loop, asked by the engine's commands: for what no API of ours tells, or not yet."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, cast

from moorage.server.config import Config
from moorage.server.daemon import Daemon, Rooms, assemble
from moorage.server.engine import commands
from moorage.server.engine import podcommands as pods
from moorage.server.engine.job import Context
from moorage.server.model import Container, ContainerConfig, PodConfig
from moorage.server.serving import serve

CALLER = Context("test")
_numbers = itertools.count()


class EngineHouse:
    """`rooms` makes what is under the engine, at each start of the daemon anew."""

    image = "base"

    def __init__(self, root: Path, rooms: Callable[[Config, ExitStack], Rooms]) -> None:
        self.root = root
        self.config = Config(root=str(root), state=str(root), shutdown_seconds=1)
        self._rooms = rooms
        self.daemon: Daemon

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """From a start of the daemon to its end, which containers outlive."""
        with ExitStack() as stack:
            self.daemon = assemble(self.config, self._rooms(self.config, stack), stack)
            serving = asyncio.Event()
            self.daemon.api.on_serving = serving.set
            task = asyncio.create_task(serve(self.config, self.daemon))
            waiting = asyncio.create_task(serving.wait())
            await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            try:
                yield
            finally:
                self.daemon.api.stop()
                await task

    async def run(self, command: Any) -> Any:
        return await self.daemon.engine.run(command, CALLER)

    async def pod(self, **fields: Any) -> str:
        return cast(str, await self.run(pods.RunPod(pod_config(**fields))))

    async def container(self, pod_id: str, *command: str, name: str = "main", **fields: Any) -> str:
        config = ContainerConfig(self.image, command=command or ("sleep",), metadata_name=name, **fields)
        return cast(str, (await self.run(commands.Create("", config, pod_id))).id)

    async def started(self, pod_id: str, *command: str, **fields: Any) -> str:
        container = await self.container(pod_id, *command, **fields)
        await self.run(commands.Start(container))
        return container

    async def inspect(self, container: str) -> Container:
        return cast(Container, await self.run(commands.InspectContainer(container)))

    async def state(self, container: str) -> str:
        return (await self.inspect(container)).state

    def events(self) -> list[tuple[str, str, str]]:
        return [(event.kind, event.action, event.id) for event in self.daemon.rooms.db.events(0, 1000)]


def pod_config(**fields: Any) -> PodConfig:
    return PodConfig(**{"name": f"pod{next(_numbers)}", "namespace": "default", "uid": "u", **fields})
