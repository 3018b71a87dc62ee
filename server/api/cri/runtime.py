"""CRI's RuntimeService: its RPCs, put together from the modules that answer them."""

from __future__ import annotations

from moorage.cri.v1 import api_pb2_grpc
from moorage.server.api.cri.containers import ContainerCalls
from moorage.server.api.cri.events import EventCalls
from moorage.server.api.cri.metrics import MetricCalls
from moorage.server.api.cri.pods import PodCalls
from moorage.server.api.cri.status import StatusCalls
from moorage.server.api.cri.streaming import StreamCalls


class RuntimeService(
    PodCalls,
    ContainerCalls,
    StreamCalls,
    MetricCalls,
    EventCalls,
    StatusCalls,
    api_pb2_grpc.RuntimeServiceServicer,
):
    """See protos/moorage/cri/v1/api.proto."""
