"""The gRPC server: builds it, binds its addresses, and serves until told to stop. Serving is the engine's job `serveapi`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
from grpc import aio
from grpc_channelz.v1 import channelz
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from moorage.cri.v1 import api_pb2, api_pb2_grpc
from moorage.server.api import listen
from moorage.server.api.status import StatusInterceptor
from moorage.server.config import Config
from moorage.server.engine import commands
from moorage.server.engine.job import Job
from moorage.server.engine.metrics import Metrics
from moorage.server.streaming.server import StreamingServer
from moorage.v1 import (
    build_pb2,
    build_pb2_grpc,
    image_pb2,
    image_pb2_grpc,
    network_pb2,
    network_pb2_grpc,
    registry_pb2,
    registry_pb2_grpc,
    runtime_pb2,
    runtime_pb2_grpc,
    system_pb2,
    system_pb2_grpc,
)

log = logging.getLogger("moorage.api")

MAX_MESSAGE = 16 << 20
OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.so_reuseport", 0),
)
CHANNELZ = "grpc.channelz.v1.Channelz"
NAMES = tuple(
    module.DESCRIPTOR.services_by_name[name].full_name
    for module, name in (
        (image_pb2, "ImageService"),
        (build_pb2, "BuildService"),
        (runtime_pb2, "RuntimeService"),
        (network_pb2, "NetworkService"),
        (registry_pb2, "RegistryService"),
        (system_pb2, "SystemService"),
        (api_pb2, "ImageService"),
        (api_pb2, "RuntimeService"),
    )
)


class ApiServer:
    """The servicers behind their sockets."""

    def __init__(
        self,
        config: Config,
        metrics: Metrics,
        *,
        images: image_pb2_grpc.ImageServiceServicer,
        builds: build_pb2_grpc.BuildServiceServicer,
        runtime: runtime_pb2_grpc.RuntimeServiceServicer,
        network: network_pb2_grpc.NetworkServiceServicer,
        registry: registry_pb2_grpc.RegistryServiceServicer,
        system: system_pb2_grpc.SystemServiceServicer,
        cri_images: api_pb2_grpc.ImageServiceServicer,
        cri_runtime: api_pb2_grpc.RuntimeServiceServicer,
        streaming: StreamingServer,
    ) -> None:
        self._config = config
        self._streaming = streaming
        self._metrics = metrics
        self._services: dict[Any, Any] = {
            image_pb2_grpc.add_ImageServiceServicer_to_server: images,
            build_pb2_grpc.add_BuildServiceServicer_to_server: builds,
            runtime_pb2_grpc.add_RuntimeServiceServicer_to_server: runtime,
            network_pb2_grpc.add_NetworkServiceServicer_to_server: network,
            registry_pb2_grpc.add_RegistryServiceServicer_to_server: registry,
            system_pb2_grpc.add_SystemServiceServicer_to_server: system,
            api_pb2_grpc.add_ImageServiceServicer_to_server: cri_images,
            api_pb2_grpc.add_RuntimeServiceServicer_to_server: cri_runtime,
        }
        self._stop: asyncio.Event | None = None
        self.on_serving: Callable[[], None] = lambda: _tell_systemd("READY=1")
        self.on_stopping: Callable[[], None] = lambda: None
        """Called when no new call comes in any more."""

    def stop(self) -> None:
        """End `serve`; on the event loop."""
        if self._stop is not None:
            self._stop.set()

    async def serve(self, job: Job, command: commands.ServeApi) -> None:
        """Serve on every address until `stop`; running calls get the grace that the configuration says."""
        self._stop = asyncio.Event()
        server, checks = self._build()
        async with AsyncExitStack() as stack:
            await self._streaming.start()
            stack.push_async_callback(self._streaming.stop)
            bound = [
                address for url in command.listen for address in await self._bind(stack, server, listen.parse(url))
            ]
            await server.start()
            await self._set_health(checks, health_pb2.HealthCheckResponse.SERVING)
            log.info("serving", extra={"listen": bound})
            self.on_serving()
            await self._stop.wait()
            _tell_systemd("STOPPING=1")
            await self._set_health(checks, health_pb2.HealthCheckResponse.NOT_SERVING)
            stopped = asyncio.ensure_future(server.stop(self._config.shutdown_seconds))
            await asyncio.sleep(0)
            self.on_stopping()
            await stopped

    def _build(self) -> tuple[aio.Server, health.aio.HealthServicer]:
        server = aio.server(interceptors=(StatusInterceptor(self._metrics),), options=OPTIONS)
        generic: Any = _Generic(server)
        for add, servicer in self._services.items():
            add(servicer, generic)
        checks = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(checks, generic)
        names = [*NAMES, health.SERVICE_NAME, reflection.SERVICE_NAME]
        if self._config.channelz:
            channelz.add_channelz_servicer(generic)
            names.append(CHANNELZ)
        reflection.enable_server_reflection(names, generic)
        return server, checks

    async def _bind(self, stack: AsyncExitStack, server: aio.Server, address: listen.Address) -> Iterable[str]:
        if address.kind != "fd":
            bound = listen.add(server, address, self._config.tls, self._config.insecure_loopback)
            if address.kind == "unix":
                stack.callback(_unlink, address.path)
            return [bound]
        inner = f"{self._config.state}/activated.sock"
        listen.add(server, listen.Address("unix", f"unix://{inner}", path=inner), self._config.tls, False)
        stack.callback(_unlink, inner)
        passed = listen.activated(address.name)
        for sock in passed:
            await stack.enter_async_context(listen.relay(sock, inner))
        return [f"fd://{sock.fileno()}" for sock in passed]

    @staticmethod
    async def _set_health(checks: health.aio.HealthServicer, status: Any) -> None:
        for name in ("", *NAMES):
            await checks.set(name, status)


class _Generic:
    """A server to the code generated of services, which adds each of them twice: as methods to be looked up, and as registered ones.

    For each registered method gRPC has a task that waits for its next call, and for each call it goes over all of them, a hundred and more.
    """

    def __init__(self, server: aio.Server) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        self._server.add_generic_rpc_handlers(handlers)

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """They are looked up."""


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        Path(path).unlink()


def _tell_systemd(state: str) -> None:
    """sd_notify(3), where systemd asked for it."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.connect("\0" + path[1:] if path.startswith("@") else path)
        notify.send(state.encode())
