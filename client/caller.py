"""Calls on one channel, with their failures as MoorageError: what the parts of the SDK share."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any, BinaryIO, Protocol, TypeVar

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from moorage.client.connection import Address, explain
from moorage.client.errors import MoorageError, Unavailable, from_rpc_error
from moorage.client.streams import Stream

Request = TypeVar("Request")
Response = TypeVar("Response")
Page = TypeVar("Page", bound="_Page")


class _Page(Protocol):
    next_page_token: str


class Caller:
    """Makes calls on one channel and turns their failures into MoorageError."""

    def __init__(self, channel: grpc.Channel, address: Address, timeout: float | None) -> None:
        self.channel = channel
        self.address = address
        self.timeout = timeout

    def error(self, error: grpc.RpcError) -> MoorageError:
        mapped = from_rpc_error(error)
        if isinstance(mapped, Unavailable) and mapped.reason == mapped.code:
            return explain(self.address, mapped)
        return mapped

    def unary(
        self, method: grpc.UnaryUnaryMultiCallable[Request, Response], request: Request, *, forever: bool = False
    ) -> Response:
        try:
            return method(request, timeout=None if forever else self.timeout)
        except grpc.RpcError as error:
            raise self.error(error) from error

    def pages(self, method: grpc.UnaryUnaryMultiCallable[Any, Page], request: Any) -> Iterator[Page]:
        while True:
            page = self.unary(method, request)
            yield page
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def stream(self, method: grpc.UnaryStreamMultiCallable[Request, Response], request: Request) -> Stream[Response]:
        return Stream(method(request), self.error)


def timestamp(moment: datetime | None) -> Timestamp | None:
    """`moment` as a Timestamp; one without time zone is in local time."""
    if moment is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(moment.astimezone())
    return stamp


def pieces(file: BinaryIO, size: int = 1 << 20) -> Iterator[bytes]:
    """A file's bytes in pieces that fit a message."""
    while piece := file.read(size):
        yield piece
