"""A daemon for clients in other languages. Fixtures are those of the kernel tests."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from moorage.cri.v1 import api_pb2 as api
from moorage.cri.v1.api_pb2_grpc import RuntimeServiceStub
from tests.daemon import Daemon
from tests.kernel.conftest import needs_root, nothing_left, registry, shared_daemon

__all__ = ["needs_root", "nothing_left", "registry", "shared_daemon"]


@pytest.fixture
def daemon(shared_daemon: Daemon) -> Iterator[Daemon]:
    """A daemon that has pulled IMAGE and has no containers and pods, whatever a client that failed has left."""
    yield shared_daemon
    with grpc.insecure_channel(shared_daemon.url) as channel:
        runtime = RuntimeServiceStub(channel)
        for pod in runtime.ListPodSandbox(api.ListPodSandboxRequest()).items:
            runtime.RemovePodSandbox(api.RemovePodSandboxRequest(pod_sandbox_id=pod.id))
    shared_daemon.remove_containers()
