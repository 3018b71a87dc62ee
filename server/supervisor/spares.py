"""Supervisors that are forked before there is a pod for them: a pod is then up without a fork.

    spawner ── fork server ─┬─ keeper ── spare ── process 1 of a pid namespace, see libcontainer/ahead.py
                            └─ runner, for commands in containers, see libcontainer/runner.py

Each waits for its order on a socket, and ends when that does. Made while the spawner has nothing else to do.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Any, NoReturn

from moorage.server.libcontainer import runner
from moorage.server.supervisor import filters, life, oom
from moorage.server.supervisor.children import forked
from moorage.server.supervisor.forkserver import ForkServer
from moorage.server.supervisor.loop import READ, Loop, Timer
from moorage.server.supervisor.namespaces import USUAL
from moorage.server.supervisor.title import set_title

RUNNER_TITLE = "moorage-runner"

AHEAD, AT_ONCE, RUNNER = b"a", b"o", b"r"
"""What is forked: a keeper with the first process of a container, one without, a runner."""

QUIET_SECONDS = 0.01
"""How long nobody must have asked before the next one is made."""


class Spares:
    """Keeps `count` spares. The sockets' other ends are theirs alone, so that they end with the spawner, however that ends."""

    def __init__(self, loop: Loop, count: int, patience: float) -> None:
        """`patience` is of `life.keep`."""
        self._loop = loop
        self._count = count
        self._patience = patience
        self._server = ForkServer(self._become)
        self._ready: list[socket.socket] = []
        self._timer: Timer | None = None
        self._fill_later()

    def take(self, spec: Mapping[str, Any]) -> socket.socket:
        """The socket to a supervisor-to-be for a pod, made now if no spare is there or will do; the caller's."""
        usual = sorted(spec["namespaces"]) == list(USUAL) and not spec.get("users")
        taken = self._take_ready() if usual else None
        self._fill_later()
        return taken or self._fork(usual=usual, ahead=False)

    def discard(self) -> None:
        """End them, and make others of what we are now."""
        self._server.discard()
        for sock in self._ready:
            sock.close()
        self._ready.clear()
        self._fill_later()

    def _take_ready(self) -> socket.socket | None:
        while self._ready:
            ready = self._ready.pop(0)
            if alive(ready):
                return ready
            ready.close()
        return None

    def _fill_later(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if len(self._ready) < self._count:
            self._timer = self._loop.call_later(QUIET_SECONDS, self._fill)

    def _fill(self) -> None:
        self._ready.append(self._fork(usual=True, ahead=True))
        self._fill_later()

    def _fork(self, *, usual: bool, ahead: bool) -> socket.socket:
        """Fork a supervisor-to-be, see `life`; the socket for its order."""
        ours, theirs = socket.socketpair()
        with theirs:
            if usual:
                self._server.fork(theirs.fileno(), AHEAD if ahead else AT_ONCE)
            else:
                forked(lambda kept: life.wait(kept[0]), (theirs.fileno(),))
        return ours

    def _become(self, order: int, kind: bytes) -> None:
        if kind == RUNNER:
            _runner(order)
        life.keep(order, ahead=kind == AHEAD, patience=self._patience)

    def fork_runner(self, end: socket.socket) -> None:
        """Fork a runner (libcontainer/runner.py) that listens on `end`: when nobody has asked for a while, or it has its order."""

        def fork(_events: int = 0) -> None:
            timer.cancel()
            self._loop.remove(end.fileno())
            with end:
                self._server.fork(end.fileno(), RUNNER)

        timer = self._loop.call_later(QUIET_SECONDS, fork)
        self._loop.add(end.fileno(), READ, fork)


def _runner(end: int) -> NoReturn:
    """The life of a runner's process."""
    os.setsid()
    set_title(life.SPARE_TITLE)
    inside = runner.Surroundings(life.cgroup_manager(), filters.named, oom.usual(), lambda: set_title(RUNNER_TITLE))
    runner.wait(socket.socket(fileno=end), inside)


def alive(spare: socket.socket) -> bool:
    """Whether the other end is open. A spare says nothing, so that all there is to read is its end."""
    try:
        return bool(spare.recv(1, socket.MSG_DONTWAIT))
    except BlockingIOError:
        return True
