"""The client of a Moorage daemon: `Client` is the public SDK, `moorage.client.main` the command line on top of it.

    from moorage.client import Client, MoorageError

    with Client("unix:///run/moorage/moorage.sock") as client:
        for container in client.containers.list(all=True):
            ...

Names are imported when first used, so that importing a part of the package does not load gRPC.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moorage.client.connection import DEFAULT_HOST, TLS
    from moorage.client.errors import MoorageError
    from moorage.client.sdk import Client
    from moorage.client.streams import Output, Pull, Session, Stream

__all__ = ["DEFAULT_HOST", "TLS", "Client", "MoorageError", "Output", "Pull", "Session", "Stream"]

_HOMES = {
    "Client": "moorage.client.sdk",
    "DEFAULT_HOST": "moorage.client.connection",
    "MoorageError": "moorage.client.errors",
    "Output": "moorage.client.streams",
    "Pull": "moorage.client.streams",
    "Session": "moorage.client.streams",
    "Stream": "moorage.client.streams",
    "TLS": "moorage.client.connection",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
