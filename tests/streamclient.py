"""Clients of the streaming server, with framing of their own, and the process at its other end."""

from __future__ import annotations

import asyncio
import os
import ssl
import struct
import zlib
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Message,
    Ping,
    Pong,
    RejectConnection,
    Request,
    TextMessage,
)

from moorage.server.execdriver.base import Output
from moorage.server.model import ExitStatus
from moorage.server.streaming.dictionary import DICTIONARY
from moorage.server.streaming.requests import OpenExec
from moorage.server.streaming.server import StreamingServer

FIN = 1


class FakeProcess:
    """A ProcessStream that a test drives: `say` and `end` are its output, what it was told is kept."""

    def __init__(self) -> None:
        self.pid = 4711
        self.stdin = bytearray()
        self.stdin_closed = asyncio.Event()
        self.sizes: asyncio.Queue[tuple[int, int]] = asyncio.Queue()
        self.closed = asyncio.Event()
        self.reads_stdin = asyncio.Event()
        self.reads_stdin.set()
        self.got_stdin = asyncio.Event()
        self._output: asyncio.Queue[Output | ExitStatus | Exception] = asyncio.Queue(maxsize=4)

    async def connect(self) -> FakeProcess:
        return self

    async def say(self, data: bytes, stream: str = "stdout") -> None:
        await self._output.put(Output("stderr" if stream == "stderr" else "stdout", data))

    async def end(self, code: int = 0) -> None:
        await self._output.put(ExitStatus(exit_code=code, finished_ns=1))

    async def fail(self, error: Exception) -> None:
        await self._output.put(error)

    async def read(self) -> Output | ExitStatus:
        item = await self._output.get()
        if isinstance(item, Exception):
            raise item
        return item

    async def write(self, data: bytes) -> None:
        await self.reads_stdin.wait()
        self.stdin += data
        self.got_stdin.set()

    async def close_stdin(self) -> None:
        self.stdin_closed.set()

    async def resize(self, columns: int, rows: int) -> None:
        await self.sizes.put((columns, rows))

    async def signal(self, number: int) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        self.closed.set()


@dataclass
class Response:
    """The head of an HTTP response, and the connection it came on."""

    status: int
    headers: list[tuple[str, str]]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name.lower()]


