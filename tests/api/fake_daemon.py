"""A gRPC server that answers from a script and remembers what it was asked: the other side of the client's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import any_pb2, message_factory
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from moorage.v1 import build_pb2, image_pb2, network_pb2, registry_pb2, runtime_pb2, system_pb2

Answer = Callable[[Any, grpc.ServicerContext], Any]


class Refusal(Exception):
    """An error as the daemon sends it: code, message, and an ErrorInfo of reason and metadata."""

    def __init__(self, code: str, message: str, *, reason: str = "", **metadata: str) -> None:
        super().__init__(message)
        info = error_details_pb2.ErrorInfo(reason=reason or code, domain="moorage", metadata=metadata)
        detail = any_pb2.Any()
        detail.Pack(info)
        self.status = status_pb2.Status(code=code_pb2.Code.Value(code), message=message, details=[detail])


class FakeDaemon:
    """`script` maps an RPC's name to its answer: a message, a list of messages for a stream, a Refusal, or a function of request (for
    a two-way call: the iterator of requests) and context that gives one of these. `asked` is every request, in order.
    """

    def __init__(self, directory: Path) -> None:
        self.socket = directory / "daemon.sock"
        self.url = f"unix://{self.socket}"
        self.script: dict[str, Message | list[Message] | Refusal | Answer] = {}
        self.asked: list[tuple[str, Any]] = []

    def requests(self, name: str) -> list[Any]:
        """The requests of one RPC."""
        return [request for asked, request in self.asked if asked == name]

    @contextmanager
    def serving(self, address: str = "", credentials: grpc.ServerCredentials | None = None) -> Iterator[int]:
        """Listen on `socket`, or on `address`; gives the port."""
        with ThreadPoolExecutor(16) as pool:
            server = grpc.server(
                pool, options=(("grpc.max_receive_message_length", 16 << 20), ("grpc.so_reuseport", 0))
            )
            for module in (build_pb2, image_pb2, network_pb2, registry_pb2, runtime_pb2, system_pb2):
                for service in module.DESCRIPTOR.services_by_name.values():
                    handlers = {method.name: self._handler(method) for method in service.methods}
                    server.add_generic_rpc_handlers(
                        (grpc.method_handlers_generic_handler(service.full_name, handlers),)
                    )
            where = address or f"unix:{self.socket}"
            port = server.add_secure_port(where, credentials) if credentials else server.add_insecure_port(where)
            server.start()
            try:
                yield port
            finally:
                server.stop(None).wait()

    def _handler(self, method: Any) -> Any:
        streams = (method.client_streaming, method.server_streaming)
        make, behaviour = {
            (False, False): (grpc.unary_unary_rpc_method_handler, self._unary),
            (False, True): (grpc.unary_stream_rpc_method_handler, self._stream),
            (True, True): (grpc.stream_stream_rpc_method_handler, self._stream),
        }[streams]
        request_class = message_factory.GetMessageClass(method.input_type)
        return make(
            lambda request, context: behaviour(method.name, request, context),
            request_deserializer=request_class.FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )

    def _unary(self, name: str, request: Any, context: grpc.ServicerContext) -> Message:
        self.asked.append((name, request))
        answer = self._answer(name, request, context)
        assert isinstance(answer, Message)
        return answer

    def _stream(self, name: str, request: Any, context: grpc.ServicerContext) -> Iterator[Message]:
        if isinstance(request, Message):
            self.asked.append((name, request))
        else:
            request = self._remembered(name, request)
        try:
            yield from self._answer(name, request, context)
        except Refusal as refusal:
            context.abort_with_status(rpc_status.to_status(refusal.status))

    def _remembered(self, name: str, requests: Iterator[Message]) -> Iterator[Message]:
        for request in requests:
            self.asked.append((name, request))
            yield request

    def _answer(self, name: str, request: Any, context: grpc.ServicerContext) -> Any:
        answer = self.script.get(name, Refusal("UNIMPLEMENTED", f"{name} is not in the script"))
        if callable(answer):
            try:
                answer = answer(request, context)
            except Refusal as refusal:
                answer = refusal
        if isinstance(answer, Refusal):
            context.abort_with_status(rpc_status.to_status(answer.status))
        return answer
