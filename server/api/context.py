"""Who calls, and until when: a gRPC context as a job's environment."""

from __future__ import annotations

import base64
import binascii
import json
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from grpc import aio

from moorage.server.engine.job import Context
from moorage.server.errors import InvalidArgument

T = TypeVar("T")
DEFAULT_PAGE = 1000


def of(context: aio.ServicerContext[Any, Any]) -> Context:
    """The job's environment for an RPC."""
    remaining = context.time_remaining()
    deadline = None if remaining is None else time.monotonic() + remaining
    return Context(_caller(context), deadline)


def _caller(context: aio.ServicerContext[Any, Any]) -> str:
    """The client certificate's common name, or the address it calls from."""
    for name in context.auth_context().get("x509_common_name", ()):
        return "cn:" + name.decode("utf-8", "replace")
    peer = context.peer()
    return "local" if peer.startswith("unix:") else peer


def page(items: Sequence[T], key: Callable[[T], tuple[Any, ...]], size: int, token: str) -> tuple[list[T], str]:
    """One page of `items`, which are sorted by `key`, and the token of the next. A token holds the last item's key, so that what is made
    or removed meanwhile shifts nothing."""
    if size < 0:
        raise InvalidArgument("page_size must not be negative", field="page_size")
    size = size or DEFAULT_PAGE
    if token and items:
        after = _decode(token, key(items[0]))
        items = [item for item in items if key(item) > after]
    chosen = list(items[:size])
    more = len(items) > size
    return chosen, _encode(key(chosen[-1])) if more else ""


def _encode(key: tuple[Any, ...]) -> str:
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode()


def _decode(token: str, like: tuple[Any, ...]) -> tuple[Any, ...]:
    try:
        key = json.loads(base64.urlsafe_b64decode(token))
    except (binascii.Error, ValueError):
        key = None
    if not isinstance(key, list) or [type(part) for part in key] != [type(part) for part in like]:
        raise InvalidArgument("page_token is not one that this list gave", field="page_token")
    return tuple(key)
