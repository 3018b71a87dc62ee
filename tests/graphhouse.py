"""A graph over a driver that keeps its layers in memory: what tests of the image store build in."""

from __future__ import annotations

import hashlib
import io
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from moorage.server.cancel import CancelToken
from moorage.server.graph.content import ContentStore
from moorage.server.graph.drivers.base import (
    UNLIMITED,
    Differences,
    DriverStatus,
    Footprint,
    Packed,
    RootfsMount,
    Sink,
    WritableLayer,
)
from moorage.server.graph.graph import Graph
from moorage.server.graph.graphdb import GraphDB
from moorage.server.graph.layers import chain_ids
from moorage.server.model import DiskUsage, Image

REPOSITORY = "docker.io/library/busybox"
LATEST = f"{REPOSITORY}:latest"


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class MemoryDriver:
    """Reads layers to their end and remembers them. `gate` holds every `apply` back until it is set."""

    name = "memory"
    independent_layers = True

    def __init__(self) -> None:
        self.stored: dict[str, bytes] = {}
        self.writable: dict[str, str] = {}
        self.changes: dict[str, bytes] = {}
        self.applied: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def apply(self, chain_id: str, parent: str, tar: BinaryIO, cancel: CancelToken) -> int:
        self.entered.set()
        self.gate.wait()
        data = b""
        while piece := tar.read(3):
            data += piece
        self.stored[chain_id] = data
        self.applied.append(chain_id)
        return len(data)

    def differences(self, chain_id: str, tar: BinaryIO, cancel: CancelToken) -> Differences:
        same = self.stored[chain_id] == tar.read()
        return Differences() if same else Differences(1, (("file", "has other contents"),))

    def remove_layer(self, chain_id: str) -> None:
        self.stored.pop(chain_id, None)

    def layers(self) -> set[str]:
        return set(self.stored)

    def create(self, container_id: str, parent: str, layer: WritableLayer = UNLIMITED) -> None:
        self.writable[container_id] = parent

    def view(self, chain_id: str) -> tuple[RootfsMount, ...]:
        return (RootfsMount("bind", f"/nowhere/{chain_id}"),)

    def export(self, container_id: str, sink: Sink, cancel: CancelToken) -> Packed:
        sink.write(self.changes[container_id])
        return Packed(len(self.changes[container_id]), 1, True)

    def rootfs(self, container_id: str) -> tuple[RootfsMount, ...]:
        return (RootfsMount("bind", self.writable[container_id], ("bind",)),)

    @contextmanager
    def snapshot(self, container_id: str, cancel: CancelToken, *, move: bool = False) -> Iterator[MemorySnapshot]:
        """What was put into `changes` is what the container has changed."""
        yield MemorySnapshot(self, self.writable[container_id], self.changes.get(container_id, b""))

    @contextmanager
    def layer_snapshot(self, chain_id: str, cancel: CancelToken) -> Iterator[MemorySnapshot]:
        yield MemorySnapshot(self, "", self.stored[chain_id])

    def remove(self, container_id: str) -> None:
        self.writable.pop(container_id, None)

    def containers(self) -> set[str]:
        return set(self.writable)

    def usages(self, container_ids: Sequence[str]) -> dict[str, DiskUsage]:
        return {each: DiskUsage(len(self.writable[each]), 1) for each in container_ids if each in self.writable}

    def footprint(self) -> Footprint:
        layers = {chain_id: len(data) for chain_id, data in self.stored.items()}
        return Footprint(layers, dict.fromkeys(self.writable, 1), 0)

    def status(self) -> DriverStatus:
        return DriverStatus("memory")

    def collect(self) -> int:
        return 1

    def close(self) -> None:
        self.gate.set()


class MemorySnapshot:
    def __init__(self, driver: MemoryDriver, parent: str, data: bytes) -> None:
        self.parent = parent
        self._driver, self._data = driver, data

    def pack(self, sink: Sink, cancel: CancelToken, *, clamp_seconds: int | None = None) -> Packed:
        sink.write(self._data)
        return Packed(len(self._data), 1 if self._data else 0, False)

    def commit(self, chain_id: str) -> None:
        self._driver.stored[chain_id] = self._data


class House:
    """A graph and what it stands on; `reopen` as after a restart of the daemon."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.driver = MemoryDriver()
        self.content = ContentStore(root / "content")
        self.db = GraphDB(root / "graph.db")
        self.graph = Graph(root, self.db, self.content, self.driver)

    def reopen(self) -> None:
        self.db.close()
        self.db = GraphDB(self.root / "graph.db")
        self.graph = Graph(self.root, self.db, self.content, self.driver)

    def store(self, data: bytes) -> str:
        name = digest(data)
        if not self.content.exists(name):
            with self.content.writer(name, len(data), durable=False) as writer:
                writer.write(data)
                writer.commit()
        return name

    def apply(self, *layers: bytes) -> list[str]:
        diff_ids = [digest(layer) for layer in layers]
        parent = ""
        for chain_id, diff_id, layer in zip(chain_ids(diff_ids), diff_ids, layers, strict=True):
            self.graph.apply_layer(chain_id, diff_id, parent, io.BytesIO(layer), CancelToken())
            parent = chain_id
        return diff_ids

    def image(self, *layers: bytes, tags: tuple[str, ...] = (), command: str = "sh") -> Image:
        config = json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "created": "2024-01-02T03:04:05Z",
                "config": {"Cmd": [command], "Labels": {"layers": str(len(layers))}},
                "rootfs": {"type": "layers", "diff_ids": self.apply(*layers)},
            }
        ).encode()
        self.store(config)
        manifest = self.store(b"manifest of " + config)
        digests = tuple(f"{tag.rpartition(':')[0]}@{manifest}" for tag in tags)
        return self.graph.register(config=config, manifest_digest=manifest, tags=tags, digests=digests)

    def events(self) -> list[tuple[str, str]]:
        return [(event.action, event.name) for event in self.db.events(0, 1000)]
