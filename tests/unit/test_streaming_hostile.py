"""Peers of the streaming server that mean no good: each ends its own connection, in bounded memory, and costs nobody else anything."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from moorage.server.streaming import mux, portforward, remotecommand, server, transport
from moorage.server.streaming.requests import OpenPortForward
from moorage.server.streaming.server import StreamingServer
from tests.streamclient import FakeProcess, SpdyClient, dial, exec_url, http, open_files, spdy, upgrade_headers

V4 = "v4.channel.k8s.io"


@pytest.fixture
async def streaming() -> AsyncIterator[StreamingServer]:
    running = StreamingServer()
    await running.start()
    yield running
    await running.stop()
    assert not running._connections
    assert not running._handshakes


@pytest.fixture
def process() -> FakeProcess:
    return FakeProcess()


@pytest.mark.parametrize(
    "hostile",
    [
        b"\x80\x02\x00\x01\x00\x00\x00\x00",
        b"\x80\x03\x00\x01\x00\xff\xff\xff",
        struct.pack(">II", 0, 1) + b"x",
        struct.pack(">HHIIIH", 0x8003, 1, 10, 2, 0, 0),
        b"GET / HTTP/1.1\r\n\r\n",
        bytes(range(255, -1, -1)) * 64,
    ],
)
async def test_bad_frames_end_the_connection_and_no_other(
    streaming: StreamingServer, process: FakeProcess, hostile: bytes
) -> None:
    other = FakeProcess()
    async with spdy(exec_url(streaming, other)) as bystander, spdy(exec_url(streaming, process)) as client:
        await bystander.open_all("error", "stdout", "stderr")
        await client.open_all("error", "stdout", "stderr")
        client.send(hostile)
        await client.hung_up_on()
        await process.closed.wait()
        await other.say(b"unharmed")
        await other.end()
        assert await bystander.finished(3) == b"unharmed"


async def test_streams_have_to_count_up(streaming: StreamingServer, process: FakeProcess) -> None:
    async with spdy(exec_url(streaming, process)) as client:
        await client.open(streamtype="error")
        client.send(client.framer.syn_stream(1, {"streamtype": "stdout"}))
        await client.hung_up_on()
        assert client.went_away == 1


async def test_streams_are_limited(streaming: StreamingServer) -> None:
    async def dial_nothing(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        raise AssertionError(port)

    url = streaming.url("portforward", OpenPortForward(dial_nothing))
    async with spdy(url, "portforward.k8s.io") as client:
        for index in range(mux.MAX_STREAMS + 10):
            client.send(client.framer.syn_stream(2 * index + 1, {"streamtype": "data", "requestid": f"{index}"}))
        last = 2 * (mux.MAX_STREAMS + 9) + 1
        await client.until(lambda: client.streams[last].reset or client.streams[last].replied)
        await client.until(lambda: sum(not stream.reset for stream in client.streams.values()) <= portforward.MAX_PAIRS)


async def test_missing_streams_end_the_connection(
    streaming: StreamingServer, process: FakeProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remotecommand, "STREAMS_SECONDS", 0.05)
    async with spdy(exec_url(streaming, process)) as client:
        await client.open(streamtype="error")
        await client.hung_up_on()


async def test_a_client_that_never_hangs_up_is_sent_away(
    streaming: StreamingServer, process: FakeProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remotecommand, "HANG_UP_SECONDS", 0.05)
    async with spdy(exec_url(streaming, process)) as client:
        await client.open_all("error", "stdout", "stderr")
        await process.end()
        await client.hung_up_on()


async def test_slow_requests_are_cut_off(streaming: StreamingServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HANDSHAKE_SECONDS", 0.2)
    reader, writer = await dial(f"http://127.0.0.1:{streaming.port}")
    with suppress(OSError):
        while not reader.at_eof():
            writer.write(b"G")
            await writer.drain()
            await asyncio.sleep(0.02)
    writer.close()


async def test_waiting_connections_are_limited(
    streaming: StreamingServer, process: FakeProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MAX_HANDSHAKES", 8)
    waiting = [await dial(f"http://127.0.0.1:{streaming.port}") for _ in range(20)]
    response = await http(exec_url(streaming, process), upgrade_headers(V4))
    assert response.status == 101
    assert await waiting[0][0].read() == b""
    assert len(streaming._handshakes) <= 8
    for _, writer in [*waiting, (None, response.writer)]:
        writer.close()


async def test_control_frames_do_not_pile_up_either() -> None:
    """A peer that asks and never listens is not answered without end, so it is not read any further."""
    made: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
    listening = await asyncio.start_server(lambda _, writer: made.put_nowait(writer), "127.0.0.1", 0)
    _, deaf = await dial(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}")
    deaf.transport.pause_reading()  # type: ignore[attr-defined]
    writer = await made.get()
    answering = transport.TcpTransport(asyncio.StreamReader(), writer)
    sent = 0
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            while sent < 4000:
                await answering.write_control(bytes(65536))
                sent += 1
    assert writer.transport.get_write_buffer_size() <= transport.CONTROL_LIMIT + 65536
    deaf.transport.abort()
    writer.transport.abort()
    listening.close()


async def test_two_hundred_connections_leave_nothing(streaming: StreamingServer) -> None:
    async def once(index: int) -> None:
        process = FakeProcess()
        client = await SpdyClient.connect(exec_url(streaming, process), V4)
        if index % 4:
            await client.open_all("error", "stdout", "stderr")
        if index % 4 == 2:
            client.send(b"\xff" * 100)
            await client.hung_up_on()
        if index % 4 == 3:
            await process.end()
            await client.finished(1)
        await client.close()
        if index % 4:
            await process.closed.wait()

    await once(3)
    while streaming._connections:
        await asyncio.sleep(0.01)
    files, tasks = open_files(), len(asyncio.all_tasks())
    for index in range(200):
        await once(index)
    while streaming._connections:
        await asyncio.sleep(0.01)
    assert (open_files(), len(asyncio.all_tasks())) == (files, tasks)
