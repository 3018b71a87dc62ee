"""What a build's commands may ask of the client's SSH agents."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from moorage.client.agents import MAX_WAITING, Agents, asked, framed, messages, sockets
from moorage.v1 import build_pb2 as pb

LIST, REMOVE_ALL, FAILURE = b"\x0b", b"\x13", b"\x05"


class FakeAgent:
    """Answers every request with `answer:` and itself, when it `may`, and remembers it."""

    def __init__(self, directory: Path) -> None:
        self.path, self.heard = str(directory / "agent"), list[bytes]()
        self.may = threading.Event()
        self.may.set()
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(self.path)
        self._server.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:  # shut down
                return
            with connection:
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        for request in messages(iter(lambda: connection.recv(7), b"")):
            self.heard.append(request)
            self.may.wait()
            connection.sendall(framed(b"answer:" + request))

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._server.close()


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[FakeAgent]:
    agent = FakeAgent(tmp_path)
    yield agent
    agent.close()


class Conversation:
    """One connection of a command, `number`, as the daemon passes it on."""

    def __init__(self, agent: FakeAgent) -> None:
        self.sent: queue.SimpleQueue[pb.BuildRequest] = queue.SimpleQueue()
        self._agents = Agents({"default": agent.path}, self.sent.put)
        self._id = "default"

    def say(self, data: bytes, *, end: bool = False) -> None:
        self._agents.take(pb.BuildAgentData(connection=1, id=self._id, data=data, end=end))
        self._id = ""

    def hear(self) -> pb.BuildAgentData:
        return self.sent.get(timeout=30).agent


def test_keys_are_listed_and_nothing_is_changed(agent: FakeAgent) -> None:
    command = Conversation(agent)
    command.say(framed(LIST)[:3])
    command.say(framed(LIST)[3:] + framed(REMOVE_ALL))
    assert command.hear().data == framed(b"answer:" + LIST)
    assert command.hear().data == framed(FAILURE)
    command.say(framed(b"\x0dsign this"))
    assert command.hear().data == framed(b"answer:\x0dsign this")
    command.say(b"", end=True)
    assert command.hear().end
    assert agent.heard == [LIST, b"\x0dsign this"]


def test_what_is_no_message_ends_the_connection(agent: FakeAgent) -> None:
    command = Conversation(agent)
    command.say(b"\xff" * 5000)
    assert command.hear().end
    assert agent.heard == []


def test_a_flood_ends_the_connection(agent: FakeAgent) -> None:
    command = Conversation(agent)
    agent.may.clear()
    command.say(framed(LIST))
    for _ in range(5 * MAX_WAITING):
        command.say(framed(REMOVE_ALL))
    agent.may.set()
    assert command.hear().data == framed(b"answer:" + LIST)
    answers = list(iter(command.hear, pb.BuildAgentData(connection=1, end=True)))
    assert {piece.data for piece in answers} == {framed(FAILURE)}
    assert len(answers) <= MAX_WAITING + 1


def test_an_agent_that_is_gone_ends_the_connection(
    agent: FakeAgent, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    command = Conversation(agent)
    (tmp_path / "agent").unlink()
    command.say(framed(LIST))
    assert command.hear().end
    assert f"SSH agent {agent.path} ended" in caplog.text


def test_messages_come_in_pieces() -> None:
    stream = framed(b"one") + framed(b"second")
    assert list(messages(iter([stream[:2], stream[2:9], stream[9:]]))) == [b"one", b"second"]
    with pytest.raises(ValueError, match="4294967295 bytes"):
        list(messages(iter([b"\xff" * 8])))


def test_an_agent_that_hangs_up_is_told_from_one_that_answers() -> None:
    here, there = socket.socketpair()
    with here, there:
        there.close()
        with pytest.raises(OSError):
            asked(here, LIST)


def test_sockets_by_id(agent: FakeAgent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", agent.path)
    assert sockets(("default", f"work={agent.path}")) == {"default": agent.path, "work": agent.path}
    key = tmp_path / "key"
    key.touch()
    with pytest.raises(ValueError, match="key files are not read: give the key to an ssh-agent"):
        sockets((f"x={key}",))
    with pytest.raises(ValueError, match="no such file"):
        sockets((f"x={tmp_path}/lost",))
    monkeypatch.delenv("SSH_AUTH_SOCK")
    with pytest.raises(ValueError, match="SSH_AUTH_SOCK is not set"):
        sockets(("default",))
