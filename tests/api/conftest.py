"""A real gRPC server on a unix socket, its engine over a recording fake of the kernel. pytest-grpc's fixtures make channels and stubs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from moorage.server.config import Config
from moorage.server.daemon import Daemon, Rooms, assemble
from moorage.server.graph.graphdb import GraphDB
from moorage.server.libcontainer.cgroups import CgroupManager
from moorage.server.networkdriver.passive import PassiveDriver
from moorage.server.serving import serve
from moorage.v1.image_pb2_grpc import ImageServiceStub
from moorage.v1.network_pb2_grpc import NetworkServiceStub
from moorage.v1.runtime_pb2_grpc import RuntimeServiceStub
from moorage.v1.system_pb2_grpc import SystemServiceStub
from tests.fakekernel import IMAGE, FakeCgroups, FakeExecDriver, FakeGraph, FakePuller, no_task
from tests.fakerooms import fake_registry


@dataclass
class House:
    """The daemon under test and the fakes under it."""

    kernel: FakeExecDriver
    graph: FakeGraph
    puller: FakePuller
    daemon: Daemon
    root: Path


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    root = tmp_path_factory.mktemp("moorage")
    config = Config(root=str(root), state=str(root), shutdown_seconds=1)
    kernel, graph, puller = FakeExecDriver(), FakeGraph(), FakePuller(IMAGE)
    with ExitStack() as stack:
        db = GraphDB(root / "graph.db")
        stack.callback(db.close)
        rooms = Rooms(
            db=db,
            graph=cast(Any, graph),
            puller=cast(Any, puller),
            **fake_registry(stack),
            exec_driver=kernel,
            network_drivers={name: PassiveDriver(db, cast(Any, name)) for name in ("bridge", "host", "none")},
            cgroups=cast(CgroupManager, FakeCgroups()),
            run_task=no_task,
        )
        daemon = assemble(config, rooms, stack)
        stack.enter_context(_running(config, daemon))
        yield House(kernel, graph, puller, daemon, root)


class _running:
    """The daemon's event loop on a thread of its own."""

    def __init__(self, config: Config, daemon: Daemon) -> None:
        self._config, self._daemon = config, daemon
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()))

    def __enter__(self) -> None:
        self._thread.start()
        assert self._ready.wait(20)

    def __exit__(self, *_: object) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._daemon.api.stop)
        self._thread.join(20)
        assert not self._thread.is_alive()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._daemon.api.on_serving = self._ready.set
        await serve(self._config, self._daemon)


@pytest.fixture(scope="module")
def grpc_server(house: House) -> House:
    return house


@pytest.fixture(scope="module")
def grpc_addr(house: House) -> str:
    return f"unix:{house.root}/moorage.sock"


@pytest.fixture
def runtime(grpc_channel: Any) -> RuntimeServiceStub:
    stub: RuntimeServiceStub = RuntimeServiceStub(grpc_channel)
    return stub


@pytest.fixture
def images(grpc_channel: Any) -> ImageServiceStub:
    stub: ImageServiceStub = ImageServiceStub(grpc_channel)
    return stub


@pytest.fixture
def networks(grpc_channel: Any) -> NetworkServiceStub:
    stub: NetworkServiceStub = NetworkServiceStub(grpc_channel)
    return stub


@pytest.fixture
def system(grpc_channel: Any) -> SystemServiceStub:
    stub: SystemServiceStub = SystemServiceStub(grpc_channel)
    return stub
