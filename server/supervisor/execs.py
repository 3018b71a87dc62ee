"""Processes that were added to a container by exec. Their data does not pass here: the daemon has the other ends of their streams."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from moorage.server.libcontainer import process
from moorage.server.libcontainer.process import Process, Stdio
from moorage.server.supervisor import streams
from moorage.server.supervisor.connection import Connection
from moorage.server.supervisor.container import Container, exit_code
from moorage.server.supervisor.failures import Failure
from moorage.server.supervisor.loop import Loop
from moorage.server.supervisor.protocol import MESSAGE, Frame

KILL_ROUNDS = 5


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
        code = exit_code(wait_status)
        reason = "Error" if code else "Completed"
        status = {"exit_code": code, "finished_ns": time.time_ns(), "oom_killed": False, "reason": reason, "error": ""}
        self._connection.send({"exit": status})
        self._connection.end()

    def _frame(self, frame: Frame) -> None:
        if frame.kind == MESSAGE and frame.message.get("op") == "signal" and not self._ended:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, int(frame.message["signal"]))

    def _closed(self) -> None:
        if not self._ended and not self._detach:
            kill_tree(self.pid, self._container.cgroup.pids)


def start_execution(
    loop: Loop,
    container: Container,
    oom_score: int,
    user: int | None,
    message: Mapping[str, Any],
    fds: Sequence[int],
    connection: Connection,
) -> Execution:
    """Start what an `exec` message asks for and answer it. `fds` are stdin, stdout and stderr, or none. Raises StartError, Failure."""
    if container.ending:
        raise Failure("FailedPrecondition", f"container {container.id} is not running")
    if len(fds) not in (0, 3):
        raise Failure("InvalidArgument", f"{len(fds)} descriptors for an exec")
    wanted = message["process"]
    wanted.setdefault("oomScoreAdj", oom_score)
    detach = bool(message.get("detach"))
    child = process.execute(
        container.pid,
        # All that is of interest there are mappings, which few have.
        json.loads(container.config) if "uidMappings" in container.config else {},
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


def kill_tree(root: int, candidates: Callable[[], Iterable[int]]) -> None:
    """SIGKILL the process `root`, which is not reaped yet, and those of `candidates` that it started or that are of its session.

    As far as it goes: who has left the session and lost the parent belongs to the container from then on.
    """
    killed: set[int] = set()
    for _round in range(KILL_ROUNDS):
        family = _family(root, candidates()) - killed
        if not family:
            return
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        killed |= family


def _family(root: int, candidates: Iterable[int]) -> set[int]:
    """`root` with its session (if it leads one) and its descendants among `candidates`."""
    kin = {pid: kinship for pid in candidates if (kinship := _kinship(pid)) is not None}
    family = {root} | {pid for pid, (_parent, session) in kin.items() if session == root}
    while more := {pid for pid, (parent, _session) in kin.items() if parent in family} - family:
        family |= more
    return family


def _kinship(pid: int) -> tuple[int, int] | None:
    """Parent and session of a process, see proc(5); None when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(fields[1]), int(fields[3])
