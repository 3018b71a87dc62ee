"""The rooms that talk to registries, for an engine under test that is not to talk to any but those on loopback."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from moorage.server.cancel import CancelToken
from moorage.server.errors import MoorageError
from moorage.server.registry.buildcache import BuildCaches
from moorage.server.registry.client import Client
from moorage.server.registry.config import RegistryConfig
from moorage.server.registry.copying import Copier
from moorage.server.registry.indexes import Indexer
from moorage.server.registry.progress import PushProgress, PushStage
from moorage.server.registry.pull import Puller
from moorage.server.registry.push import Pushed
from tests.memorygraph import MemoryGraph


class FakePusher:
    """Answers what it was given to push; `fail` raises instead."""

    def __init__(self) -> None:
        self.fail: MoorageError | None = None
        self.asked: list[tuple[Any, ...]] = []

    def push(
        self, reference: Any, subject: Any, auth: Any, progress: Callable[[PushProgress], None], cancel: CancelToken
    ) -> Pushed:
        self.asked.append((str(reference), subject, auth))
        progress(PushProgress("sha256:aa", PushStage.UPLOADING, 5, 10))
        if self.fail:
            raise self.fail
        return Pushed(str(reference), "sha256:" + "b" * 64, 500, "application/vnd.oci.image.manifest.v1+json")


def fake_registry(stack: ExitStack) -> dict[str, Any]:
    """The rooms that talk to registries: a client that finds none but those on loopback, and pushers that push nothing."""
    client = Client(RegistryConfig(docker_config="/nonexistent/config.json", retries=0))
    stack.callback(client.close)
    return {
        "registry": client,
        "pusher": FakePusher(),
        "indexer": Indexer(Puller(MemoryGraph(), client).shared, client),
        "copier": Copier(Puller(MemoryGraph(), client).shared, client),
        "caches": BuildCaches(Puller(MemoryGraph(), client).shared, client),
    }
