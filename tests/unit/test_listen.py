"""Addresses to listen on, and pages of lists."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage.server.api import context, listen
from moorage.server.errors import AlreadyExists, FailedPrecondition, InvalidArgument


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("unix:///run/x.sock", "unix"),
        ("tcp://127.0.0.1:1234", "tcp"),
        ("tcp://[::1]:1", "tcp"),
        ("fd://", "fd"),
        ("fd://api", "fd"),
    ],
)
def test_known_schemes(url: str, kind: str) -> None:
    assert listen.parse(url).kind == kind


@pytest.mark.parametrize(
    "url", ["", "/run/x.sock", "unix://relative", "tcp://host", "tcp://host:x", "http://127.0.0.1:1", "fd://a/b"]
)
def test_anything_else_is_refused(url: str) -> None:
    with pytest.raises(InvalidArgument, match="cannot listen"):
        listen.parse(url)


def test_loopback_is_told_from_the_rest() -> None:
    assert all(listen.is_loopback(host) for host in ("localhost", "127.0.0.1", "127.9.9.9", "::1"))
    assert not any(listen.is_loopback(host) for host in ("0.0.0.0", "10.0.0.1", "::", "example"))


def test_a_socket_nobody_listens_on_is_replaced_and_others_are_not(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(path)
    dead.close()
    listen._remove_stale(path)
    assert not os.path.exists(path)
    with socket.socket(socket.AF_UNIX) as alive:
        alive.bind(path)
        alive.listen()
        with pytest.raises(AlreadyExists, match="another process listens"):
            listen._remove_stale(path)
    Path(path).unlink()
    Path(path).write_text("")
    with pytest.raises(AlreadyExists, match="not a socket"):
        listen._remove_stale(path)


def test_activation_needs_a_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LISTEN_PID", raising=False)
    with pytest.raises(FailedPrecondition, match="no socket was passed"):
        listen.activated("")


async def test_the_relay_carries_both_ways(tmp_path: Path) -> None:
    inner = str(tmp_path / "inner")

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.read()).upper())
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_unix_server(echo, inner)
    outer = socket.socket()
    outer.bind(("127.0.0.1", 0))
    outer.listen()
    async with listen.relay(outer, inner):
        reader, writer = await asyncio.open_connection(*outer.getsockname())
        writer.write(b"hello" * 100_000)
        writer.write_eof()
        assert await reader.read() == b"HELLO" * 100_000
        writer.close()
        await writer.wait_closed()
    server.close()
    await server.wait_closed()
    await asyncio.sleep(0.05)


@given(items=st.lists(st.integers(), unique=True, max_size=60).map(sorted), size=st.integers(1, 20))
def test_pages_are_the_list(items: list[int], size: int) -> None:
    seen: list[int] = []
    token = ""
    while True:
        page, token = context.page(items, lambda item: (item,), size, token)
        assert len(page) <= size
        seen += page
        if not token:
            break
    assert seen == items


def test_a_page_goes_on_behind_a_removed_item() -> None:
    first, token = context.page([1, 2, 3, 4], lambda item: (item,), 2, "")
    rest, _ = context.page([1, 3, 4], lambda item: (item,), 2, token)
    assert (first, rest) == ([1, 2], [3, 4])


@pytest.mark.parametrize("token", ["x", "!!", "e30="])
def test_a_foreign_token_is_refused(token: str) -> None:
    with pytest.raises(InvalidArgument):
        context.page([1], lambda item: (item,), 1, token)
