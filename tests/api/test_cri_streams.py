"""Exec, attach and port-forward: from CRI's URL over the streaming server to the engine's job and back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import urlsplit

import grpc
import pytest

from moorage.cri.v1 import api_pb2 as pb
from moorage.server.api.output import MAX_OUTPUT, fitting
from tests.api.conftest import House
from tests.api.crihouse import Cri, refused
from tests.streamclient import SpdyClient, spdy

INVALID, PRECONDITION = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION


@pytest.fixture
def cri(grpc_channel: Any) -> Cri:
    return Cri(grpc_channel)


@pytest.fixture
def pod(cri: Cri) -> str:
    return cri.run()


def exec_url(cri: Cri, container: str, *command: str, **streams: bool) -> str:
    request = pb.ExecRequest(container_id=container, cmd=command, **streams)
    return cri.runtime.Exec(request).url


def with_client(url: str, work: Callable[[SpdyClient], Awaitable[Any]], *protocols: str) -> Any:
    async def main() -> Any:
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(spdy(url, *(protocols or ("v4.channel.k8s.io",))))
            return await asyncio.wait_for(work(client), 20)

    return asyncio.run(main())


def test_exec_sync_answers_output_and_exit_code(cri: Cri, pod: str) -> None:
    container = cri.started(pod)
    done = cri.runtime.ExecSync(pb.ExecSyncRequest(container_id=container, cmd=["echo", "hello"]))
    assert (done.stdout, done.stderr, done.exit_code) == (b"hello\n", b"", 0)
    assert cri.runtime.ExecSync(pb.ExecSyncRequest(container_id=container, cmd=["exit", "7"])).exit_code == 7
    with refused(INVALID):
        cri.runtime.ExecSync(pb.ExecSyncRequest(container_id=container))
    with refused(PRECONDITION):
        cri.runtime.ExecSync(pb.ExecSyncRequest(container_id=cri.create(pod), cmd=["true"]))


def test_exec_sync_ends_at_its_timeout(cri: Cri, pod: str, house: House) -> None:
    container = cri.started(pod)
    with refused(grpc.StatusCode.DEADLINE_EXCEEDED):
        cri.runtime.ExecSync(pb.ExecSyncRequest(container_id=container, cmd=["sleep"], timeout=1))
    assert house.kernel.calls[-1][0] in ("signalled", "close-stream")


@pytest.mark.parametrize(
    ("out", "err"), [(10, 10), (20 << 20, 0), (20 << 20, 100), (100, 20 << 20), (20 << 20, 20 << 20)]
)
def test_output_fits_into_one_message(out: int, err: int) -> None:
    stdout, stderr = fitting(b"o" * out, b"e" * err)
    assert len(stdout) + len(stderr) <= MAX_OUTPUT
    assert len(stdout) + len(stderr) == min(MAX_OUTPUT, out + err)
    assert len(stdout) >= min(out, MAX_OUTPUT // 2) and len(stderr) >= min(err, MAX_OUTPUT // 2)


def test_streams_are_checked_before_there_is_a_url(cri: Cri, pod: str) -> None:
    container = cri.started(pod)
    with refused(INVALID, "stderr"):
        exec_url(cri, container, "true", tty=True, stdout=True, stderr=True)
    with refused(INVALID, "stdin, stdout and stderr"):
        exec_url(cri, container, "true")
    with refused(INVALID):
        exec_url(cri, container, stdout=True)
    with refused(INVALID, "stderr"):
        cri.runtime.Attach(pb.AttachRequest(container_id=container, tty=True, stdout=True, stderr=True))
    with refused(INVALID):
        cri.runtime.PortForward(pb.PortForwardRequest(pod_sandbox_id=pod, port=[0]))
    created = cri.create(pod)
    with refused(PRECONDITION):
        exec_url(cri, created, "true", stdout=True)
    with refused(PRECONDITION):
        cri.runtime.Attach(pb.AttachRequest(container_id=created, stdout=True))
    cri.runtime.StopPodSandbox(pb.StopPodSandboxRequest(pod_sandbox_id=pod))
    with refused(PRECONDITION):
        cri.runtime.PortForward(pb.PortForwardRequest(pod_sandbox_id=pod, port=[80]))


def test_exec_carries_both_ways_and_tells_the_end(cri: Cri, pod: str) -> None:
    url = exec_url(cri, cri.started(pod), "cat", stdin=True, stdout=True)
    assert urlsplit(url).scheme == "http" and urlsplit(url).hostname == "127.0.0.1"

    async def work(client: SpdyClient) -> tuple[bytes, bytes]:
        error, stdin, stdout = await client.open_all("error", "stdin", "stdout")
        client.send(client.framer.data(stdin, b"there and back", 1))
        return await client.finished(stdout), await client.finished(error)

    stdout, error = with_client(url, work)
    assert stdout == b"there and back"
    assert json.loads(error)["status"] == "Success"


def test_a_non_zero_exit_code_is_told(cri: Cri, pod: str) -> None:
    url = exec_url(cri, cri.started(pod), "exit", "7", stdout=True)

    async def work(client: SpdyClient) -> bytes:
        error, _ = await client.open_all("error", "stdout")
        return await client.finished(error)

    status = json.loads(with_client(url, work))
    assert status["reason"] == "NonZeroExitCode"
    assert status["details"]["causes"] == [{"reason": "ExitCode", "message": "7"}]


def test_a_command_that_is_not_there_is_told(cri: Cri, pod: str) -> None:
    url = exec_url(cri, cri.started(pod), "nosuch", stdout=True)

    async def work(client: SpdyClient) -> bytes:
        error, _ = await client.open_all("error", "stdout")
        return await client.finished(error)

    status = json.loads(with_client(url, work))
    assert status["status"] == "Failure" and "nosuch" in status["message"]


def test_attach_ends_with_the_container(cri: Cri, pod: str) -> None:
    container = cri.started(pod, "cat", stdin=True, stdin_once=True)
    url = cri.runtime.Attach(pb.AttachRequest(container_id=container, stdin=True, stdout=True)).url

    async def work(client: SpdyClient) -> tuple[bytes, bytes]:
        error, stdin, stdout = await client.open_all("error", "stdin", "stdout")
        client.send(client.framer.data(stdin, b"once", 1))
        return await client.finished(stdout), await client.finished(error)

    stdout, error = with_client(url, work)
    assert stdout == b"once" and json.loads(error)["status"] == "Success"


def test_a_port_is_forwarded(cri: Cri, pod: str, house: House) -> None:
    url = cri.runtime.PortForward(pb.PortForwardRequest(pod_sandbox_id=pod, port=[8080])).url

    async def work(client: SpdyClient) -> bytes:
        await client.open(streamtype="error", port="8080", requestid="1")
        data = await client.open(streamtype="data", port="8080", requestid="1")
        client.send(client.framer.data(data, b"echo", 1))
        return await client.finished(data)

    assert with_client(url, work, "portforward.k8s.io") == b"echo"
    assert ("dial", pod, 8080) in house.kernel.calls


def test_a_port_nobody_listens_on_is_told(cri: Cri, pod: str) -> None:
    url = cri.runtime.PortForward(pb.PortForwardRequest(pod_sandbox_id=pod)).url

    async def work(client: SpdyClient) -> bytes:
        error = await client.open(streamtype="error", port="1", requestid="1")
        await client.open(streamtype="data", port="1", requestid="1")
        return await client.finished(error)

    assert b"connection refused" in with_client(url, work, "portforward.k8s.io")
