"""What callers of the engine need to know of image references."""

from __future__ import annotations

from moorage.server.registry import reference as references

_HUB = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})


def same_registry(reference: str, server: str) -> bool:
    """Whether credentials for `server` (a host, or an old-style URL like `https://host/v1/`) are for the registry of an image."""
    domain = references.parse(reference).domain
    host = server.split("://", 1)[-1].split("/", 1)[0]
    return host == domain or (host in _HUB and domain in _HUB)
