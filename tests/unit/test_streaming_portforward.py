"""Port-forward over SPDY/3.1, plain and tunnelled in WebSocket, and over WebSocket channels."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

import pytest
from wsproto import WSConnection

from moorage.server.errors import NotFound
from moorage.server.streaming import mux, portforward
from moorage.server.streaming.requests import OpenPortForward
from moorage.server.streaming.server import StreamingServer
from tests.streamclient import FIN, SpdyClient, WebSocketClient, open_files

TUNNEL = "SPDY/3.1+portforward.k8s.io"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Pod:
    """Servers on loopback, one a port of the pod."""

    def __init__(self) -> None:
        self.servers: list[asyncio.Server] = []
        self.ports: dict[int, int] = {}
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, port: int, handler: Serve) -> None:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.writers.append(writer)
            with suppress(OSError):
                await handler(reader, writer)
            writer.close()

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        self.servers.append(server)
        self.ports[port] = server.sockets[0].getsockname()[1]

    async def dial(self, port: int) -> Streams:
        if port not in self.ports:
            raise NotFound(f"nothing listens on {port}")
        return await asyncio.open_connection("127.0.0.1", self.ports[port])

    def close(self) -> None:
        for server in self.servers:
            server.close()
        for writer in self.writers:
            writer.transport.abort()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers only after the end of what it was sent, so it needs the half-close."""
    writer.write(str(len(await reader.read())).encode())
    await writer.drain()


@pytest.fixture
async def streaming() -> AsyncIterator[StreamingServer]:
    running = StreamingServer()
    await running.start()
    yield running
    await running.stop()


@pytest.fixture
async def pod() -> AsyncIterator[Pod]:
    running = Pod()
    await running.serve(7, echo)
    await running.serve(9, count)
    yield running
    running.close()


class TunnelEnd:
    """Reader and writer of a SpdyClient inside a WebSocketClient."""

    def __init__(self, websocket: WebSocketClient) -> None:
        self._websocket = websocket
        self._buffer = b""

    async def readexactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            message = await self._websocket.receive()
            if not isinstance(message, bytes):
                raise asyncio.IncompleteReadError(self._buffer, size)
            self._buffer += message
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken

    def write(self, data: bytes) -> None:
        for start in range(0, len(data), 1000):
            self._websocket.send(data[start : start + 1000])

    def close(self) -> None:
        self._websocket.writer.close()


async def connect(
    streaming: StreamingServer, pod: Pod, *, tunnel: bool = False, ports: tuple[int, ...] = ()
) -> SpdyClient:
    url = streaming.url("portforward", OpenPortForward(pod.dial, ports))
    if not tunnel:
        return await SpdyClient.connect(url, "portforward.k8s.io")
    websocket = await WebSocketClient.connect(url, TUNNEL)
    assert websocket.subprotocol == TUNNEL
    assert isinstance(websocket.protocol, WSConnection)
    end = TunnelEnd(websocket)
    return SpdyClient(end, end)  # type: ignore[arg-type]


async def open_pair(client: SpdyClient, port: int | str, request: str) -> tuple[int, int]:
    """Errors and data, as clients open them: nothing will be written to the first."""
    errors = await client.open(fin=True, streamtype="error", port=str(port), requestid=request)
    return errors, await client.open(streamtype="data", port=str(port), requestid=request)


@pytest.mark.parametrize("tunnel", [False, True], ids=["spdy", "tunnel"])
async def test_many_connections_at_once(streaming: StreamingServer, pod: Pod, tunnel: bool) -> None:
    client = await connect(streaming, pod, tunnel=tunnel)
    pairs = [await open_pair(client, 7, str(number)) for number in range(20)]
    sent = {data: bytes([number]) * (10_000 + number) for number, (_, data) in enumerate(pairs)}
    for part in range(0, 11_000, 1_000):
        for data in sent:
            client.send(client.framer.data(data, sent[data][part : part + 1000]))
    for errors, data in pairs:
        client.send(client.framer.data(data, b"", FIN))
        assert await client.finished(data) == sent[data]
        assert await client.finished(errors) == b""
    await client.close()


