"""The daemon's end of a connection to a supervisor."""

from __future__ import annotations

import array
import os
import socket
from typing import Any, cast

import pytest

from moorage.server.errors import Unavailable
from moorage.server.execdriver import native_stream
from moorage.server.execdriver.base import ExecSpec
from moorage.server.execdriver.native_channel import AsyncChannel
from moorage.server.supervisor import protocol


async def test_a_supervisor_that_answers_and_hangs_up_at_once_breaks_no_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the whole request, and its answer is there to be read."""
    ours, theirs = socket.socketpair()
    real = protocol.send

    def send_and_be_slow(sock: socket.socket, frame: bytes, fds: Any = ()) -> int:
        sent = real(sock, frame, fds)
        _data, ancillary, _flags, _address = theirs.recvmsg(65536, socket.CMSG_SPACE(4))
        for _level, _kind, content in ancillary:
            os.close(array.array("i", content)[0])
        theirs.sendall(protocol.pack_message({"pid": 7}))
        theirs.close()
        return sent

    monkeypatch.setattr(protocol, "send", send_and_be_slow)
    channel = AsyncChannel(ours)
    with open(os.devnull, "rb") as file:
        await channel.send({"op": "exec"}, [file.fileno()])
    frame = await channel.receive()
    assert frame is not None
    assert frame.message == {"pid": 7}
    channel.close()


@pytest.mark.parametrize("pending", [False, True], ids=["closed", "reset"])
async def test_a_request_to_a_supervisor_that_has_died_is_unavailable(pending: bool) -> None:
    ours, theirs = socket.socketpair()
    channel = AsyncChannel(ours)
    if pending:
        # What it has not read makes its end a reset.
        await channel.send({"op": "hello"})
    theirs.close()
    with open(os.devnull, "rb") as file, pytest.raises(Unavailable, match="supervisor died") as died:
        await channel.request({"op": "exec"}, [file.fileno()])
    assert died.value.reason == "SUPERVISOR_DIED"
    channel.close()


async def test_an_exec_of_a_supervisor_that_dies_is_unavailable_and_leaves_no_descriptor() -> None:
    ours, theirs = socket.socketpair()
    channel = AsyncChannel(ours)
    theirs.close()
    spec = ExecSpec(process={}, stdin=True, detach=False)
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(Unavailable):
        await native_stream.execute(channel, {"op": "exec"}, spec, cast(Any, None))
    channel.close()
    assert set(os.listdir("/proc/self/fd")) < before
