"""Fixtures for tests of the registry client: a misbehaving registry, and an impatient client of it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from moorage.server.cancel import CancelToken
from moorage.server.registry import remote
from moorage.server.registry.client import Client, Repository
from moorage.server.registry.config import HostConfig, RegistryConfig
from moorage.server.registry.credentials import RegistryAuth
from moorage.server.registry.manifest import Descriptor
from moorage.server.registry.reference import parse
from tests.fakeregistry import FakeRegistry, Reply, Request, sha256
from tests.images import build_image, tar_layer

IMAGE = build_image([tar_layer({"a": b"a"})])
DATA = random.Random(1).randbytes(5 << 20)
BLOB = Descriptor("application/octet-stream", sha256(DATA), len(DATA))
AUTH = RegistryAuth("me", "s3cret")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_FIRST_PAUSE", 0.001)


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as server:
        server.add("team/app", "latest", IMAGE)
        server.blobs[BLOB.digest] = DATA
        yield server


@pytest.fixture
def config(registry: FakeRegistry, tmp_path: Path) -> RegistryConfig:
    hosts = (HostConfig(registry.host, plain_http=True),)
    return RegistryConfig(hosts=hosts, docker_config=str(tmp_path / "none.json"), retries=3, read_timeout=30)


Open = Callable[..., Repository]


@pytest.fixture
def open_repository(registry: FakeRegistry, config: RegistryConfig) -> Iterator[Open]:
    clients: list[Client] = []

    def make(auth: RegistryAuth | None = None, cancel: CancelToken | None = None, **changes: object) -> Repository:
        clients.append(Client(replace(config, **changes)))  # type: ignore[arg-type]
        return clients[-1].repository(parse(f"{registry.host}/team/app"), auth, cancel or CancelToken())

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def repository(open_repository: Open) -> Repository:
    return open_repository()


def read(repository: Repository, blob: Descriptor = BLOB, offset: int = 0) -> bytes:
    with repository.open_blob(blob, offset) as reader:
        parts = []
        while part := reader.chunk():
            parts.append(part)
    return b"".join(parts)


def once(reply: Reply, part: str = "/v2/") -> Callable[[Request], Reply | None]:
    """Answer the first request of each path so, then as a registry should."""
    return lambda request: reply if part in request.path and request.count == 1 else None
