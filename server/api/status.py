"""The one place where the daemon's errors become gRPC statuses, and where RPCs are counted.

Every error carries `google.rpc.ErrorInfo` (reason, domain `moorage`, metadata with the stage, path, errno and hint) in
`grpc-status-details-bin`, as google.rpc.Status says.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from itertools import accumulate, takewhile
from typing import Any, NoReturn

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc import aio

from moorage.server.engine.metrics import Metrics
from moorage.server.errors import Internal, MoorageError, NotFound, PermissionDenied, ResourceExhausted

log = logging.getLogger("moorage.api")

CRI = "/runtime.v1."
OURS = ("/moorage.", CRI)
"""The services whose errors are the engine's."""

TEXT_LIMIT = 2000
VALUE_LIMIT = 600
"""Clients refuse more than 8 KiB of metadata, which are the message, and the details with the message and these values."""

OS_ERRORS: dict[int, type[MoorageError]] = {
    errno.ENOSPC: ResourceExhausted,
    errno.EDQUOT: ResourceExhausted,
    errno.EMFILE: ResourceExhausted,
    errno.ENFILE: ResourceExhausted,
    errno.ENOMEM: ResourceExhausted,
    errno.EACCES: PermissionDenied,
    errno.EPERM: PermissionDenied,
    errno.ENOENT: NotFound,
}


def typed(error: BaseException) -> MoorageError:
    """Any exception as one of ours: what the kernel says by errno, what nobody foresaw as INTERNAL."""
    if isinstance(error, MoorageError):
        return error
    if isinstance(error, OSError) and error.errno is not None:
        cls = OS_ERRORS.get(error.errno, Internal)
        return cls(
            f"{error.strerror}: {error.filename}" if error.filename else str(error),
            errno=error.errno,
            path=error.filename or "",
        )
    log.error("unforeseen error", exc_info=error)
    return Internal(f"internal error: {type(error).__name__}: {error}", hint="see the daemon's log")


def shortened(text: str, limit: int) -> str:
    """At most about `limit` bytes as gRPC sends a message, percent-encoded.

    The middle is left out, as the thing stands at the beginning and the cause at the end.
    """
    if sum(map(_size, text)) <= limit:
        return text
    head, tail = _first(text, limit // 2), _first(text[::-1], limit // 2)
    return f"{head} … {tail[::-1]}"


def _first(text: str, limit: int) -> str:
    sizes = accumulate(map(_size, text))
    return text[: sum(1 for _size in takewhile(lambda size: size <= limit, sizes))]


def _size(character: str) -> int:
    return 1 if " " <= character <= "~" and character != "%" else 3 * len(character.encode("utf-8", "replace"))


def trailing(error: MoorageError, text: str) -> tuple[tuple[str, bytes], ...]:
    """`grpc-status-details-bin` for an error; `text` is the status's own."""
    metadata = error.metadata | ({"hint": error.hint} if error.hint else {})
    metadata = {key: shortened(value, VALUE_LIMIT) for key, value in metadata.items()}
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain="moorage", metadata=metadata)
    detail = any_pb2.Any()
    detail.Pack(info)
    status = status_pb2.Status(code=_code(error).value[0], message=text, details=[detail])
    return (("grpc-status-details-bin", status.SerializeToString()),)


def _code(error: MoorageError) -> grpc.StatusCode:
    return grpc.StatusCode[error.code]


class StatusInterceptor(aio.ServerInterceptor):
    """Wraps every handler: maps its errors and counts its calls."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._wrapped: dict[str, Any] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Called for each RPC; the wrapped handler is made once a method."""
        method = handler_call_details.method
        if method not in self._wrapped:
            handler = await continuation(handler_call_details)
            if handler is None or not method.startswith(OURS):
                return handler
            self._wrapped[method] = self._wrap(method, handler)
        return self._wrapped[method]

    def _wrap(self, method: str, handler: Any) -> grpc.RpcMethodHandler[Any, Any]:
        codec = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(self._unary(method, handler.unary_unary), **codec)
        if handler.unary_stream:
            return grpc.unary_stream_rpc_method_handler(self._streaming(method, handler.unary_stream), **codec)
        return grpc.stream_stream_rpc_method_handler(self._streaming(method, handler.stream_stream), **codec)

    def _unary(self, method: str, behaviour: Any) -> Any:
        async def call(request: Any, context: aio.ServicerContext[Any, Any]) -> Any:
            try:
                response = await behaviour(request, context)
            except asyncio.CancelledError:
                self._metrics.rpc(method, "CANCELLED")
                raise
            except Exception as error:
                await self._abort(method, error, context)
            self._metrics.rpc(method, "OK")
            return response

        return call

    def _streaming(self, method: str, behaviour: Any) -> Any:
        async def call(request: Any, context: aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
            try:
                async with aclosing(behaviour(request, context)) as responses:
                    async for response in responses:
                        yield response
            except (asyncio.CancelledError, GeneratorExit):
                self._metrics.rpc(method, "CANCELLED")
                raise
            except Exception as error:
                await self._abort(method, error, context)
            self._metrics.rpc(method, "OK")

        return call

    async def _abort(self, method: str, error: Exception, context: aio.ServicerContext[Any, Any]) -> NoReturn:
        mapped = typed(error)
        self._metrics.rpc(method, mapped.code)
        text = mapped.message
        if mapped.hint and method.startswith(CRI):
            # Of CRI's callers people see nothing but the text: in a pod's events, say.
            text = f"{text}; {mapped.hint}"
        text = shortened(text, TEXT_LIMIT)
        try:
            await context.abort(_code(mapped), text, trailing(mapped, text))
        except aio.InternalError:
            # The caller has hung up in this moment, and there is nobody to tell.
            raise asyncio.CancelledError from None