@pytest.mark.parametrize("tunnel", [False, True], ids=["spdy", "tunnel"])
async def test_the_end_of_input_is_passed_on(streaming: StreamingServer, pod: Pod, tunnel: bool) -> None:
    client = await connect(streaming, pod, tunnel=tunnel)
    _, data = await open_pair(client, 9, "0")
    client.send(client.framer.data(data, bytes(300_000)))
    client.send(client.framer.data(data, bytes(12), FIN))
    assert await client.finished(data) == b"300012"
    await client.close()


async def test_old_clients_send_no_request_id(streaming: StreamingServer, pod: Pod) -> None:
    client = await connect(streaming, pod)
    for _ in range(2):
        await client.open(streamtype="error", port="9")
        data = await client.open(streamtype="data", port="9")
        client.send(client.framer.data(data, b"abc", FIN))
        assert await client.finished(data) == b"3"
    await client.close()


@pytest.mark.parametrize(
    ("port", "told"),
    [
        (8, "cannot forward port 8: nothing listens on 8"),
        (80, "cannot forward port 80: the port was not asked for"),
        (0, "cannot forward port 0: not a port"),
        ("99999", "cannot forward port 99999: not a port"),
        ("x", "cannot forward port x: not a port"),
    ],
)
async def test_failures_are_told_and_end_only_their_pair(
    streaming: StreamingServer, pod: Pod, port: int | str, told: str
) -> None:
    client = await connect(streaming, pod, ports=(7, 8, 9))
    errors, data = await open_pair(client, port, "0")
    assert await client.finished(errors) == told.encode()
    await client.until(lambda: client.streams[data].reset)
    _, data = await open_pair(client, 9, "1")
    client.send(client.framer.data(data, b"", FIN))
    assert await client.finished(data) == b"0"
    await client.close()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ConnectionRefusedError(111, "Connection refused"), "connection refused"),
        (TimeoutError(), "timed out"),
        (ZeroDivisionError("a bug"), "internal error"),
    ],
)
async def test_causes(streaming: StreamingServer, error: Exception, told: str) -> None:
    async def dial(port: int) -> Streams:
        raise error

    client = await SpdyClient.connect(streaming.url("portforward", OpenPortForward(dial)), "portforward.k8s.io")
    errors, _ = await open_pair(client, 5, "0")
    assert await client.finished(errors) == f"cannot forward port 5: {told}".encode()
    await client.close()


async def test_a_client_that_resets_hangs_up_on_the_pod(streaming: StreamingServer, pod: Pod) -> None:
    lost = asyncio.Event()

    async def watch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.read(100):
                writer.write(b"got it")
        except OSError:
            lost.set()

    await pod.serve(10, watch)
    client = await connect(streaming, pod)
    _, data = await open_pair(client, 10, "0")
    client.send(client.framer.data(data, b"x"))
    await client.until(lambda: bool(client.streams[data].data))
    client.send(client.framer.control(3, data.to_bytes(4, "big") + b"\0\0\0\5"))
    await lost.wait()
    await client.close()


