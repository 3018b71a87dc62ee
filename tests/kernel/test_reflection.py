"""A client that has no proto files, only reflection, lists the services and runs a container to its end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from tests.daemon import Daemon

pytestmark = pytest.mark.kernel

IMAGE = "registry.example/test/busybox:1"


def serialize(message: Message) -> bytes:
    return message.SerializeToString()


class Reflected:
    """Calls by name, with JSON in and out, as grpcurl does."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel
        self._database = ProtoReflectionDescriptorDatabase(channel)
        self._pool = DescriptorPool(self._database)

    def services(self) -> list[str]:
        return sorted(self._database.get_services())

    def call(self, service: str, method: str, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        found: MethodDescriptor = self._pool.FindServiceByName(service).methods_by_name[method]
        answer = message_factory.GetMessageClass(found.output_type)
        message = json_format.ParseDict(request, message_factory.GetMessageClass(found.input_type)())
        path, coding = f"/{service}/{method}", (serialize, answer.FromString)
        if found.server_streaming:
            answers: Iterator[Message] = self._channel.unary_stream(path, *coding)(message)
        else:
            answers = iter([self._channel.unary_unary(path, *coding)(message)])
        for each in answers:
            yield json_format.MessageToDict(each, preserving_proto_field_name=True)


@pytest.fixture
def reflected(daemon: Daemon) -> Iterator[Reflected]:
    with grpc.insecure_channel(daemon.url) as channel:
        yield Reflected(channel)


def test_the_services_are_listed(reflected: Reflected) -> None:
    ours = ("ImageService", "RuntimeService", "NetworkService", "SystemService")
    assert {f"moorage.v1.{name}" for name in ours} | {"grpc.health.v1.Health"} <= set(reflected.services())


def test_health_is_served(reflected: Reflected) -> None:
    assert list(reflected.call("grpc.health.v1.Health", "Check", {})) == [{"status": "SERVING"}]


def test_a_container_runs_to_its_end_by_reflection_alone(reflected: Reflected) -> None:
    runtime = "moorage.v1.RuntimeService"
    config = {"image": IMAGE, "command": ["sh", "-c", "echo reflected; exit 3"]}
    (made,) = reflected.call(runtime, "CreateContainer", {"config": config})
    reference = {"id": made["id"]}
    (started,) = reflected.call(runtime, "StartContainer", reference)
    assert started["pid"] > 1
    (ended,) = reflected.call(runtime, "WaitContainer", reference)
    assert ended["exit_code"] == 3
    logged = list(reflected.call(runtime, "GetLogs", reference))
    assert "cmVmbGVjdGVkCg==" in str(logged)  # "reflected\n" in base64
    assert list(reflected.call(runtime, "RemoveContainer", reference)) == [{}]
