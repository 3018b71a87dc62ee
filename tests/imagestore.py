"""An image store in the test's own process, with a real driver: pulls into it, pushes from it, and what its images look like."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from moorage.server.cancel import CancelToken
from moorage.server.graph import drivers
from moorage.server.graph.confined import ConfinedRunner
from moorage.server.graph.content import ContentStore
from moorage.server.graph.graph import Graph
from moorage.server.graph.graphdb import GraphDB
from moorage.server.model import Image, Platform
from moorage.server.registry.client import Client
from moorage.server.registry.config import RegistryConfig
from moorage.server.registry.indexes import Indexer
from moorage.server.registry.progress import PullProgress, PushProgress
from moorage.server.registry.pull import Puller
from moorage.server.registry.push import Pushed, Pusher
from moorage.server.registry.reference import parse
from tests.archives import in_rootfs


@dataclass
class ImageStore:
    """`steps` is what pulls and pushes told. Nothing is read of a Docker client's configuration."""

    root: Path
    graph: Graph
    client: Client
    steps: list[PullProgress | PushProgress] = field(default_factory=list)

    @classmethod
    @contextmanager
    def opened(
        cls, root: Path, confined: ConfinedRunner, config: RegistryConfig | None = None, driver: str = "overlay"
    ) -> Iterator[ImageStore]:
        root.mkdir(mode=0o700)
        db = GraphDB(root / "graph.db")
        graph = Graph(root, db, ContentStore(root / "content"), drivers.choose(driver, root, confined))
        client = Client(replace(config or RegistryConfig(retries=1), docker_config=str(root / "none.json")))
        try:
            yield cls(root, graph, client)
        finally:
            client.close()
            graph.close()
            db.close()

    @property
    def puller(self) -> Puller:
        return Puller(self.graph, self.client)

    @property
    def indexer(self) -> Indexer:
        return Indexer(self.puller.shared, self.client)

    def pull(self, reference: str, platform: Platform | None = None) -> Image:
        wanted = platform or Platform()
        return self.puller.pull(parse(reference), wanted, None, self.steps.append, CancelToken())

    def push(self, image: Image, reference: str) -> Pushed:
        pusher = Pusher(self.puller.shared, self.client)
        return pusher.push(parse(reference).with_default_tag(), image, None, self.steps.append, CancelToken())

    def tree(self, image: Image) -> dict[str, dict[str, Any]]:
        """The image's files, as `archives.describe_tree` tells of them."""
        name = f"c{len(self.graph.driver.containers())}"
        self.graph.create_rootfs(name, image.id)
        return in_rootfs(self.graph.rootfs(name), self.root / "mnt")
