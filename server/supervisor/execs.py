"""Processes that were added to a container by exec, where a runner (libcontainer/runner.py) will not do: with a terminal, detached, under a
filter of somebody's own. Their data does not pass here: the daemon has the other ends of their streams.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Mapping, Sequence
from typing import Any

from moorage.server.libcontainer import process
from moorage.server.libcontainer.family import kill_tree
from moorage.server.libcontainer.process import Process, Stdio, exit_code
from moorage.server.supervisor import streams
from moorage.server.supervisor.connection import Connection
from moorage.server.supervisor.container import Container
from moorage.server.supervisor.failures import Failure
from moorage.server.supervisor.loop import Loop
from moorage.server.supervisor.protocol import MESSAGE, Frame


class Execution:
    """One process: told its end on the connection that asked for it, killed with all that it started when that is closed."""

    def __init__(self, loop: Loop, container: Container, child: Process, connection: Connection, detach: bool) -> None:
        self.pid = child.pid
        self._pidfd = child.pidfd
        self._container = container
        self._connection = connection
        self._detach = detach
        self._ended = False
        self._discarded = streams.discard(loop, child.console) if detach and child.console is not None else None
        connection.on_frame = self._frame
        connection.on_close = self._closed

    def ended(self, wait_status: int) -> None:
        self._ended = True
        os.close(self._pidfd)
        if self._discarded is not None:
            self._discarded.close()
        tell_end(self._connection, wait_status)

    def _frame(self, frame: Frame) -> None:
        if frame.kind == MESSAGE and frame.message.get("op") == "signal" and not self._ended:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, int(frame.message["signal"]))

    def _closed(self) -> None:
        if not self._ended and not self._detach:
            kill_tree(self.pid, self._container.cgroup.pids)


def tell_end(connection: Connection, wait_status: int) -> None:
    """Tell who asked for a process how it ended, which is the last that they are told."""
    code = exit_code(wait_status)
    reason = "Error" if code else "Completed"
    status = {"exit_code": code, "finished_ns": time.time_ns(), "oom_killed": False, "reason": reason, "error": ""}
    connection.send({"exit": status})
    connection.end()


def start_execution(
    loop: Loop,
    container: Container,
    oom_score: int,
    user: int | None,
    message: Mapping[str, Any],
    fds: Sequence[int],
    connection: Connection,
) -> Execution:
    """Start what an `exec` message asks for, in a fork of ours, and answer it.

    `fds` are stdin, stdout and stderr, or none. Raises StartError, Failure.
    """
    if len(fds) not in (0, 3):
        raise Failure("InvalidArgument", f"{len(fds)} descriptors for an exec")
    wanted = message["process"]
    wanted.setdefault("oomScoreAdj", oom_score)
    detach = bool(message.get("detach"))
    child = process.execute(
        container.pid,
        container.mappings,
        wanted,
        stdio=Stdio(*fds) if fds else None,
        cgroup=container.cgroup,
        seccomp=container.seccomp,
        user_namespace=user,
    )
    connection.send(
        {"id": message.get("id"), "pid": child.pid}, () if detach or child.console is None else (child.console,)
    )
    return Execution(loop, container, child, connection, detach)