async def dial(url: str, tls: ssl.SSLContext | None = None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(url)
    return await asyncio.open_connection(parts.hostname, parts.port, ssl=tls)


async def http(
    url: str,
    headers: list[tuple[str, str]],
    method: str = "POST",
    behind: bytes = b"",
    tls: ssl.SSLContext | None = None,
) -> Response:
    """Send a request, with bytes right behind it, and read the head of the response."""
    reader, writer = await dial(url, tls)
    parts = urlsplit(url)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    lines = [f"{method} {target} HTTP/1.1", f"Host: {parts.netloc}", *(f"{name}: {value}" for name, value in headers)]
    writer.write("".join(f"{line}\r\n" for line in [*lines, ""]).encode() + behind)
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    fields = [line.partition(":") for line in head[1:] if line]
    return Response(
        int(head[0].split()[1]), [(name.lower(), value.strip()) for name, _, value in fields], reader, writer
    )


def upgrade_headers(*protocols: str) -> list[tuple[str, str]]:
    return [
        ("Connection", "Upgrade"),
        ("Upgrade", "SPDY/3.1"),
        *(("X-Stream-Protocol-Version", protocol) for protocol in protocols),
    ]


class SpdyFramer:
    """A client's frames."""

    def __init__(self) -> None:
        self._deflate = zlib.compressobj(9, zdict=DICTIONARY)

    def headers(self, headers: dict[str, str]) -> bytes:
        words = [text.encode() for pair in headers.items() for text in pair]
        block = struct.pack(">I", len(headers)) + b"".join(struct.pack(">I", len(word)) + word for word in words)
        return self.block(block)

    def block(self, block: bytes) -> bytes:
        return self._deflate.compress(block) + self._deflate.flush(zlib.Z_SYNC_FLUSH)

    def syn_stream(self, stream: int, headers: dict[str, str], flags: int = 0) -> bytes:
        return self.control(1, struct.pack(">IIH", stream, 0, 0) + self.headers(headers), flags)

    @staticmethod
    def control(kind: int, payload: bytes, flags: int = 0, version: int = 3) -> bytes:
        return struct.pack(">HHI", 0x8000 | version, kind, flags << 24 | len(payload)) + payload

    @staticmethod
    def data(stream: int, data: bytes, flags: int = 0) -> bytes:
        return struct.pack(">II", stream, flags << 24 | len(data)) + data


@dataclass
class Received:
    """What a client got on one stream."""

    data: bytearray = field(default_factory=bytearray)
    replied: bool = False
    finished: bool = False
    reset: bool = False


class SpdyClient:
    """Reads all the time, unless paused; `streams` is what has come. Works on any pair of reader and writer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.framer = SpdyFramer()
        self.streams: dict[int, Received] = defaultdict(Received)
        self.pings: list[int] = []
        self.went_away: int | None = None
        self.closed = False
        self._reader = reader
        self.writer = writer
        self._changed = asyncio.Condition()
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)
        self._next = 1
        self._task = asyncio.create_task(self._read())

    @classmethod
    async def connect(cls, url: str, *protocols: str, tls: ssl.SSLContext | None = None) -> SpdyClient:
        response = await http(url, upgrade_headers(*protocols), tls=tls)
        assert response.status == 101, await response.reader.read()
        return cls(response.reader, response.writer)

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def open(self, fin: bool = False, **headers: str) -> int:
        number, self._next = self._next, self._next + 2
        self.send(self.framer.syn_stream(number, headers, FIN if fin else 0))
        await self.until(lambda: self.streams[number].replied or self.streams[number].reset)
        return number

    async def open_all(self, *types: str) -> list[int]:
        return [await self.open(streamtype=name) for name in types]

    async def until(self, condition: object) -> None:
        assert callable(condition)
        async with self._changed:
            await asyncio.wait_for(self._changed.wait_for(condition), 30)

    async def finished(self, number: int) -> bytes:
        await self.until(lambda: self.streams[number].finished)
        return bytes(self.streams[number].data)

    async def hung_up_on(self) -> None:
        await self.until(lambda: self.closed)

    async def close(self) -> None:
        self.writer.close()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _read(self) -> None:
        try:
            while True:
                first, second = struct.unpack(">II", await self._reader.readexactly(8))
                payload = await self._reader.readexactly(second & 0xFFFFFF)
                async with self._changed:
                    self._frame(first, second >> 24, payload)
                    self._changed.notify_all()
        except (asyncio.IncompleteReadError, OSError):
            async with self._changed:
                self.closed = True
                self._changed.notify_all()

    def _frame(self, first: int, flags: int, payload: bytes) -> None:
        if not first & 0x80000000:
            received = self.streams[first]
            received.data += payload
            received.finished |= bool(flags & FIN)
            return
        assert first >> 16 == 0x8003
        kind, word = first & 0xFFFF, struct.unpack_from(">I", payload)[0]
        if kind == 2:
            assert self._inflate.decompress(payload[4:]) == bytes(4)
            self.streams[word].replied = True
        elif kind == 3:
            self.streams[word].reset = True
        elif kind == 6:
            self.pings.append(word)
        elif kind == 7:
            self.went_away = struct.unpack(">II", payload)[1]


class WebSocketClient:
    """Messages in the order they came, binary or text; None is the server's close, whose code is kept."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, protocol: WSConnection) -> None:
        self.reader = reader
        self.writer = writer
        self.protocol = protocol
        self.close_code = 0
        self.pongs: list[bytes] = []
        self.subprotocol = ""
        self._parts: list[bytes | str] = []
        self._messages: list[bytes | str | None] = []

    @classmethod
    async def connect(cls, url: str, *subprotocols: str) -> WebSocketClient:
        """Raises RuntimeError with the status if refused."""
        reader, writer = await dial(url)
        parts = urlsplit(url)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        protocol = WSConnection(ConnectionType.CLIENT)
        client = cls(reader, writer, protocol)
        writer.write(protocol.send(Request(host=parts.netloc, target=target, subprotocols=list(subprotocols))))
        while True:
            protocol.receive_data(await reader.read(65536))
            for event in protocol.events():
                if isinstance(event, AcceptConnection):
                    client.subprotocol = event.subprotocol or ""
                    return client
                if isinstance(event, RejectConnection):
                    writer.close()
                    raise RuntimeError(event.status_code)

    def send(self, data: bytes | str) -> None:
        self.writer.write(self.protocol.send(TextMessage(data) if isinstance(data, str) else BytesMessage(data)))

    def send_parts(self, *parts: bytes) -> None:
        for index, part in enumerate(parts):
            event = BytesMessage(part, message_finished=index == len(parts) - 1)
            self.writer.write(self.protocol.send(event))

    def ping(self, payload: bytes) -> None:
        self.writer.write(self.protocol.send(Ping(payload)))

    async def receive(self) -> bytes | str | None:
        while True:
            for event in self.protocol.events():
                self._event(event)
            if self._messages:
                break
            data = await asyncio.wait_for(self.reader.read(65536), 30)
            if not data:
                return None
            self.protocol.receive_data(data)
        return self._messages.pop(0)

    def _event(self, event: object) -> None:
        if isinstance(event, Message):
            self._parts.append(event.data if isinstance(event.data, str) else bytes(event.data))
            if event.message_finished:
                text = "".join(part for part in self._parts if isinstance(part, str))
                binary = b"".join(part for part in self._parts if isinstance(part, bytes))
                self._messages.append(text if isinstance(event, TextMessage) else binary)
                self._parts = []
        elif isinstance(event, CloseConnection):
            self.close_code = int(event.code)
            self.writer.write(self.protocol.send(event.response()))
            self._messages.append(None)
        elif isinstance(event, Pong):
            self.pongs.append(bytes(event.payload))

    async def channels(self) -> dict[int, bytes]:
        """All that comes until the close, by channel."""
        found: dict[int, bytes] = {}
        while (message := await self.receive()) is not None:
            assert isinstance(message, bytes)
            found[message[0]] = found.get(message[0], b"") + message[1:]
        return found

    async def close(self) -> None:
        self.writer.close()
        await asyncio.gather(self.writer.wait_closed(), return_exceptions=True)


@asynccontextmanager
async def spdy(url: str, *protocols: str, **options: Any) -> AsyncIterator[SpdyClient]:
    client = await SpdyClient.connect(url, *(protocols or ("v4.channel.k8s.io",)), **options)
    try:
        yield client
    finally:
        await client.close()


def exec_url(streaming: StreamingServer, process: FakeProcess, **flags: bool) -> str:
    return streaming.url("exec", OpenExec(process.connect, **flags))


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))
