"""A daemon on the real kernel with an image to run pods from."""

from __future__ import annotations

import hashlib
import io
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from moorage.server.cancel import CancelToken
from moorage.server.config import Config
from moorage.server.daemon import Rooms, furnish
from moorage.server.engine import commands
from moorage.server.engine import podcommands as pods
from moorage.server.execdriver.spawner_client import SpawnerClient
from moorage.server.graph.graph import Graph
from moorage.server.model import LogConfig
from tests.enginehouse import EngineHouse
from tests.images import BuiltImage, build_busybox, busybox_layer, tar_layer


def real_rooms(config: Config, stack: ExitStack) -> Rooms:
    """As the process around a daemon makes them."""
    spawner = SpawnerClient(config.spares)
    stack.callback(spawner.close)
    return furnish(config, spawner, stack)


class House(EngineHouse):
    """A daemon with an image of busybox, whose second layer has /srv/site/index and the user bob, who is also of the group staff."""

    def __init__(self) -> None:
        super().__init__(Path(tempfile.mkdtemp(prefix="moorage-")), real_rooms)
        self.logs = self.root / "logs"

    async def sh(self, pod_id: str, script: str, name: str = "main", **fields: Any) -> str:
        """A container that runs a script, started."""
        log = LogConfig(0, 0, str(self.logs / f"{name}.log"))
        return await self.started(pod_id, "sh", "-c", script, name=name, log=log, **fields)

    async def says(self, pod_id: str, script: str, name: str = "main", **fields: Any) -> str:
        """What a script prints in a container of its own."""
        container = await self.sh(pod_id, script, name, **fields)
        await self.run(commands.Wait(container))
        return self.logged(name)

    async def exec(self, container: str, script: str, timeout: float = 20) -> str:
        done = await self.run(commands.ExecSync(container, ("sh", "-c", script), timeout))
        return str((done.stdout + done.stderr).decode().strip())

    def logged(self, name: str) -> str:
        lines = (self.logs / f"{name}.log").read_text().splitlines()
        return "\n".join(line.split(" ", 3)[3] for line in lines)

    @classmethod
    @asynccontextmanager
    async def temporary(cls) -> AsyncIterator[House]:
        """One that has the image and does not run; at the end nothing of its pods is left."""
        house = cls()
        more = tar_layer(
            {
                "etc/passwd": b"root:x:0:0::/root:/bin/sh\nbob:x:1000:1000::/home/bob:/bin/sh\n",
                "etc/group": b"root:x:0:\nbob:x:1000:\nstaff:x:50:bob\n",
                "srv/site/index": b"hello\n",
            }
        )
        async with house.running():
            image = build_busybox(extra_layers=(more,))
            load(house.daemon.rooms.graph, image, (busybox_layer(), more), "docker.io/library/base:latest")
        try:
            yield house
        finally:
            async with house.running():
                for pod in await house.run(pods.ListPods()):
                    await house.run(pods.RemovePod(pod.id))
            shutil.rmtree(house.root)


def load(graph: Graph, image: BuiltImage, tars: tuple[bytes, ...], tag: str) -> None:
    """Put an image into a graph without a registry."""
    chain = ""
    for diff_id, tar in zip(image.diff_ids, tars, strict=True):
        parent, chain = chain, diff_id if not chain else _chained(chain, diff_id)
        graph.apply_layer(chain, diff_id, parent, io.BytesIO(tar), CancelToken())
    graph.register(config=image.config.data, manifest_digest=image.manifest.digest, tags=(tag,))


def _chained(parent: str, diff_id: str) -> str:
    return "sha256:" + hashlib.sha256(f"{parent} {diff_id}".encode()).hexdigest()
