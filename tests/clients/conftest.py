"""A daemon for clients in other languages. Fixtures are those of the kernel tests."""

from __future__ import annotations

from tests.kernel.conftest import daemon, needs_root, nothing_left, registry, shared_daemon

__all__ = ["daemon", "needs_root", "nothing_left", "registry", "shared_daemon"]
