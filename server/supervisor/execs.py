"""Processes that were added to a container by exec. Their data does not pass here: the daemon has the other ends of their streams."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from moorage.server.libcontainer import process, runner
from moorage.server.libcontainer.process import Process, StartError, Stdio
from moorage.server.libcontainer.runner import Running
from moorage.server.supervisor import streams
from moorage.server.supervisor.connection import Connection
from moorage.server.supervisor.container import Container, exit_code
from moorage.server.supervisor.failures import Failure
from moorage.server.supervisor.loop import READ, Loop
from moorage.server.supervisor.protocol import MESSAGE, Frame

KILL_ROUNDS = 5


class Execution:
    """One process: told its end on the connection that asked for it, killed with all that it started when that is closed."""

    def __init__(
        self, loop: Loop, container: Container, child: Process | Running, connection: Connection, detach: bool
    ) -> None:
        self.pid = child.pid
        self._pidfd = child.pidfd
        self._container = container
        self._connection = connection
        self._detach = detach
        self._ended = False
        console = child.console if isinstance(child, Process) else None
        self._discarded = streams.discard(loop, console) if detach and console is not None else None
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
) -> tuple[Execution, bool]:
    """Start what an `exec` message asks for and answer it; says whether the process is a child of ours.

    `fds` are stdin, stdout and stderr, or none, and the socket to a runner if there is one. Raises StartError, Failure.
    """
    if container.ending:
        raise Failure("FailedPrecondition", f"container {container.id} is not running")
    if len(fds) not in (0, 3, 4):
        raise Failure("InvalidArgument", f"{len(fds)} descriptors for an exec")
    wanted = message["process"]
    wanted.setdefault("oomScoreAdj", oom_score)
    detach = bool(message.get("detach"))
    # All that is of interest there are mappings, which few have.
    config = json.loads(container.config) if "uidMappings" in container.config else {}
    stdio = Stdio(*fds[:3]) if fds else None
    running = _run(container, config, wanted, stdio, user, fds[3]) if stdio and len(fds) == 4 else None
    if running is not None:
        connection.send({"id": message.get("id"), "pid": running.pid})
        execution = Execution(loop, container, running, connection, detach)
        loop.add(running.socket.fileno(), READ, lambda _events: _runner_ended(loop, running, execution))
        return execution, False
    child = process.execute(
        container.pid,
        config,
        wanted,
        stdio=stdio,
        cgroup=container.cgroup,
        seccomp=container.seccomp,
        user_namespace=user,
    )
    connection.send(
        {"id": message.get("id"), "pid": child.pid}, () if detach or child.console is None else (child.console,)
    )
    return Execution(loop, container, child, connection, detach), True


def _run(
    container: Container, config: Mapping[str, Any], wanted: Mapping[str, Any], stdio: Stdio, user: int | None, fd: int
) -> Running | None:
    """Start it with a runner; None when that cannot be, and a fork has to do."""
    packet = runner.order(wanted, cgroup=container.cgroup.path, seccomp=container.seccomp, config=config)
    if packet is None or not container.usual_filter:
        # A filter of somebody's own need not let pass what comes after it in a runner.
        return None
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.socket(fileno=os.dup(fd)))
        try:
            running = runner.start(sock, packet, container.pid, stdio, user)
        except StartError as error:
            # At the limit of processes there is room for one, as who enters is not refused, but not for its child.
            if error.errno != errno.EAGAIN:
                raise
            return None
        if running is not None:
            stack.pop_all()
        return running


def _runner_ended(loop: Loop, running: Running, execution: Execution) -> None:
    status = runner.ended(running)
    if status is None:
        # Who was to wait for it has been killed; the rest of what it ran must not stay without anybody.
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(running.pidfd, signal.SIGKILL)
        status = signal.SIGKILL
    loop.remove(running.socket.fileno())
    running.socket.close()
    execution.ended(status)


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
