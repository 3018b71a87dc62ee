"""Sockets of SSH agents for RUN steps: what is said on them, and what is answered."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

from moorage.server.builder import agents as module
from moorage.server.builder.agents import MAX_CONNECTIONS, AgentData, Agents


class Client:
    """The client's side; it has always caught up."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[AgentData] = asyncio.Queue()
        self.agents = Agents(frozenset({"default"}), self.heard.put_nowait, self._room)

    async def _room(self) -> None:
        await asyncio.sleep(0)


def directory(tmp_path: Path) -> Path:
    """A directory whose sockets have longer paths than an address holds."""
    deep = tmp_path / ("x" * 120)
    deep.mkdir()
    return deep


async def connected(path: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    near = path.parent.parent / "near"
    if not near.exists():
        near.symlink_to(path.parent)
    return await asyncio.open_unix_connection(near / path.name)


async def test_each_connection_is_a_conversation_of_its_own(tmp_path: Path) -> None:
    client, path = Client(), directory(tmp_path) / "s"
    async with client.agents.listen("default", path, mode=0o640, uid=0, gid=0):
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        _, writer = await connected(path)
        writer.write(b"one")
        first = await client.heard.get()
        assert (first.id, first.data) == ("default", b"one")
        other_reader, other = await connected(path)
        other.write(b"two")
        second = await client.heard.get()
        assert (second.data, second.connection != first.connection) == (b"two", True)
        writer.write(b"more")
        assert await client.heard.get() == AgentData(first.connection, "", b"more")
        client.agents.take(AgentData(second.connection, data=b"answer"))
        assert await other_reader.readexactly(6) == b"answer"
        writer.close()
        assert await client.heard.get() == AgentData(first.connection, end=True)
        client.agents.take(AgentData(first.connection, data=b"too late"))
        client.agents.take(AgentData(second.connection, end=True))
        assert await other_reader.read() == b""
        other.close()
    assert await client.heard.get() == AgentData(second.connection, end=True)


async def test_connections_end_with_the_step(tmp_path: Path) -> None:
    client, path = Client(), directory(tmp_path) / "s"
    async with client.agents.listen("default", path, mode=0o600, uid=0, gid=0):
        reader, writer = await connected(path)
        writer.write(b"one")
        await client.heard.get()
    assert await reader.read() == b""
    writer.close()


async def test_a_client_that_says_no_more_ends_them(tmp_path: Path) -> None:
    client, path = Client(), directory(tmp_path) / "s"
    async with client.agents.listen("default", path, mode=0o600, uid=0, gid=0):
        reader, writer = await connected(path)
        writer.write(b"one")
        await client.heard.get()
        client.agents.close()
        assert await reader.read() == b""
        writer.close()


async def test_there_are_not_too_many_at_once(tmp_path: Path) -> None:
    client, path = Client(), directory(tmp_path) / "s"
    async with client.agents.listen("default", path, mode=0o600, uid=0, gid=0):
        writers = []
        for _ in range(MAX_CONNECTIONS):
            _, writer = await connected(path)
            writer.write(b"x")
            await client.heard.get()
            writers.append(writer)
        reader, writer = await connected(path)
        assert await reader.read() == b""
        for each in (*writers, writer):
            each.close()


async def test_a_command_that_does_not_read_its_answers_is_cut_off(tmp_path: Path) -> None:
    client, path = Client(), directory(tmp_path) / "s"
    async with client.agents.listen("default", path, mode=0o600, uid=0, gid=0):
        reader, writer = await connected(path)
        writer.write(b"one")
        piece = await client.heard.get()
        for _ in range(100):
            client.agents.take(AgentData(piece.connection, data=bytes(module.MAX_UNREAD // 4)))
        assert len(await reader.read()) <= 2 * module.MAX_UNREAD
        writer.close()
