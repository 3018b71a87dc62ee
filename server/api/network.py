"""NetworkService: protobuf to commands and back."""

from __future__ import annotations

from typing import Any

from grpc import aio

from moorage.server.api import context as ctx
from moorage.server.api import convert
from moorage.server.engine import commands
from moorage.server.engine.engine import Engine
from moorage.v1 import network_pb2 as pb
from moorage.v1 import network_pb2_grpc

Ctx = aio.ServicerContext[Any, Any]


class NetworkService(network_pb2_grpc.NetworkServiceServicer):
    """See protos/moorage/v1/network.proto."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def CreateNetwork(self, request: pb.CreateNetworkRequest, context: Ctx) -> pb.Network:
        command = commands.CreateNetwork(
            request.name, request.subnet, request.gateway, request.internal, dict(request.labels)
        )
        network = await self._engine.run(command, ctx.of(context))
        return convert.network(commands.NetworkView(network, ()))

    async def RemoveNetwork(self, request: pb.RemoveNetworkRequest, context: Ctx) -> pb.RemoveNetworkResponse:
        await self._engine.run(commands.RemoveNetwork(request.network), ctx.of(context))
        return pb.RemoveNetworkResponse()

    async def ListNetworks(self, request: pb.ListNetworksRequest, context: Ctx) -> pb.ListNetworksResponse:
        views = await self._engine.run(commands.ListNetworks(), ctx.of(context))
        chosen, token = ctx.page(views, lambda view: (view.network.name,), request.page_size, request.page_token)
        return pb.ListNetworksResponse(networks=[convert.network(view) for view in chosen], next_page_token=token)

    async def GetNetwork(self, request: pb.GetNetworkRequest, context: Ctx) -> pb.Network:
        return convert.network(await self._engine.run(commands.InspectNetwork(request.network), ctx.of(context)))
