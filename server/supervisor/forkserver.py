"""A process that does nothing but fork the keepers of pods, and runners, so that their memory stays shared and the spawner is free.

    spawner ── fork server ─┬─ keeper ── supervisor
                            └─ runner

A page is shared by all who were forked while it was as it is. The spawner writes to hundreds of its pages between two forks, and each
of its forks would be left with their former contents for itself; this one writes to a few, and always the same.
"""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Callable

from moorage.server.supervisor import keeper
from moorage.server.supervisor.children import forked, reap_all
from moorage.server.supervisor.title import set_title

TITLE = "moorage-forkserver"

Work = Callable[[int, bytes], None]
"""The life of a fork, with the descriptor and the byte that it was asked for with."""


class ForkServer:
    """Our end of it. It ends when we do; what it has forked stays. One that has died is replaced."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._sock: socket.socket | None = None

    def fork(self, fd: int, kind: bytes) -> None:
        """Have a process forked that has nothing of ours but `fd`, which stays the caller's."""
        try:
            self._send(fd, kind)
        except BrokenPipeError:
            self.discard()
            self._send(fd, kind)

    def discard(self) -> None:
        """End it: the next one is a fork of what we are then."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _send(self, fd: int, kind: bytes) -> None:
        if self._sock is None:
            self._sock = _start(self._work)
        socket.send_fds(self._sock, [kind], [fd])


def _start(work: Work) -> socket.socket:
    ours, theirs = socket.socketpair()
    with theirs:
        forked(lambda kept: _serve(socket.socket(fileno=kept[0]), work), (theirs.fileno(),))
    return ours


def _serve(sock: socket.socket, work: Work) -> None:
    keeper.rehearse()
    set_title(TITLE)
    receiver, sender = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(sender, warn_on_full_buffer=False)
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    poll.register(receiver, select.POLLIN)
    while True:
        for fd, _events in poll.poll():
            if fd == receiver:
                os.read(receiver, 512)
                reap_all()
                continue
            kind, fds, _flags, _address = socket.recv_fds(sock, 1, 1)
            if not kind:
                return
            _fork(work, fds[0], kind)


def _fork(work: Work, fd: int, kind: bytes) -> None:
    forked(lambda kept: work(kept[0], kind), (fd,))
    os.close(fd)
