"""The streaming server over SPDY/3.1: tokens, upgrades, exec and attach, and peers that mean no good."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from moorage.server.errors import FailedPrecondition, InvalidArgument, ResourceExhausted, Unavailable
from moorage.server.streaming import handshake, mux, remotecommand, tokens
from moorage.server.streaming.requests import OpenAttach, OpenExec
from moorage.server.streaming.server import StreamingServer
from tests.streamclient import FIN, FakeProcess, SpdyClient, exec_url, http, spdy, upgrade_headers

V4 = "v4.channel.k8s.io"
TERMINAL = {"stdin": True, "stderr": False, "tty": True}


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


# Tokens and URLs


async def test_urls_are_absolute_and_redeemed_once(streaming: StreamingServer, process: FakeProcess) -> None:
    url = exec_url(streaming, process)
    assert url.startswith(f"http://127.0.0.1:{streaming.port}/exec/")
    first = await http(url, upgrade_headers(V4))
    second = await http(url, upgrade_headers(V4))
    assert (first.status, second.status) == (101, 404)
    first.writer.close()
    second.writer.close()


async def test_unknown_tokens_and_other_paths_are_not_found(streaming: StreamingServer, process: FakeProcess) -> None:
    base = f"http://127.0.0.1:{streaming.port}"
    url = exec_url(streaming, process)
    token = url.rpartition("/")[2]
    for path in ("/exec/unknown", "/", "/exec/", f"/attach/{token}", f"/exec/{token}/more", f"//exec/{token}"):
        response = await http(base + path, upgrade_headers(V4))
        assert response.status == 404, path
        assert not response.values("upgrade")
        response.writer.close()
    # None of them cost the true URL its use.
    response = await http(url, upgrade_headers(V4))
    assert response.status == 101
    response.writer.close()


def test_tokens_expire_and_are_limited(process: FakeProcess) -> None:
    now = 0.0
    issued = tokens.Tokens(lambda: now)
    request = OpenExec(process.connect)
    old = issued.issue("exec", request)
    now = 59.0
    assert issued.redeem("exec", old) is request
    late = issued.issue("exec", request)
    now += 60.0
    assert issued.redeem("exec", late) is None
    assert len({issued.issue("exec", request) for _ in range(1000)}) == 1000
    with pytest.raises(ResourceExhausted):
        issued.issue("exec", request)
    now += 60.0
    assert issued.redeem("exec", issued.issue("exec", request)) is request


async def test_what_makes_no_sense_gets_no_url(streaming: StreamingServer, process: FakeProcess) -> None:
    with pytest.raises(InvalidArgument, match="tty and stderr"):
        exec_url(streaming, process, tty=True)
    with pytest.raises(InvalidArgument, match="at least one"):
        exec_url(streaming, process, stdout=False, stderr=False)
    with pytest.raises(InvalidArgument, match="not for attach"):
        streaming.url("attach", OpenExec(process.connect))
    with pytest.raises(FailedPrecondition):
        exec_url(StreamingServer(), process)


async def test_addresses() -> None:
    with pytest.raises(InvalidArgument, match="without TLS"):
        StreamingServer(address="0.0.0.0:0")
    for bad in ("", "127.0.0.1", "127.0.0.1:x", "host/path:1", "127.0.0.1:99999"):
        with pytest.raises(InvalidArgument):
            StreamingServer(address=bad)
    advertised = StreamingServer(advertise="node.example:10010")
    await advertised.start()
    assert exec_url(advertised, FakeProcess()).startswith("http://node.example:10010/exec/")
    with pytest.raises(Unavailable):
        await StreamingServer(address=f"127.0.0.1:{advertised.port}").start()
    await advertised.stop()


async def test_tls(tmp_path: Path, process: FakeProcess) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=node "
        f"-addext subjectAltName=IP:127.0.0.1 -keyout {key} -out {cert}"
    )
    subprocess.run(command.split(), check=True, capture_output=True)
    with pytest.raises(InvalidArgument, match="cannot use certificate"):
        await StreamingServer(tls=(key, cert)).start()
    secure = StreamingServer(tls=(cert, key))
    await secure.start()
    url = exec_url(secure, process)
    assert url.startswith("https://127.0.0.1:")
    async with spdy(url, tls=ssl.create_default_context(cafile=str(cert))) as client:
        _errors, out, _err = await client.open_all("error", "stdout", "stderr")
        await process.say(b"secret")
        await process.end()
        assert await client.finished(out) == b"secret"
    await secure.stop()


# Upgrades


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ([V4, "channel.k8s.io"], V4),
        (["v9.channel.k8s.io", "v3.channel.k8s.io", V4], "v3.channel.k8s.io"),
        (["v9.channel.k8s.io, v2.channel.k8s.io"], "v2.channel.k8s.io"),
        (["v5.channel.k8s.io", "channel.k8s.io"], "channel.k8s.io"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_the_clients_first_known_version_is_chosen(
    streaming: StreamingServer, process: FakeProcess, offered: list[str], chosen: str, method: str
) -> None:
    response = await http(exec_url(streaming, process), upgrade_headers(*offered), method=method)
    assert response.status == 101
    assert response.values("x-stream-protocol-version") == [chosen]
    assert (response.values("connection"), response.values("upgrade")) == (["Upgrade"], ["SPDY/3.1"])
    response.writer.close()


@pytest.mark.parametrize(
    ("headers", "method", "status"),
    [
        ([], "POST", 400),
        ([("Upgrade", "SPDY/3.1"), ("X-Stream-Protocol-Version", V4)], "POST", 400),
        ([("Connection", "Upgrade"), ("Upgrade", "h2c")], "GET", 400),
        (upgrade_headers(), "POST", 400),
        (upgrade_headers("v9.channel.k8s.io"), "POST", 403),
        (upgrade_headers(V4), "PUT", 405),
        ([*upgrade_headers(V4), ("Content-Length", "1")], "POST", 400),
        ([("Connection", "Upgrade"), ("Upgrade", "websocket")], "GET", 400),
        ([("X", "x" * handshake.MAX_HEAD)], "GET", 431),
        ([("Bad header", "x")], "GET", 400),
    ],
)
async def test_other_requests_are_refused(
    streaming: StreamingServer, process: FakeProcess, headers: list[tuple[str, str]], method: str, status: int
) -> None:
    response = await http(exec_url(streaming, process), headers, method=method, behind=b"x")
    assert response.status == status
    known = list(handshake.SPDY_COMMAND_PROTOCOLS) if status == 403 else []
    assert response.values("x-accepted-stream-protocol-versions") == known
    assert response.values("connection") == ["close"]
    response.writer.close()


async def test_frames_right_behind_the_request_are_not_lost(streaming: StreamingServer, process: FakeProcess) -> None:
    ping = struct.pack(">HHII", 0x8003, 6, 4, 1)
    response = await http(exec_url(streaming, process), upgrade_headers(V4), behind=ping)
    client = SpdyClient(response.reader, response.writer)
    await client.until(lambda: client.pings == [1])
    await client.close()


# Exec and attach


@pytest.mark.parametrize("code", [0, 7])
async def test_exec(streaming: StreamingServer, process: FakeProcess, code: int) -> None:
    async with spdy(exec_url(streaming, process, stdin=True)) as client:
        errors, stdin, out, err = await client.open_all("error", "stdin", "stdout", "stderr")
        client.send(client.framer.data(stdin, b"to be ") + client.framer.data(stdin, b"read", FIN))
        await process.stdin_closed.wait()
        assert process.stdin == b"to be read"
        big = bytes(range(256)) * 1000
        await process.say(big)
        await process.say(b"oops", "stderr")
        await process.end(code)
        assert await client.finished(out) == big
        assert await client.finished(err) == b"oops"
        status = json.loads(await client.finished(errors))
        await client.until(lambda: client.streams[stdin].reset)
        await process.closed.wait()
        assert not client.closed, "the client has to hang up, or it would lose what it has not read yet"
    assert status["status"] == ("Failure" if code else "Success")
    if code:
        assert status["reason"] == "NonZeroExitCode"
        assert status["details"]["causes"] == [{"reason": "ExitCode", "message": "7"}]


@pytest.mark.parametrize("version", ["v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"])
@pytest.mark.parametrize("code", [0, 3])
async def test_versions_of_old_tell_failures_as_text(
    streaming: StreamingServer, process: FakeProcess, version: str, code: int
) -> None:
    async with spdy(exec_url(streaming, process), version) as client:
        errors, out, _err = await client.open_all("error", "stdout", "stderr")
        await process.say(b"out")
        await process.end(code)
        assert await client.finished(out) == b"out"
        expected = b"command terminated with non-zero exit code: 3" if code else b""
        assert await client.finished(errors) == expected


async def test_terminal_sizes(streaming: StreamingServer, process: FakeProcess) -> None:
    async with spdy(exec_url(streaming, process, **TERMINAL)) as client:
        _errors, _stdin, _out, resize = await client.open_all("error", "stdin", "stdout", "resize")
        sizes = b'{"Width":80,"Height":24}\n{"width":0,"Height":3}{"Width":132,"Height":43}'
        for byte in sizes:
            client.send(client.framer.data(resize, bytes((byte,))))
        assert [await process.sizes.get(), await process.sizes.get()] == [(80, 24), (132, 43)]
        client.send(client.framer.data(resize, b'{"Width":"wide"}'))
        await client.until(lambda: client.streams[resize].reset)
        await process.end()
        await client.until(lambda: client.streams[1].finished)


@pytest.mark.parametrize("text", [b"[1]", b"x", b'{"Width":-1}', b'{"Width":1e3}', b"{" * 4096, b'{"a":' * 4096])
def test_other_sizes_are_refused(text: bytes) -> None:
    with pytest.raises(ValueError):
        list(remotecommand.ResizeDecoder().feed(text))


async def test_streams_nobody_asked_for_are_refused(streaming: StreamingServer, process: FakeProcess) -> None:
    async with spdy(exec_url(streaming, process)) as client:
        await client.open_all("error", "stdin", "error", "nonsense", "stdout")
        await client.until(lambda: all(client.streams[number].reset for number in (3, 5, 7)))
        await client.open_all("stderr", "stderr")
        await process.end()
        await client.until(lambda: client.streams[1].finished)
        # Nobody takes streams any more once all are there.
        late = await client.open(streamtype="stdin")
        await client.until(lambda: client.streams[late].reset)
        assert not client.streams[late].replied


async def test_a_failed_start_is_told(streaming: StreamingServer) -> None:
    async def connect() -> FakeProcess:
        raise FailedPrecondition("cannot execute /nothing: it does not exist", exit_code=127)

    async with spdy(streaming.url("exec", OpenExec(connect))) as client:
        errors, _out, _err = await client.open_all("error", "stdout", "stderr")
        status = json.loads(await client.finished(errors))
        assert status["reason"] == "InternalError"
        assert status["details"]["causes"] == [{"message": "cannot execute /nothing: it does not exist"}]


@pytest.mark.parametrize("error", [ResourceExhausted("too slow"), RuntimeError("a bug")])
async def test_a_stream_that_fails_is_told(streaming: StreamingServer, process: FakeProcess, error: Exception) -> None:
    async with spdy(exec_url(streaming, process)) as client:
        errors, _out, _err = await client.open_all("error", "stdout", "stderr")
        await process.fail(error)
        told = "too slow" if isinstance(error, ResourceExhausted) else "internal error"
        assert json.loads(await client.finished(errors))["details"]["causes"] == [{"message": told}]
        await process.closed.wait()


@pytest.mark.parametrize(("once", "tty"), [(True, False), (False, False), (True, True)])
async def test_attach_closes_stdin_only_if_told_to(
    streaming: StreamingServer, process: FakeProcess, once: bool, tty: bool
) -> None:
    request = OpenAttach(process.connect, stdin=True, stdin_once=once, tty=tty, stderr=False)
    async with spdy(streaming.url("attach", request)) as client:
        types = ["error", "stdin", "stdout", *(["resize"] if tty else [])]
        errors, stdin, *_ = await client.open_all(*types)
        client.send(client.framer.data(stdin, b"last words", FIN))
        await process.got_stdin.wait()
        if once and not tty:
            await process.stdin_closed.wait()
        await process.end(5)
        # How the container ended is told by its status, not by whoever watched.
        assert json.loads(await client.finished(errors))["status"] == "Success"
        assert process.stdin_closed.is_set() == (once and not tty)


@pytest.mark.parametrize("tty", [False, True])
async def test_who_ends_its_input_detaches_from_a_container_that_others_may_speak_to(
    streaming: StreamingServer, process: FakeProcess, monkeypatch: pytest.MonkeyPatch, tty: bool
) -> None:
    monkeypatch.setattr(remotecommand, "LINGER_SECONDS", 0.05)
    request = OpenAttach(process.connect, stdin=True, tty=tty, stderr=False, detaches=True)
    async with spdy(streaming.url("attach", request)) as client:
        types = ["error", "stdin", "stdout", *(["resize"] if tty else [])]
        errors, stdin, out, *_ = await client.open_all(*types)
        await process.say(b"before")
        client.send(client.framer.data(stdin, b"last words", FIN))
        assert json.loads(await client.finished(errors))["status"] == "Success"
        assert await client.finished(out) == b"before"
        await process.closed.wait()
        assert not process.stdin_closed.is_set()


async def test_a_client_that_hangs_up_lets_go_of_the_process(streaming: StreamingServer, process: FakeProcess) -> None:
    async with spdy(exec_url(streaming, process)) as client:
        await client.open_all("error", "stdout", "stderr")
        await process.say(b"x")
    await process.closed.wait()


async def test_a_process_that_does_not_read_slows_its_client(
    streaming: StreamingServer, process: FakeProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mux, "GONE_CHECK_SECONDS", 0.05)
    process.reads_stdin.clear()
    client = await SpdyClient.connect(exec_url(streaming, process, stdin=True), V4)
    _errors, stdin, out, _err = await client.open_all("error", "stdin", "stdout", "stderr")
    piece = client.framer.data(stdin, bytes(1 << 20))
    sent = 0
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            while sent < 100:
                client.send(piece)
                await client.writer.drain()
                sent += 1
    assert sent < 40
    # Output goes on meanwhile, and when the client goes this is noticed although nothing of it is read.
    await process.say(b"still here")
    await client.until(lambda: client.streams[out].data == b"still here" and 2 in client.pings)
    client.writer.transport.abort()
    await process.closed.wait()
    await client.close()


async def test_a_client_that_does_not_read_slows_its_process_only(
    streaming: StreamingServer, process: FakeProcess
) -> None:
    response = await http(exec_url(streaming, process), upgrade_headers(V4))
    response.writer.transport.pause_reading()  # type: ignore[attr-defined]
    framer = SpdyClient(response.reader, response.writer).framer
    for number, name in ((1, "error"), (3, "stdout"), (5, "stderr")):
        response.writer.write(framer.syn_stream(number, {"streamtype": name}))
    said = 0
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            while said < 1000:
                await process.say(bytes(1 << 20))
                said += 1
    assert said < 40
    other = FakeProcess()
    async with spdy(exec_url(streaming, other)) as client:
        await client.open_all("error", "stdout", "stderr")
        await other.end()
        await client.finished(1)
    response.writer.transport.abort()
    await process.closed.wait()


async def test_stop_ends_everything(process: FakeProcess) -> None:
    streaming = StreamingServer()
    await streaming.start()
    async with spdy(exec_url(streaming, process)) as client:
        await client.open_all("error", "stdout", "stderr")
        await process.say(b"x")
        await client.until(lambda: bool(client.streams[3].data))
        await streaming.stop()
        await process.closed.wait()
        await client.hung_up_on()
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", streaming.port))
