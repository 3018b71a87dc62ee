"""Exec and attach over WebSocket, in all versions of `channel.k8s.io`."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moorage.server.errors import NotFound
from moorage.server.streaming import mux
from moorage.server.streaming.channels import COMMAND_PROTOCOLS
from moorage.server.streaming.handshake import ACCEPTED_HEADER
from moorage.server.streaming.requests import OpenExec
from moorage.server.streaming.server import StreamingServer
from tests.streamclient import FakeProcess, WebSocketClient, exec_url, http

V5, V4 = "v5.channel.k8s.io", "v4.channel.k8s.io"
NORMAL, PROTOCOL_ERROR = 1000, 1002


@pytest.fixture
async def streaming() -> AsyncIterator[StreamingServer]:
    running = StreamingServer()
    await running.start()
    yield running
    await running.stop()


@pytest.fixture
def process() -> FakeProcess:
    return FakeProcess()


@pytest.mark.parametrize("code", [0, 7])
@pytest.mark.parametrize("version", [V5, V4])
async def test_exec(streaming: StreamingServer, process: FakeProcess, version: str, code: int) -> None:
    client = await WebSocketClient.connect(exec_url(streaming, process), version)
    assert client.subprotocol == version
    # Clients of old take this for the sign that the connection stands.
    assert await client.receive() == b"\1"
    big = bytes(range(256)) * 1000
    await process.say(big)
    await process.say(b"oops", "stderr")
    await process.end(code)
    channels = await client.channels()
    assert (channels[1], channels[2]) == (big, b"oops")
    assert json.loads(channels[3])["status"] == ("Failure" if code else "Success")
    assert client.close_code == NORMAL
    await process.closed.wait()
    await client.close()


async def test_the_clients_first_known_version_is_chosen(streaming: StreamingServer, process: FakeProcess) -> None:
    client = await WebSocketClient.connect(exec_url(streaming, process), "v9.channel.k8s.io", V4, V5)
    assert client.subprotocol == V4
    await client.close()


async def test_the_end_of_stdin_is_signalled_from_v5_on(streaming: StreamingServer, process: FakeProcess) -> None:
    client = await WebSocketClient.connect(exec_url(streaming, process, stdin=True), V5)
    client.send(b"\0to be ")
    client.send_parts(b"\0r", b"", b"ea", b"d")
    client.send_parts(b"\xff", b"\0")
    await process.stdin_closed.wait()
    assert process.stdin == b"to be read"
    client.send(b"\0too late")
    client.send(b"\7no such channel")
    client.send(b"")
    await process.end()
    assert json.loads((await client.channels())[3])["status"] == "Success"
    assert process.stdin == b"to be read"
    await client.close()


async def test_before_v5_there_is_no_such_signal(streaming: StreamingServer, process: FakeProcess) -> None:
    client = await WebSocketClient.connect(exec_url(streaming, process, stdin=True), V4)
    client.send(b"\xff\0")
    client.send(b"\0x")
    await process.got_stdin.wait()
    assert not process.stdin_closed.is_set()
    await client.close()
    await process.closed.wait()


async def test_terminal_sizes(streaming: StreamingServer, process: FakeProcess) -> None:
    url = exec_url(streaming, process, stdin=True, tty=True, stderr=False)
    client = await WebSocketClient.connect(url, V5)
    client.send(b'\4{"Width":80,"Hei')
    client.send(b'\4ght":24}')
    assert await process.sizes.get() == (80, 24)
    await process.end()
    await client.channels()
    await client.close()


@pytest.mark.parametrize("version", ["v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"])
@pytest.mark.parametrize("code", [0, 3])
async def test_versions_of_old(streaming: StreamingServer, process: FakeProcess, version: str, code: int) -> None:
    client = await WebSocketClient.connect(exec_url(streaming, process), version)
    await process.say(b"out")
    await process.end(code)
    channels = await client.channels()
    assert channels[1] == b"out"
    assert channels.get(3, b"") == (b"command terminated with non-zero exit code: 3" if code else b"")
    await client.close()


@pytest.mark.parametrize("version", ["base64.channel.k8s.io", "v4.base64.channel.k8s.io"])
async def test_base64(streaming: StreamingServer, process: FakeProcess, version: str) -> None:
    client = await WebSocketClient.connect(exec_url(streaming, process, stdin=True), version)
    assert await client.receive() == "1"
    client.send("0" + base64.b64encode(b"to be read").decode())
    client.send_parts(b"0", b"Y", b"WJj", b"ZA==")
    while process.stdin != b"to be readabcd":
        await process.got_stdin.wait()
        process.got_stdin.clear()
    await process.say(b"out")
    assert await client.receive() == "1" + base64.b64encode(b"out").decode()
    client.send("0not base64!")
    assert await client.receive() is None
    assert client.close_code == PROTOCOL_ERROR
    await process.closed.wait()
    await client.close()


async def test_pings_are_answered(streaming: StreamingServer, process: FakeProcess) -> None:
    client = await WebSocketClient.connect(exec_url(streaming, process), V5)
    client.ping(b"alive?")
    await client.receive()
    await process.say(b"x")
    await client.receive()
    while not client.pongs:
        client.ping(b"alive?")
        await process.say(b"x")
        await client.receive()
    assert client.pongs[0] == b"alive?"
    await client.close()


async def test_a_failed_start_is_told(streaming: StreamingServer) -> None:
    async def connect() -> FakeProcess:
        raise NotFound("no such container")

    client = await WebSocketClient.connect(streaming.url("exec", OpenExec(connect)), V5)
    status = json.loads((await client.channels())[3])
    assert (status["status"], status["code"], status["message"]) == (
        "Failure",
        500,
        "Internal error occurred: no such container",
    )
    await client.close()


@pytest.mark.parametrize(("subprotocols", "status"), [([], "400"), (["v9.channel.k8s.io"], "403")])
async def test_refusals(streaming: StreamingServer, process: FakeProcess, subprotocols: list[str], status: str) -> None:
    with pytest.raises(RuntimeError, match=status):
        await WebSocketClient.connect(exec_url(streaming, process), *subprotocols)


@pytest.mark.parametrize(
    ("method", "key", "version"), [("GET", "", "13"), ("POST", "dGhlIHNhbXBsZSBub25jZQ==", "13"), ("GET", "a", "8")]
)
async def test_bad_requests(
    streaming: StreamingServer, process: FakeProcess, method: str, key: str, version: str
) -> None:
    headers = [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Protocol", V5)]
    headers += [("Sec-WebSocket-Version", version), *([("Sec-WebSocket-Key", key)] if key else [])]
    response = await http(exec_url(streaming, process), headers, method=method)
    assert response.status == 400
    response.writer.close()


async def test_known_versions_are_told(streaming: StreamingServer, process: FakeProcess) -> None:
    headers = [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")]
    headers += [("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="), ("Sec-WebSocket-Protocol", "v9.channel.k8s.io")]
    response = await http(exec_url(streaming, process), headers, method="GET")
    assert (response.status, response.values(ACCEPTED_HEADER)) == (403, list(COMMAND_PROTOCOLS))
    response.writer.close()


@pytest.mark.parametrize(
    "hostile",
    [
        b"\x82\x01x",  # not masked
        b"\xf2\x81\0\0\0\0x",  # reserved bits
        b"\x83\x81\0\0\0\0x",  # no such opcode
        b"\x80\x81\0\0\0\0x",  # goes on with nothing
        b"\x81\x82\0\0\0\0\xff\xff",  # text that is not UTF-8
        b"\x89\xfe\x01\x00\0\0\0\0",  # a ping that is too long
        b"\x88\x81\0\0\0\0x",  # half a code
        b"\xff" * 100,
    ],
)
async def test_bad_frames_end_the_connection(streaming: StreamingServer, process: FakeProcess, hostile: bytes) -> None:
    client = await WebSocketClient.connect(exec_url(streaming, process), V5)
    await client.receive()
    client.writer.write(hostile)
    while await client.receive() is not None:
        pass
    await process.closed.wait()
    await client.close()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(min_size=1, max_size=300))
def test_random_bytes_end_at_most_the_connection(data: bytes) -> None:
    async def check() -> None:
        streaming = StreamingServer()
        await streaming.start()
        process, other = FakeProcess(), FakeProcess()
        client = await WebSocketClient.connect(exec_url(streaming, process, stdin=True), V5)
        client.writer.write(data)
        await client.writer.drain()
        bystander = await WebSocketClient.connect(exec_url(streaming, other), V4)
        await other.say(b"unharmed")
        await other.end()
        assert (await bystander.channels())[1] == b"unharmed"
        await bystander.close()
        await client.close()
        while streaming._connections:
            await asyncio.sleep(0.001)
        await streaming.stop()

    asyncio.run(check())


async def test_a_message_of_any_length_is_passed_on_as_it_comes(
    streaming: StreamingServer, process: FakeProcess
) -> None:
    client = await WebSocketClient.connect(exec_url(streaming, process, stdin=True), V5)
    length = 8 * mux.STREAM_INPUT
    client.writer.write(b"\x82\xff" + (1 << 50).to_bytes(8, "big") + bytes(4) + b"\0")
    for _ in range(length // 65536):
        client.writer.write(b"x" * 65536)
        await client.writer.drain()
    while len(process.stdin) < length:
        await process.got_stdin.wait()
        process.got_stdin.clear()
    assert process.stdin == b"x" * length
    await client.close()
    await process.closed.wait()


async def test_a_process_that_does_not_read_slows_its_client(
    streaming: StreamingServer, process: FakeProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mux, "GONE_CHECK_SECONDS", 0.05)
    process.reads_stdin.clear()
    client = await WebSocketClient.connect(exec_url(streaming, process, stdin=True), V5)
    sent = 0
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            while sent < 1000:
                client.send(b"\0" + bytes(1 << 16))
                await client.writer.drain()
                sent += 1
    assert sent < 500
    client.writer.transport.abort()
    await process.closed.wait()