async def test_a_pod_that_finishes_first(streaming: StreamingServer, pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its client hears of it on both streams, and is let go when it does not finish."""
    monkeypatch.setattr(portforward, "HALF_CLOSED_SECONDS", 0.05)
    heard = asyncio.Event()

    async def finish_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"bye")
        writer.write_eof()
        with suppress(OSError):
            while await reader.read(100):
                heard.set()

    await pod.serve(11, finish_first)
    client = await connect(streaming, pod)
    errors, data = await open_pair(client, 11, "0")
    assert await client.finished(data) == b"bye"
    assert await client.finished(errors) == b""
    client.send(client.framer.data(data, b"more"))
    await heard.wait()
    await client.until(lambda: client.streams[data].reset)
    await client.close()


async def test_a_slow_pod_does_not_slow_its_neighbours(streaming: StreamingServer, pod: Pod) -> None:
    """Within what one stream may hold: more than that needs a flow control that SPDY has not here."""
    stuck = asyncio.Event()

    async def read_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await stuck.wait()

    await pod.serve(12, read_nothing)
    client = await connect(streaming, pod)
    _, slow = await open_pair(client, 12, "0")
    client.send(client.framer.data(slow, bytes(mux.STREAM_INPUT)))
    _, data = await open_pair(client, 7, "1")
    client.send(client.framer.data(data, b"quick", FIN))
    assert await client.finished(data) == b"quick"
    stuck.set()
    await client.close()


async def test_streams_without_a_partner_are_let_go(
    streaming: StreamingServer, pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(portforward, "PAIR_SECONDS", 0.05)
    client = await connect(streaming, pod)
    single = await client.open(streamtype="data", port="7", requestid="0")
    await client.until(lambda: client.streams[single].reset)
    monkeypatch.setattr(portforward, "PAIR_SECONDS", 30)
    odd = await client.open(streamtype="nonsense", port="7", requestid="0")
    await client.until(lambda: client.streams[odd].reset)
    await client.open(streamtype="data", port="7", requestid="0")
    twin = await client.open(streamtype="data", port="7", requestid="0")
    await client.until(lambda: client.streams[twin].reset)
    await client.close()


async def test_forwarded_connections_leave_nothing(streaming: StreamingServer, pod: Pod) -> None:
    client = await connect(streaming, pod)
    client.send(client.framer.control(6, b"\0\0\0\1"))
    await client.until(lambda: client.pings == [1])
    files, tasks = open_files(), len(asyncio.all_tasks())
    for number in range(100):
        _, data = await open_pair(client, 7, str(number))
        client.send(client.framer.data(data, b"x", FIN if number % 2 else 0))
        await client.until(lambda data=data: bool(client.streams[data].data))
        if number % 2 == 0:
            client.send(client.framer.control(3, data.to_bytes(4, "big") + b"\0\0\0\5"))
    while (open_files(), len(asyncio.all_tasks())) != (files, tasks):
        await asyncio.sleep(0.01)
    await client.close()


async def test_a_client_that_vanishes_leaves_nothing(streaming: StreamingServer, pod: Pod) -> None:
    files, tasks = open_files(), len(asyncio.all_tasks())
    client = await connect(streaming, pod)
    for number in range(20):
        _, data = await open_pair(client, 7, str(number))
        client.send(client.framer.data(data, b"x"))
        await client.until(lambda data=data: bool(client.streams[data].data))
    client.writer.transport.abort()
    await client.close()
    while (open_files(), len(asyncio.all_tasks())) != (files, tasks):
        await asyncio.sleep(0.01)


# WebSocket channels


@pytest.mark.parametrize("query", ["?port=7&port=9", "?port=7,9", ""])
async def test_channels(streaming: StreamingServer, pod: Pod, query: str) -> None:
    url = streaming.url("portforward", OpenPortForward(pod.dial, (7, 9)))
    client = await WebSocketClient.connect(url + query, "v4.channel.k8s.io")
    heads = {await client.receive() for _ in range(4)}
    assert heads == {b"\0\7\0", b"\1\7\0", b"\2\11\0", b"\3\11\0"}
    client.send(b"\0hello")
    assert await client.receive() == b"\0hello"
    await client.close()


async def test_channels_in_base64_and_failures(streaming: StreamingServer, pod: Pod) -> None:
    url = streaming.url("portforward", OpenPortForward(pod.dial))
    client = await WebSocketClient.connect(url + "?port=8", "v4.base64.channel.k8s.io")
    assert [await client.receive() for _ in range(3)] == [
        "0CAA=",
        "1CAA=",
        "1Y2Fubm90IGZvcndhcmQgcG9ydCA4OiBub3RoaW5nIGxpc3RlbnMgb24gOA==",
    ]
    assert await client.receive() is None
    await client.close()


@pytest.mark.parametrize(
    ("query", "status"),
    [("", 400), ("?port=0", 400), ("?port=x", 400), ("?port=", 400), ("?port=" + ",".join(["7"] * 101), 400)],
)
async def test_bad_queries(streaming: StreamingServer, pod: Pod, query: str, status: int) -> None:
    url = streaming.url("portforward", OpenPortForward(pod.dial))
    with pytest.raises(RuntimeError, match=str(status)):
        await WebSocketClient.connect(url + query, "v4.channel.k8s.io")


async def test_ports_that_were_not_asked_for(streaming: StreamingServer, pod: Pod) -> None:
    url = streaming.url("portforward", OpenPortForward(pod.dial, (7,)))
    with pytest.raises(RuntimeError, match="403"):
        await WebSocketClient.connect(url + "?port=9", "v4.channel.k8s.io")


async def test_text_in_a_tunnel_ends_it(streaming: StreamingServer, pod: Pod) -> None:
    client = await WebSocketClient.connect(streaming.url("portforward", OpenPortForward(pod.dial)), TUNNEL)
    client.send("text")
    while await client.receive() is not None:
        pass
    await client.close()
