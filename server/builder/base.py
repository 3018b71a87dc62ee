"""What the builder needs of the rest of the house: images by reference, and containers for its RUN steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import astuple, dataclass, field
from typing import Any, Literal, Protocol

from moorage.server.cancel import CancelToken
from moorage.server.graph.drivers.base import Sink
from moorage.server.model import Image, Mount, Rlimit
from moorage.server.registry.buildcache import CachedStep, RemoteCache

Output = Callable[[Literal["stdout", "stderr"], bytes], None]
"""Takes what a command writes, on the event loop."""


@dataclass(frozen=True)
class RunSpec:
    """A container for one RUN. Its root file system is the graph driver's container `id`, and stays when it has run.

    `private_env` goes to the process only, and is written nowhere. `mounted` are the images, or chains of layers, that the
    mounts of kind `image` show, in their order.
    """

    id: str
    image: str
    args: tuple[str, ...]
    env: tuple[str, ...]
    private_env: tuple[str, ...]
    working_dir: str
    user: str
    network: str
    mounts: tuple[Mount, ...] = ()
    mounted: tuple[str, ...] = ()
    extra_hosts: tuple[str, ...] = ()
    rlimits: tuple[Rlimit, ...] = ()


class House(Protocol):
    """The rest of the house, as a build sees it."""

    async def image(self, reference: str, *, pull: bool, status: Callable[[str], None]) -> Image:
        """An image, pulled when it is not here, or in any case with `pull`; `status` is told of the progress."""
        ...

    async def find_cache(self, reference: str) -> RemoteCache | None:
        """The build cache at a name in a registry; None when an image is there."""
        ...

    async def fetch_cached(self, cache: RemoteCache, step: CachedStep, status: Callable[[str], None]) -> None:
        """Have the layer of a step in the graph."""
        ...

    async def export_cache(self, reference: str, steps: Sequence[CachedStep], status: Callable[[str], None]) -> int:
        """Leave a cache in a registry; answers how many steps it lacks for want of their layers."""
        ...

    async def send(self, produce: Callable[[Sink, CancelToken], None]) -> None:
        """Send the client what a blocking function writes of the target's files."""
        ...

    def container(self, spec: RunSpec, output: Output) -> AbstractAsyncContextManager[Callable[[], Any]]:
        """A container, which is gone after the block. What the block gets runs it to its end, and answers its exit code."""
        ...

    async def blocking(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run a blocking function on a thread; when this is cancelled, the function has ended all the same."""
        ...


@dataclass(frozen=True)
class CacheExport:
    """Where to leave the cache in a registry: the steps of the target, or (`all_stages`) of all that was built."""

    reference: str
    all_stages: bool = False


@dataclass(frozen=True)
class BuildOptions:
    """What is asked for besides Dockerfile and context.

    `contexts` are names that mean an image, or (empty) files; `repositories` are URLs of those files that are fetched, by name, that of
    the build's own context empty: then an empty `dockerfile` is the one at `file` there. `tags` are canonical;
    `secrets` are in memory only. `agents` are the IDs of SSH agents that the client forwards. With `files` the target's files are sent, and
    without tags no image is made. With `check` nothing is built: the Dockerfile is looked at.
    """

    dockerfile: bytes
    file: str = "Dockerfile"
    target: str = ""
    arguments: Mapping[str, str] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, bytes] = field(default_factory=dict)
    agents: frozenset[str] = frozenset()
    network: str = ""
    extra_hosts: tuple[str, ...] = ()
    rlimits: tuple[Rlimit, ...] = ()
    shm_size: int = 0
    no_cache: bool = False
    pull: bool = False
    cache_from: tuple[str, ...] = ()
    cache_to: tuple[CacheExport, ...] = ()
    inline_cache: bool = False
    files: bool = False
    check: bool = False
    contexts: Mapping[str, str] = field(default_factory=dict)
    repositories: Mapping[str, str] = field(default_factory=dict)

    @property
    def around(self) -> dict[str, object]:
        """What RUN steps find around them, for their keys: only what is not as usual."""
        given = {"hosts": self.extra_hosts, "rlimits": [astuple(each) for each in self.rlimits], "shm": self.shm_size}
        return {name: value for name, value in given.items() if value}

    @property
    def epoch(self) -> int | None:
        """SOURCE_DATE_EPOCH, where it is a number."""
        text = self.arguments.get("SOURCE_DATE_EPOCH", "")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 12 else None
