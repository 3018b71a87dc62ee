"""Exec, attach and port-forward by the URLs that CRI hands out, over SPDY and over WebSocket."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import urlsplit

import pytest
from grpc import StatusCode

from moorage.cri.v1 import api_pb2 as api
from tests.criclient import Box, Cri, refused, until
from tests.streamclient import FIN, SpdyClient, WebSocketClient, http, upgrade_headers

pytestmark = pytest.mark.kernel

V4, V5 = "v4.channel.k8s.io", "v5.channel.k8s.io"
SUCCESS = {"metadata": {}, "status": "Success"}


@pytest.fixture
def box(cri: Cri) -> Box:
    return cri.pod().run("sleep", "1000")


def exec_url(box: Box, *command: str, **streams: bool) -> str:
    request = api.ExecRequest(container_id=box.id, cmd=command, **{"stdout": True, **streams})
    return box.cri.runtime.Exec(request).url


def attach_url(box: Box, **streams: bool) -> str:
    return box.cri.runtime.Attach(api.AttachRequest(container_id=box.id, **{"stdout": True, **streams})).url


def outcome(text: bytes) -> tuple[str, str]:
    """Status and exit code of an error stream."""
    status: dict[str, Any] = json.loads(text)
    causes = status.get("details", {}).get("causes", [])
    return status["status"], next((cause["message"] for cause in causes if cause["reason"] == "ExitCode"), "")


def test_urls_are_of_loopback(box: Box) -> None:
    parts = urlsplit(exec_url(box, "true"))
    assert (parts.scheme, parts.hostname) == ("http", "127.0.0.1")
    assert parts.path.startswith("/exec/")


async def test_exec_over_spdy(box: Box) -> None:
    url = exec_url(box, "sh", "-c", "cat; echo err >&2; exit 7", stdin=True, stderr=True)
    client = await SpdyClient.connect(url, V4)
    error, stdin, out, err = await client.open_all("error", "stdin", "stdout", "stderr")
    client.send(client.framer.data(stdin, b"x" * 100_000))
    client.send(client.framer.data(stdin, b"end\n", FIN))
    assert await client.finished(out) == b"x" * 100_000 + b"end\n"
    assert await client.finished(err) == b"err\n"
    assert outcome(await client.finished(error)) == ("Failure", "7")
    await client.close()


async def test_exec_over_websocket(box: Box) -> None:
    client = await WebSocketClient.connect(exec_url(box, "sh", "-c", "cat; echo err >&2", stdin=True, stderr=True), V5)
    assert client.subprotocol == V5
    client.send(b"\x00hello\n")
    client.send(b"\xff\x00")
    received = await client.channels()
    assert (received[1], received[2]) == (b"hello\n", b"err\n")
    assert outcome(received[3])[0] == "Success"
    await client.close()


async def test_a_terminal_has_the_size_that_the_client_says(box: Box) -> None:
    url = exec_url(box, "sh", "-c", "read go; stty size", stdin=True, tty=True)
    client = await SpdyClient.connect(url, V4)
    error, stdin, out, resize = await client.open_all("error", "stdin", "stdout", "resize")
    client.send(client.framer.data(resize, b'{"Width":123,"Height":45}\n'))
    await asyncio.sleep(0.2)
    client.send(client.framer.data(stdin, b"go\n"))
    assert (await client.finished(out)).split()[-2:] == [b"45", b"123"]
    assert outcome(await client.finished(error))[0] == "Success"
    await client.close()


async def test_a_token_is_used_once(box: Box) -> None:
    url = exec_url(box, "true")
    client = await SpdyClient.connect(url, V4)
    response = await http(url, upgrade_headers(V4))
    assert response.status == 404
    response.writer.close()
    await client.close()


async def test_hanging_up_ends_the_process(box: Box) -> None:
    client = await SpdyClient.connect(exec_url(box, "sleep", "4567"), V4)
    await client.open_all("error", "stdout")
    await asyncio.to_thread(until, lambda: "sleep 4567" in processes(box))
    await client.close()
    await asyncio.to_thread(until, lambda: "sleep 4567" not in processes(box))


def processes(box: Box) -> str:
    """The command lines of all that the container sees."""
    return box.sh("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")


@pytest.mark.parametrize("streams", [{"tty": True, "stderr": True}, {"stdout": False}])
def test_streams_that_cannot_be_are_refused(box: Box, streams: dict[str, bool]) -> None:
    with refused(StatusCode.INVALID_ARGUMENT):
        exec_url(box, "true", **streams)
    with refused(StatusCode.INVALID_ARGUMENT):
        attach_url(box, **streams)


async def test_attach_shows_what_comes_and_takes_stdin(cri: Cri) -> None:
    box = cri.pod().run("sh", "-c", "echo before; while read line; do echo got $line; done", stdin=True)
    until(box.log)
    client = await SpdyClient.connect(attach_url(box, stdin=True), V4)
    error, stdin, out = await client.open_all("error", "stdin", "stdout")
    client.send(client.framer.data(stdin, b"one\n"))
    await client.until(lambda: client.streams[out].data == b"got one\n")
    await client.close()
    client = await SpdyClient.connect(attach_url(box, stdin=True), V4)
    error, stdin, out = await client.open_all("error", "stdin", "stdout")
    client.send(client.framer.data(stdin, b"two\n"))
    await client.until(lambda: client.streams[out].data == b"got two\n")
    client.send(client.framer.data(stdin, b"", FIN))
    # It has detached.
    await client.finished(error)
    await client.close()
    assert box.status().state == api.CONTAINER_RUNNING


async def test_attach_without_input_lasts_as_long_as_the_container(cri: Cri) -> None:
    script = "while sleep 0.05; do echo tick; done & read line; echo got $line; wait"
    box = cri.pod().run("sh", "-c", script, stdin=True)
    watcher = await SpdyClient.connect(attach_url(box), V4)
    error, out = await watcher.open_all("error", "stdout")
    await watcher.until(lambda: b"tick" in watcher.streams[out].data)
    speaker = await SpdyClient.connect(attach_url(box, stdin=True), V4)
    speaker_error, stdin, _ = await speaker.open_all("error", "stdin", "stdout")
    speaker.send(speaker.framer.data(stdin, b"it\n", FIN))
    await speaker.finished(speaker_error)
    await speaker.close()
    await watcher.until(lambda: b"got it\n" in watcher.streams[out].data)
    box.stop(0)
    await watcher.finished(error)
    await watcher.close()


async def test_the_end_of_stdin_reaches_a_container_with_stdin_once(cri: Cri) -> None:
    box = cri.pod().run("cat", stdin=True, stdin_once=True)
    client = await WebSocketClient.connect(attach_url(box, stdin=True), V5)
    client.send(b"\x00all\n")
    client.send(b"\xff\x00")
    received = await client.channels()
    assert received[1] == b"all\n"
    await client.close()
    assert box.ended().exit_code == 0


async def test_port_forward_over_spdy(cri: Cri) -> None:
    pod = cri.pod()
    until(
        pod.run("sh", "-c", "echo aboard > /tmp/index.html; httpd -p 127.0.0.1:80 -h /tmp; echo ready; sleep 1000").log
    )
    url = cri.runtime.PortForward(api.PortForwardRequest(pod_sandbox_id=pod.id, port=[80])).url
    client = await SpdyClient.connect(url, "portforward.k8s.io")
    for number in range(2):
        error = await client.open(fin=True, streamtype="error", port="80", requestid=str(number))
        data = await client.open(streamtype="data", port="80", requestid=str(number))
        client.send(client.framer.data(data, b"GET / HTTP/1.0\r\n\r\n"))
        assert (await client.finished(data)).endswith(b"\r\n\r\naboard\n")
        assert await client.finished(error) == b""
    await client.close()


async def test_port_forward_to_a_port_where_nothing_listens_says_so(cri: Cri) -> None:
    pod = cri.pod()
    url = cri.runtime.PortForward(api.PortForwardRequest(pod_sandbox_id=pod.id, port=[81])).url
    client = await SpdyClient.connect(url, "portforward.k8s.io")
    error = await client.open(fin=True, streamtype="error", port="81", requestid="0")
    await client.open(streamtype="data", port="81", requestid="0")
    await client.until(lambda: bool(client.streams[error].data))
    assert b"81" in client.streams[error].data
    await client.close()


async def test_port_forward_to_the_hosts_network(cri: Cri) -> None:
    pod = cri.namespaces_pod(network=api.NODE)
    server = await asyncio.start_server(_greet, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    url = cri.runtime.PortForward(api.PortForwardRequest(pod_sandbox_id=pod.id, port=[port])).url
    client = await SpdyClient.connect(url, "portforward.k8s.io")
    await client.open(fin=True, streamtype="error", port=str(port), requestid="0")
    data = await client.open(streamtype="data", port=str(port), requestid="0")
    assert await client.finished(data) == b"hello\n"
    await client.close()
    server.close()
    await server.wait_closed()


async def _greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"hello\n")
    await writer.drain()
    writer.close()
    await writer.wait_closed()
