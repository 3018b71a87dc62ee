"""The frames between daemon, spawner and supervisors, and what a supervisor makes of them."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage.server.errors import FailedPrecondition, Internal, ResourceExhausted
from moorage.server.execdriver.spawner_client import raise_error
from moorage.server.libcontainer.process import StartError
from moorage.server.supervisor.connection import Connection
from moorage.server.supervisor.failures import Failure, describe
from moorage.server.supervisor.loop import Loop
from moorage.server.supervisor.protocol import (
    MAX_PAYLOAD,
    MESSAGE,
    STDERR,
    STDIN,
    STDOUT,
    Channel,
    Decoder,
    Frame,
    ProtocolError,
    pack_data,
    pack_message,
)
from moorage.server.supervisor.streams import STDIN_LIMIT, Input, Output

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
MESSAGES = st.dictionaries(st.text().filter(lambda key: key != "fds"), JSON, max_size=4)
FRAMES = st.one_of(
    MESSAGES.map(lambda message: Frame(MESSAGE, message, b"")),
    st.tuples(st.sampled_from([STDIN, STDOUT, STDERR]), st.binary(max_size=300)).map(
        lambda pair: Frame(pair[0], {}, pair[1])
    ),
)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, two = socket.socketpair()
    with one, two:
        yield one, two


@given(st.lists(FRAMES, max_size=6), st.integers(1, 50))
def test_frames_arrive_whole_however_they_are_cut(frames: list[Frame], size: int) -> None:
    wire = b"".join(
        pack_message(frame.message) if frame.kind == MESSAGE else pack_data(frame.kind, frame.data) for frame in frames
    )
    decoder = Decoder()
    found = [frame for start in range(0, len(wire), size) for frame in decoder.feed(wire[start : start + size])]
    assert found == frames


@pytest.mark.parametrize(
    "wire",
    [
        b"\xff\xff\xff\xff\x00",
        b"\0\0\0\0\x09",
        b"\0\0\0\2\0[]",
        b"\0\0\0\1\0{",
        pack_message({"fds": 1}),
        pack_message({"fds": "x"}),
        pack_message({"fds": -1}),
    ],
)
def test_what_is_no_frame_is_refused(wire: bytes) -> None:
    with pytest.raises(ProtocolError):
        list(Decoder().feed(wire))


def test_a_message_that_is_too_large_is_not_sent() -> None:
    with pytest.raises(ProtocolError, match="larger"):
        pack_message({"text": "x" * MAX_PAYLOAD})


def test_descriptors_go_with_their_message(pair: tuple[socket.socket, socket.socket]) -> None:
    one, two = Channel(pair[0]), Channel(pair[1])
    reader, writer = os.pipe()
    one.send({"n": 1})
    one.send({"n": 2}, [reader, writer])
    os.close(reader)
    os.close(writer)
    first, second = two.receive(), two.receive()
    assert first == Frame(MESSAGE, {"n": 1}, b"")
    assert second is not None
    got_reader, got_writer = second.fds
    os.write(got_writer, b"through")
    assert os.read(got_reader, 10) == b"through"
    assert not os.get_inheritable(got_reader)
    os.close(got_reader)
    os.close(got_writer)


def test_descriptors_nobody_took_are_closed(pair: tuple[socket.socket, socket.socket]) -> None:
    one, two = Channel(pair[0]), Channel(pair[1])
    reader, writer = os.pipe()
    one.send({}, [writer])
    one.send({}, [writer])
    os.close(writer)
    frame = two.receive()
    assert frame is not None
    os.close(frame.fds[0])
    two.close()
    one.close()
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_what_was_read_together_is_kept(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[0].sendall(pack_message({"n": 1}) + pack_message({"n": 2}))
    channel = Channel(pair[1])
    first = channel.receive()
    assert first is not None
    assert (first.message, [frame.message for frame in channel.arrived()]) == ({"n": 1}, [{"n": 2}])
    pair[0].sendall(pack_message({"n": 3}) + b"\0")
    assert channel.read() == [Frame(MESSAGE, {"n": 3}, b"")]
    pair[0].close()
    assert channel.read() is None


def test_the_end_is_none(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[0].sendall(pack_message({})[:-1])
    pair[0].close()
    assert Channel(pair[1]).receive() is None


@pytest.mark.parametrize(
    ("error", "kind", "metadata"),
    [
        (
            StartError("no such command", stage="exec", errno=2, path="/x", exit_code=127),
            FailedPrecondition,
            {"stage": "exec", "errno": "2", "path": "/x", "exit_code": "127"},
        ),
        (StartError("disk is full", errno=28), ResourceExhausted, {"errno": "28", "exit_code": "128"}),
        (OSError(28, "No space left on device", "/log"), ResourceExhausted, {"errno": "28", "path": "/log"}),
        (OSError(5, "Input/output error"), Internal, {"errno": "5"}),
        (Failure("FailedPrecondition", "not now", why="so"), FailedPrecondition, {"why": "so"}),
        (Failure("NoSuchClass", "what"), Internal, {}),
        (Failure("annotations", "what"), Internal, {}),
        (KeyError("container"), Internal, {}),
    ],
)
def test_errors_come_out_as_they_went_in(error: Exception, kind: type[Exception], metadata: dict[str, str]) -> None:
    with pytest.raises(kind) as caught:
        raise_error(describe(error))
    assert type(caught.value) is kind
    found = caught.value.metadata  # type: ignore[attr-defined]
    assert metadata.items() <= found.items()


def pump(loop: Loop, seconds: float = 0.05) -> None:
    loop.call_later(seconds, loop.stop)
    loop.run()


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


def test_a_connection_keeps_what_does_not_fit_and_says_when_it_has_gone(
    loop: Loop, pair: tuple[socket.socket, socket.socket]
) -> None:
    drained: list[int] = []
    connection = Connection(loop, pair[0], lambda _frame: None)
    connection.on_drained = lambda: drained.append(connection.queued)
    data = os.urandom(2 << 20)
    connection.send_data(STDOUT, data)
    connection.send({"last": True})
    assert connection.queued > 0
    assert drained == []
    reader, found = Channel(pair[1]), list[Frame]()
    pair[1].settimeout(0.01)
    while len(found) < 2:
        pump(loop, 0.005)
        try:
            frame = reader.receive()
        except TimeoutError:
            continue
        assert frame is not None
        found.append(frame)
    assert found == [Frame(STDOUT, {}, data), Frame(MESSAGE, {"last": True}, b"")]
    assert drained == [0]
    connection.close()


def test_dropping_the_queue_leaves_whole_frames(loop: Loop, pair: tuple[socket.socket, socket.socket]) -> None:
    connection = Connection(loop, pair[0], lambda _frame: None)
    for number in range(40):
        connection.send_data(STDOUT, bytes([number]) * 50_000)
    connection.drop_queued()
    connection.send({"error": "too slow"})
    connection.end()
    pair[1].settimeout(1)
    channel, frames = Channel(pair[1]), list[Frame]()
    loop.call_later(1, loop.stop)
    pair[1].setblocking(False)
    while True:
        pump(loop, 0.005)
        try:
            frame = channel.receive()
        except BlockingIOError:
            continue
        if frame is None:
            break
        frames.append(frame)
    assert frames[-1].message == {"error": "too slow"}
    assert [frame.data for frame in frames[:-1]] == [bytes([n]) * 50_000 for n in range(len(frames) - 1)]
    assert 0 < len(frames) - 1 < 40


def test_a_hang_up_is_noticed_although_nothing_is_read(loop: Loop, pair: tuple[socket.socket, socket.socket]) -> None:
    closed: list[bool] = []
    connection = Connection(loop, pair[0], lambda _frame: None)
    connection.on_close = lambda: closed.append(True)
    connection.pause()
    pair[1].sendall(pack_message({}))
    pump(loop)
    assert closed == []
    pair[1].close()
    pump(loop)
    assert closed == [True]


@pytest.mark.parametrize("wire", [b"\xff" * 5, pack_message({"boom": 1})])
def test_nonsense_ends_its_connection_and_nothing_else(
    loop: Loop, pair: tuple[socket.socket, socket.socket], wire: bytes
) -> None:
    connection = Connection(loop, pair[0], lambda frame: frame.message["missing"])
    pair[1].sendall(wire)
    pump(loop)
    assert connection.closed


def test_stdin_holds_what_is_not_read_and_tells_of_room(loop: Loop) -> None:
    reader, writer = os.pipe()
    room: list[bool] = []
    stdin = Input(loop, writer, lambda: room.append(stdin.full))
    data = os.urandom(300_000)
    stdin.write(data)
    assert stdin.full
    stdin.end()
    found = b""
    while len(found) < len(data):
        found += os.read(reader, STDIN_LIMIT)
        pump(loop, 0.002)
    assert found == data
    assert os.read(reader, 1) == b""
    assert room[-1] is False
    stdin.write(b"dropped")
    os.close(reader)


def test_stdin_that_is_closed_on_the_other_side_drops_what_comes(loop: Loop) -> None:
    reader, writer = os.pipe()
    stdin = Input(loop, writer, lambda: None)
    os.close(reader)
    stdin.write(b"x")
    stdin.write(b"y")
    assert not stdin.full
    with pytest.raises(OSError):
        os.fstat(writer)


def test_output_is_read_unless_paused_and_ends_once(loop: Loop) -> None:
    reader, writer = os.pipe()
    found: list[bytes] = []
    ends: list[bool] = []
    output = Output(loop, reader, found.append, lambda: ends.append(True))
    output.pause()
    os.write(writer, b"text")
    pump(loop)
    assert found == []
    output.resume()
    pump(loop)
    assert found == [b"text"]
    os.close(writer)
    pump(loop)
    output.close()
    assert ends == [True]


def test_a_timer_that_was_called_off_does_not_fire(loop: Loop) -> None:
    fired: list[str] = []
    loop.call_later(0.01, lambda: fired.append("kept"))
    loop.call_later(0.005, lambda: fired.append("off")).cancel()
    pump(loop)
    assert fired == ["kept"]
