"""Starting a container, in a process of its own that the supervisor forks and waits for.

    supervisor ── starter ── container's first process

When the starter has ended the container is the supervisor's child, which is its subreaper. A start touches about as much memory again
as a supervisor has for itself, and would keep; done here, half of it goes with the starter. What the starter sends:

    {"stage": …}                                       as it goes
    stream data: the compiled filter                   if the supervisor does not have it
    {"pid", "user", "started_ns", "kinds", "stdin"}    or {"error"}; with the descriptors: pidfd, log, an output for each of `kinds`, our
                                                       end of stdin
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

from moorage.server.libcontainer import process, sharedmemory
from moorage.server.libcontainer.channel import StageListener
from moorage.server.libcontainer.errors import stating
from moorage.server.libcontainer.process import Process, StartError, Stdio
from moorage.server.supervisor import filters
from moorage.server.supervisor.children import forked
from moorage.server.supervisor.container import Started, Surroundings, extend_json, write_json
from moorage.server.supervisor.failures import Failure, describe
from moorage.server.supervisor.log import LogFile, open_log
from moorage.server.supervisor.protocol import (
    EXIT_SUFFIX,
    MESSAGE,
    STATE_SUFFIX,
    STDERR,
    STDIN,
    STDOUT,
    Channel,
    Frame,
    pack_data,
    send_all,
)

Way = Callable[[Surroundings, Mapping[str, Any], Channel], None]
"""How a starter starts a container, and tells the supervisor so on a channel."""


def start(around: Surroundings, spec: Mapping[str, Any], stage: StageListener, way: Way | None = None) -> Started:
    """Start a container as the message of a `start` says; nothing is left when it fails. Raises Failure.

    `way` is another than that of our own libcontainer.
    """
    way = way or _start
    ours, theirs = socket.socketpair()
    with contextlib.closing(Channel(ours)) as channel, theirs:
        pid = forked(
            lambda kept: _starter(_carried(around, kept), spec, kept[0], way), (theirs.fileno(), *_carry(around))
        )
        theirs.close()
        # When it has started the container nobody waits for its end: the loop reaps it as any child, and the container after it.
        seccomp, answer = _hear(channel, stage)
    if answer is None:
        os.waitpid(pid, 0)
        _clean_up(around, spec)
        raise Failure("Internal", f"starter of container {spec['container']} died", exit_code=128)
    if "error" in answer.message:
        raise Failure(**answer.message["error"])
    return told(spec, answer, seccomp)


def _carry(around: Surroundings) -> list[int]:
    """The descriptors that the starter needs."""
    return [around.directory, *(fd for fd in (around.user, around.shm) if fd is not None)]


def _carried(around: Surroundings, kept: list[int]) -> Surroundings:
    """The same with the numbers that the descriptors have in the starter; the first of those is not of `_carry`."""
    numbers = iter(kept[1:])
    directory = next(numbers)
    user, shm = (None if fd is None else next(numbers) for fd in (around.user, around.shm))
    return around._replace(directory=directory, user=user, shm=shm)


def _hear(channel: Channel, stage: StageListener) -> tuple[bytes | None, Frame | None]:
    """Listen to the starter: the filter it compiled, and its last message, None if it died before that."""
    seccomp: bytes | None = None
    while (frame := channel.receive()) is not None:
        if frame.kind != MESSAGE:
            seccomp = frame.data
        elif "stage" in frame.message:
            stage(frame.message["stage"])
        else:
            return seccomp, frame
    return None, None


def told(spec: Mapping[str, Any], answer: Frame, seccomp: bytes | None = None) -> Started:
    """What a starter's last message tells. `seccomp` is the filter, if the supervisor did not have it."""
    message = answer.message
    pidfd, log, *rest = answer.fds
    stdin = rest.pop() if message["stdin"] else None
    return Started(
        pid=message["pid"],
        pidfd=pidfd,
        user=message["user"],
        at_ns=message["started_ns"],
        stdin=stdin,
        outputs=list(zip(message["kinds"], rest, strict=True)),
        terminal=len(rest) == 1,
        log=LogFile(spec["log_path"], spec["log"]["max_size"], spec["log"]["max_files"], log),
        seccomp=seccomp or filters.known(spec["seccomp"]),
    )


def _clean_up(around: Surroundings, spec: Mapping[str, Any]) -> None:
    """After a starter that died: what it began is in the cgroup."""
    with contextlib.suppress(OSError):
        cgroup = around.cgroups.cgroup(spec["cgroup"])
        cgroup.kill()
        cgroup.remove()
        os.unlink(spec["container"] + STATE_SUFFIX, dir_fd=around.directory)


