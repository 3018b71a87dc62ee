"""Blobs of a caller's sent to a registry in this process: they go on from where the registry has them when an upload breaks."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from moorage.server.cancel import CancelToken
from moorage.server.engine.piping import Asked
from moorage.server.errors import Unavailable
from moorage.server.registry import putting, remote
from moorage.server.registry.client import Client
from moorage.server.registry.config import RegistryConfig
from moorage.server.registry.manifest import Descriptor
from moorage.server.registry.reference import parse
from moorage.server.registry.upload import Sent
from tests.fakeregistry import FakeRegistry, Reply, Request, sha256

DATA = os.urandom(1_000_000)
PIECE = 70_000


class Caller:
    """Sends what it is asked for, and goes on with that until it is asked for something else."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self._loop = asyncio.get_running_loop()
        self._questions: asyncio.Queue[int] = asyncio.Queue()

    def ask(self, offset: int) -> None:
        self.asked.append(offset)
        self._loop.call_soon_threadsafe(self._questions.put_nowait, offset)

    async def pieces(self) -> AsyncIterator[tuple[int, bytes]]:
        while True:
            offset = await self._questions.get()
            while self._questions.empty() and offset < len(DATA):
                yield offset, DATA[offset : offset + PIECE]
                offset += PIECE


async def put(registry: FakeRegistry, directory: Path, *, chunk: int = 0) -> tuple[Sent, list[int]]:
    caller, cancel = Caller(), CancelToken()
    blob = Descriptor("", sha256(DATA), len(DATA))
    config = RegistryConfig(docker_config=str(directory / "none.json"), retries=2, upload_chunk=chunk)
    client = Client(config)
    content = Asked(caller.pieces(), caller.ask, blob.digest, blob.size, asyncio.get_running_loop(), cancel)
    reference = parse(f"{registry.host}/team/files")
    try:
        sent = await asyncio.to_thread(putting.put_blob, client, reference, blob, None, content, lambda _: None, cancel)
    finally:
        client.close()
    return sent, caller.asked


@pytest.mark.parametrize(("kept", "again"), [(0, 0), (300_000, 300_000)], ids=["nothing came", "a part came"])
def test_an_upload_that_breaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int, again: int) -> None:
    monkeypatch.setattr(remote, "_FIRST_PAUSE", 0.001)
    with FakeRegistry() as registry:

        def cut(request: Request) -> Reply | None:
            if request.method != "PUT" or registry.asked("digest=") != [request]:
                return None
            registry.uploads[request.path.partition("?")[0]] += request.body[:kept]
            return Reply(503)

        registry.intercept = cut
        assert asyncio.run(put(registry, tmp_path)) == (Sent.UPLOADED, [0, again])
        assert registry.blobs[sha256(DATA)] == DATA
        assert asyncio.run(put(registry, tmp_path)) == (Sent.EXISTS, [])


def test_an_upload_in_pieces(tmp_path: Path) -> None:
    with FakeRegistry() as registry:
        assert asyncio.run(put(registry, tmp_path, chunk=400_000)) == (Sent.UPLOADED, [0])
        assert registry.blobs[sha256(DATA)] == DATA
        assert [len(request.body) for request in registry.requests if request.body] == [400_000, 400_000, 200_000]


def test_a_registry_that_is_never_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_FIRST_PAUSE", 0.001)
    with FakeRegistry() as registry:
        registry.intercept = lambda request: Reply(503) if request.method == "PUT" else None
        with pytest.raises(Unavailable, match="it answers 503"):
            asyncio.run(put(registry, tmp_path))
