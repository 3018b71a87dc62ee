"""Commands that an OCI runtime adds to a container. Each is started in a process that the supervisor forks and does not wait for:

    supervisor ── exec ── runtime exec --detach
        └─ the command, left to the supervisor by the runtime

As a runtime takes its time, the command may have ended, and been reaped, before the supervisor hears its pid.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from moorage.server.libcontainer.channel import Credentials
from moorage.server.libcontainer.errors import doing
from moorage.server.libcontainer.family import kill_tree
from moorage.server.libcontainer.process import Process
from moorage.server.libcontainer.validate import validate_process
from moorage.server.supervisor import bundle, ociend, ociruntime, ocistart
from moorage.server.supervisor.children import die_with_parent, forked
from moorage.server.supervisor.connection import Connection
from moorage.server.supervisor.container import Container
from moorage.server.supervisor.execs import Execution, tell_end
from moorage.server.supervisor.failures import Failure, describe
from moorage.server.supervisor.loop import READ
from moorage.server.supervisor.ociruntime import Runtime
from moorage.server.supervisor.protocol import Channel

if TYPE_CHECKING:
    from moorage.server.supervisor.supervisor import Supervisor

PROCESS = "process.json"


class Start:
    """One that is under way: answers the `exec` message, and goes on as an Execution."""

    def __init__(
        self,
        supervisor: Supervisor,
        container: Container,
        runtime: Runtime,
        message: Mapping[str, Any],
        fds: Sequence[int],
        connection: Connection,
    ) -> None:
        """`fds` are stdin, stdout and stderr, or none; they stay the caller's. Raises StartError."""
        validate_process(message["process"])
        self._supervisor = supervisor
        self._container = container
        self._identity = message.get("id")
        self._detach = bool(message.get("detach"))
        self._connection = connection
        process = {"oomScoreAdj": supervisor.oom_score, **message["process"]}
        path = ociend.pod_path(supervisor.directory)
        sock, theirs = socket.socketpair()
        caller = os.getpid()
        with theirs:
            forked(lambda kept: _life(container, runtime, process, path, kept, caller), (theirs.fileno(), *fds[:3]))
        self._channel = Channel(sock)
        supervisor.expect()
        supervisor.loop.add(sock.fileno(), READ, lambda _events: self._answered())

    def _answered(self) -> None:
        supervisor = self._supervisor
        supervisor.loop.remove(self._channel.sock.fileno())
        with contextlib.closing(self._channel):
            frame = self._channel.receive()
        if frame is None or "error" in frame.message:
            supervisor.claim(0)
            died = describe(Failure("Internal", f"an exec in container {self._container.id} died", exit_code=128))
            error = died if frame is None else frame.message["error"]
            self._connection.send({"id": self._identity, "error": error})
            return
        uid, gid, groups = frame.message["user"]
        self._begun(frame.message["pid"], (uid, gid, tuple(groups)), frame.fds[0] if frame.fds else None)

    def _begun(self, pid: int, user: Credentials, console: int | None) -> None:
        supervisor, connection = self._supervisor, self._connection
        status = supervisor.claim(pid)
        if status is None and connection.closed and not self._detach:
            # Whoever asked has gone meanwhile.
            kill_tree(pid, self._container.cgroup.pids)
        connection.send({"id": self._identity, "pid": pid}, () if self._detach or console is None else (console,))
        if status is None:
            child = Process(pid, os.pidfd_open(pid), console, user)
            supervisor.executions[pid] = Execution(supervisor.loop, self._container, child, connection, self._detach)
            return
        if self._detach and console is not None:
            os.close(console)
        tell_end(connection, status)


def _life(
    container: Container, runtime: Runtime, process: dict[str, Any], path: str, kept: list[int], parent: int
) -> None:
    """The life of the process that has a runtime start a command."""
    die_with_parent(parent)
    channel = Channel(socket.socket(fileno=kept[0]))
    directory = f"{path}/{container.id}.exec-{os.getpid()}"
    try:
        pid, user, console = _start(container, runtime, process, directory, kept[1:])
    except Exception as error:
        channel.send({"error": describe(error)})
    else:
        channel.send({"pid": pid, "user": user}, console)


def _start(
    container: Container,
    runtime: Runtime,
    process: dict[str, Any],
    directory: str,
    stdio: Sequence[int],
) -> tuple[int, Credentials, list[int]]:
    """The pid of a new process, whom it runs as, and the master of its terminal if it has one. Raises StartError, OSError."""
    with contextlib.ExitStack() as stack:
        with doing("make", directory):
            os.mkdir(directory, 0o700)
        stack.callback(_remove, directory)
        process = bundle.resolved(process, _root(container, stack))
        with open(f"{directory}/{PROCESS}", "x") as file:
            json.dump(process, file)
        execute = ("exec", "--process", PROCESS, "--pid-file", ocistart.PID_FILE, "--detach")
        console: list[int] = []
        if process.get("terminal"):
            console = [ocistart.run_on_terminal(runtime, directory, *execute, identity=container.id)]
        else:
            owner = bundle.stream_owner(process, json.loads(container.config)["linux"])
            ociruntime.run(runtime, directory, *execute, container.id, stdio=stdio, stream_owner=owner)
        return ocistart.created(directory), bundle.credentials(process), console


def _root(container: Container, stack: contextlib.ExitStack) -> int:
    with doing("open the root directory of the container"):
        root = os.open(f"/proc/{container.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    stack.callback(os.close, root)
    return root


def _remove(directory: str) -> None:
    for name in os.listdir(directory):
        os.unlink(f"{directory}/{name}")
    os.rmdir(directory)
