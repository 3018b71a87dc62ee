"""Starting a container by an OCI runtime, in a starter's process (`starter.py`), which ends when it runs:

    supervisor ── starter, in a mount namespace of its own ── runtime create, then runtime start
        └─ container's first process, left to the supervisor by the runtime

Once it runs nothing tells it from a container of our own but how a command is added to it (`ociexec.py`), and that the runtime is told
of its end (`ociend.py`).
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from moorage.server.libcontainer.channel import StageListener
from moorage.server.libcontainer.errors import StartError, doing, stating
from moorage.server.supervisor import bundle, ociend, ociruntime, starter, streams
from moorage.server.supervisor.children import die_with_parent
from moorage.server.supervisor.container import Started, Surroundings
from moorage.server.supervisor.log import open_log
from moorage.server.supervisor.ociruntime import Runtime
from moorage.server.supervisor.protocol import STDERR, STDOUT, Channel

PID_FILE = "pid"
CONSOLE_SOCKET = "console.sock"
"""By this name, not by its path, which may be too long: the runtime is run in its directory."""


def start(around: Surroundings, spec: Mapping[str, Any], stage: StageListener) -> Started:
    """Start a container as the message of a `start` says; nothing is left when it fails. Raises Failure."""
    try:
        return starter.start(around, spec, stage, functools.partial(_start, os.getpid()))
    except Exception:
        ociend.discard(around.directory, spec["container"], ociruntime.parse(spec["runtime"]))
        raise


def _start(supervisor: int, around: Surroundings, spec: Mapping[str, Any], channel: Channel) -> None:
    die_with_parent(supervisor)
    identity, runtime = spec["container"], ociruntime.parse(spec["runtime"])
    directory = ociend.bundle_path(around.directory, identity)
    config = _config(around, spec)
    state = {"id": identity, "cgroup": spec["cgroup"], "pid": 0, "started_ns": 0, "runtime": spec["runtime"]}
    with contextlib.ExitStack() as undo:
        channel.send({"stage": "prepare"})
        with stating("prepare"):
            log = open_log(spec["log_path"])
            starter.record(around.directory, state, undo)
        with stating("cgroup"):
            cgroup = around.cgroups.cgroup(spec["cgroup"])
            cgroup.create(config["linux"].get("resources") or {})
            undo.callback(cgroup.remove)
            undo.callback(cgroup.kill)
        channel.send({"stage": "rootfs"})
        with stating("rootfs"):
            os.makedirs(runtime.root, 0o700, exist_ok=True)
            needed = (runtime.root, runtime.path)
            process = bundle.make(directory, config, spec["rootfs"], supervisor, needed)
        channel.send({"stage": "create"})
        made = _create(runtime, identity, directory, spec, bundle.stream_owner(process, config["linux"]))
        # Not reaped before the supervisor has heard of it, as that waits for us.
        pidfd = os.pidfd_open(made.pid)
        channel.send({"stage": "start"})
        ociruntime.run(runtime, directory, "start", identity)
        undo.pop_all()
    started_ns = time.time_ns()
    starter.record_start(around.directory, state, made.pid, started_ns)
    stdin = [] if made.stdin is None else [made.stdin]
    fds = [pidfd, log, *(output for _kind, output in made.outputs), *stdin]
    kinds = [kind for kind, _output in made.outputs]
    answer = {"pid": made.pid, "user": bundle.credentials(process), "started_ns": started_ns}
    channel.send({**answer, "kinds": kinds, "stdin": bool(stdin)}, fds)


def _config(around: Surroundings, spec: Mapping[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(spec["config"])
    starter.join_pod(config, around, spec.get("pid_namespace", ""))
    if spec["seccomp"]:
        config["linux"]["seccomp"] = json.loads(spec["seccomp"])
    config["process"].setdefault("oomScoreAdj", around.oom_score)
    return config


class Created(NamedTuple):
    """A container's first process, which waits to be started, and our ends of its streams."""

    pid: int
    stdin: int | None
    outputs: list[tuple[int, int]]


def _create(
    runtime: Runtime, identity: str, directory: str, spec: Mapping[str, Any], stream_owner: int | None
) -> Created:
    """Have the container made, on a terminal or pipes."""
    create = ("create", "--bundle", directory, "--pid-file", PID_FILE)
    if spec["terminal"]:
        console = run_on_terminal(runtime, directory, *create, identity=identity)
        if spec.get("size"):
            streams.resize(console, *spec["size"])
        return Created(created(directory), console if spec["stdin_open"] else None, [(STDOUT, console)])
    null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    stdin, ours = os.pipe2(os.O_CLOEXEC) if spec["stdin_open"] else (null, None)
    out, stdout = os.pipe2(os.O_CLOEXEC)
    err, stderr = os.pipe2(os.O_CLOEXEC)
    # Our copies of its ends go with this process.
    ociruntime.run(runtime, directory, *create, identity, stdio=(stdin, stdout, stderr), stream_owner=stream_owner)
    return Created(created(directory), ours, [(STDOUT, out), (STDERR, err)])


def created(directory: str) -> int:
    """The pid of the process that a runtime has made. Raises StartError."""
    path = f"{directory}/{PID_FILE}"
    with doing("read the pid that the runtime wrote to", path), open(path) as file:
        return int(file.read())


def run_on_terminal(runtime: Runtime, directory: str, *arguments: str, identity: str) -> int:
    """Run a command of a runtime that makes a process on a terminal; the master of that. Raises StartError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        with doing("listen for the terminal in", directory):
            fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            listener.bind(f"/proc/self/fd/{fd}/{CONSOLE_SOCKET}")
            os.close(fd)
            listener.listen(1)
        ociruntime.run(runtime, directory, *arguments, "--console-socket", CONSOLE_SOCKET, identity)
        listener.setblocking(False)
        return _received(listener, runtime)


def _received(listener: socket.socket, runtime: Runtime) -> int:
    fds: Sequence[int] = ()
    # It has ended: what it sent is here, or never comes.
    with contextlib.suppress(BlockingIOError):
        connection, _address = listener.accept()
        with connection:
            connection.setblocking(False)
            _data, fds, _flags, _from = socket.recv_fds(connection, 4096, 1)
    if not fds:
        raise StartError(f"OCI runtime {runtime.name} has made no terminal", stage="terminal")
    os.set_inheritable(fds[0], False)
    return fds[0]