def _starter(around: Surroundings, spec: Mapping[str, Any], fd: int, way: Way) -> None:
    """The life of a starter's process."""
    channel = Channel(socket.socket(fileno=fd))
    try:
        way(around, spec, channel)
    except Exception as error:
        channel.send({"error": describe(error)})


def _start(around: Surroundings, spec: Mapping[str, Any], channel: Channel) -> None:
    identity, config = spec["container"], json.loads(spec["config"])
    join_pod(config, around, spec.get("pid_namespace", ""))
    config["process"].setdefault("oomScoreAdj", around.oom_score)
    if spec.get("size"):
        config["process"]["consoleSize"] = {"width": spec["size"][0], "height": spec["size"][1]}
    state = {"id": identity, "cgroup": spec["cgroup"], "pid": 0, "started_ns": 0}
    with contextlib.ExitStack() as undo:
        channel.send({"stage": "prepare"})
        with stating("prepare"):
            seccomp = _filter(spec["seccomp"], channel)
            log = open_log(spec["log_path"])
            record(around.directory, state, undo)
        with stating("cgroup"):
            cgroup = around.cgroups.cgroup(spec["cgroup"])
            cgroup.create(config["linux"].get("resources") or {})
            undo.callback(cgroup.remove)
        rest = {"rootfs": spec["rootfs"], "cgroup": cgroup, "seccomp": seccomp, "init": spec["init"]}
        child, stdin, outputs = _run(
            config, spec["stdin_open"], rest, lambda name, _at_ns=0: channel.send({"stage": name})
        )
        undo.pop_all()
    started_ns = time.time_ns()
    record_start(around.directory, state, child.pid, started_ns)
    fds = [child.pidfd, log, *(output for _kind, output in outputs), *([] if stdin is None else [stdin])]
    kinds = [kind for kind, _output in outputs]
    answer = {"pid": child.pid, "user": child.user, "started_ns": started_ns}
    channel.send({**answer, "kinds": kinds, "stdin": stdin is not None}, fds)


def join_pod(config: dict[str, Any], around: Surroundings, pid_namespace: str) -> None:
    """Complete a config by what the containers of the pod share."""
    spaces = config["linux"]["namespaces"]
    if pid_namespace:
        spaces[:] = [space for space in spaces if space["type"] != "pid"] + [{"type": "pid", "path": pid_namespace}]
    if around.user is not None:
        spaces.append({"type": "user", "path": f"/proc/self/fd/{around.user}"})
    if around.shm is not None:
        sharedmemory.use(config, around.shm)


def _filter(profile: str | None, channel: Channel) -> bytes | None:
    """The program of a profile; the supervisor is given one that it does not have."""
    program = filters.known(profile)
    if profile is not None and program is None:
        program = filters.prime(profile)
        send_all(channel.sock, pack_data(STDIN, program))
    return program


def record(directory: int, state: Mapping[str, Any], undo: contextlib.ExitStack) -> None:
    """Write down what is to be killed should we die, before there is anything to kill."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(state["id"] + EXIT_SUFFIX, dir_fd=directory)
    write_json(directory, state["id"] + STATE_SUFFIX, state)
    undo.callback(os.unlink, state["id"] + STATE_SUFFIX, dir_fd=directory)


def record_start(directory: int, state: Mapping[str, Any], pid: int, started_ns: int) -> None:
    """Add what is there to be killed now."""
    with contextlib.suppress(OSError):
        extend_json(directory, state["id"] + STATE_SUFFIX, {**state, "pid": pid, "started_ns": started_ns})


def _run(
    config: Mapping[str, Any], stdin_open: bool, rest: Mapping[str, Any], stage: StageListener
) -> tuple[Process, int | None, list[tuple[int, int]]]:
    """Start the process on a terminal or pipes: the process, our end of its stdin, and its outputs."""
    if config["process"].get("terminal"):
        child = process.start(config, stdio=None, stage=stage, **rest)
        if child.console is None:
            raise StartError("no terminal was made", stage="terminal")
        return child, child.console if stdin_open else None, [(STDOUT, child.console)]
    stdin, ours = os.pipe2(os.O_CLOEXEC) if stdin_open else (os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC), None)
    out, stdout = os.pipe2(os.O_CLOEXEC)
    err, stderr = os.pipe2(os.O_CLOEXEC)
    # Our copies of its ends go with this process.
    child = process.start(config, stdio=Stdio(stdin, stdout, stderr), stage=stage, **rest)
    return child, ours, [(STDOUT, out), (STDERR, err)]
