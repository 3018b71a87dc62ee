"""A pod's keeper: the process that a quiet pod keeps, as small as a fork of the spawner can be.

    spawner ── keeper ── supervisor ── first process of a container

To set a pod up and to start its containers writes to a quarter of the memory that forks share with the spawner, and what has been
written to is copied for good. So that is done in a fork of the keeper, which ends when the pod has been quiet for a while: what it has
open it sends to the keeper, with messages about it (handover.py), and its children become the keeper's, which is their next subreaper.
Of all that the keeper reads nothing; it waits until there is something to do, and only then becomes the supervisor itself.

Whatever a keeper calls until then costs every pod the pages that the call writes to, so that this does without much that is usual.
"""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Callable
from typing import NamedTuple

from moorage.server.supervisor.children import die_with_parent, forked
from moorage.server.supervisor.loop import READ
from moorage.server.supervisor.protocol import receive, send_all
from moorage.server.supervisor.title import set_title

BACKLOG = 128

REHEARSALS = 16
"""More than the interpreter looks on before it specializes code."""


class Inheritance(NamedTuple):
    """What a supervisor has sent, as it came; the first two descriptors are the pod's directory and the listening socket."""

    pieces: list[bytes]
    fds: list[int]


def keep(work: Callable[[int, int], None], order: int) -> Inheritance | None:
    """Have a fork do `work`, with `order` and its end of the socket to the keeper, which we are, until it has ended: what it has handed
    over, or None.
    """
    ours, theirs = socket.socketpair()
    own = os.getpid()

    def supervise(kept: list[int]) -> None:
        die_with_parent(own)
        work(*kept)

    supervisor = forked(supervise, (order, theirs.fileno()))
    os.close(order)
    theirs.close()
    pieces, fds = _receive_all(ours)
    ours.close()
    os.waitpid(supervisor, 0)
    return Inheritance(pieces, fds) if fds else None


def wait(fds: list[int]) -> None:
    """Stand in for the supervisor that has handed these over, until there is something to do in its place."""
    name_supervisor(os.readlink(f"/proc/self/fd/{fds[0]}").rpartition("/")[2])
    _listen_again(fds[1])
    _wait_for_event(fds)


def rehearse() -> None:
    """Go through what a keeper does, until Python has nothing new to remember of it: what it remembers is shared by the forks."""
    for _ in range(REHEARSALS):
        ours, theirs = socket.socketpair()
        listener = socket.socket(socket.AF_UNIX)
        listener.bind("")
        kept = [os.open("/", os.O_RDONLY | os.O_CLOEXEC), listener.detach(), *os.pipe2(os.O_CLOEXEC)]
        with theirs:
            # The pipe has been hung up on.
            send_all(theirs, b"rehearsal", kept[:3])
        for fd in kept:
            os.close(fd)
        _pieces, fds = _receive_all(ours)
        ours.close()
        wait(fds)
        for fd in fds:
            os.close(fd)


def name_supervisor(pod_id: str) -> None:
    """Name the process that looks after a pod."""
    set_title(f"moorage-supervisor {pod_id[:12]}")


def _listen_again(listener: int) -> None:
    """Who connects is told the pid of the process that listened last, see unix(7), SO_PEERCRED."""
    sock = socket.socket(fileno=listener)
    sock.listen(BACKLOG)
    sock.detach()


def _receive_all(sock: socket.socket) -> tuple[list[bytes], list[int]]:
    pieces, fds = list[bytes](), list[int]()
    while True:
        piece, came = receive(sock)
        if not piece:
            return pieces, fds
        pieces.append(piece)
        fds += came


def _wait_for_event(fds: list[int]) -> None:
    """Wait until one can be read, or has been hung up on, or a child ends."""
    receiver, sender = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(sender, warn_on_full_buffer=False)
    try:
        # One that has ended by now is told by nothing else.
        if _has_ended_child():
            return
        with select.epoll() as poll:
            for fd in (receiver, *fds):
                try:
                    poll.register(fd, READ)
                except OSError:
                    # A file, a directory or a file system, none of which can be waited for.
                    continue
            poll.poll()
    finally:
        signal.set_wakeup_fd(-1)
        os.close(receiver)
        os.close(sender)


def _has_ended_child() -> bool:
    try:
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None
    except ChildProcessError:
        return False
