"""Starting a container in the process that was forked ahead: one a supervisor has, for its first container.

Of the supervisor's memory this touches little, as the work is done over there. All other containers are started by `starter.py`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from moorage.server.libcontainer import ahead
from moorage.server.libcontainer.channel import StageListener
from moorage.server.libcontainer.errors import stating
from moorage.server.libcontainer.process import Child, Process, StartError, Stdio
from moorage.server.supervisor import filters
from moorage.server.supervisor.container import Started, Surroundings
from moorage.server.supervisor.log import LogFile, open_log
from moorage.server.supervisor.protocol import STDERR, STDOUT
from moorage.server.supervisor.starter import record, record_start


def order(around: Surroundings, spec: Mapping[str, Any]) -> bytes | None:
    """What to tell the waiting process for the message of a `start`; None when the container cannot be started in it."""
    program = filters.known(spec["seccomp"])
    if not spec.get("ahead") or around.user is not None or (program is None and spec["seccomp"] is not None):
        return None
    defaults: dict[str, Any] = {"oomScoreAdj": around.oom_score}
    if spec["size"]:
        defaults["consoleSize"] = {"width": spec["size"][0], "height": spec["size"][1]}
    return ahead.order(
        spec["config"],
        rootfs=spec["rootfs"],
        cgroup=spec["cgroup"],
        seccomp=program,
        init=spec["init"],
        defaults=defaults,
        shares_memory=around.shm is not None,
        gated=spec["gate"] is not None,
    )


def start(around: Surroundings, spec: Mapping[str, Any], child: Child, packet: bytes, stage: StageListener) -> Started:
    """Start a container in the waiting process; nothing is left when it fails. Raises StartError."""
    state = {"id": spec["container"], "cgroup": spec["cgroup"], "pid": 0, "started_ns": 0}
    with contextlib.ExitStack() as undo:
        with contextlib.ExitStack() as waiting, stating("prepare"):
            waiting.callback(child.discard)
            log = open_log(spec["log_path"])
            undo.callback(os.close, log)
            record(around.directory, state, undo)
            pipes = None if spec["terminal"] else _pipes(spec["stdin_open"], undo)
            waiting.pop_all()
        started = _become(around, spec, child, packet, pipes.theirs if pipes else None, stage)
        undo.pop_all()
    started_ns = time.time_ns()
    record_start(around.directory, state, started.pid, started_ns)
    stdin, outputs = (pipes.stdin, pipes.outputs) if pipes else _terminal(started, spec["stdin_open"])
    return Started(
        pid=started.pid,
        pidfd=started.pidfd,
        user=started.user,
        at_ns=started_ns,
        stdin=stdin,
        outputs=outputs,
        terminal=pipes is None,
        log=LogFile(spec["log_path"], spec["log"]["max_size"], spec["log"]["max_files"], log),
        seccomp=filters.known(spec["seccomp"]),
    )


class Pipes(NamedTuple):
    """Our ends, and those of the process."""

    stdin: int | None
    outputs: list[tuple[int, int]]
    theirs: Stdio


def _pipes(stdin_open: bool, undo: contextlib.ExitStack) -> Pipes:
    stdin, ours = os.pipe2(os.O_CLOEXEC) if stdin_open else (os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC), None)
    undo.callback(_close, [stdin] if ours is None else [stdin, ours])
    out, stdout = os.pipe2(os.O_CLOEXEC)
    undo.callback(_close, [out, stdout])
    err, stderr = os.pipe2(os.O_CLOEXEC)
    undo.callback(_close, [err, stderr])
    return Pipes(ours, [(STDOUT, out), (STDERR, err)], Stdio(stdin, stdout, stderr))


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)


def _terminal(started: Process, stdin_open: bool) -> tuple[int | None, list[tuple[int, int]]]:
    if started.console is None:
        raise StartError("no terminal was made", stage="terminal")
    return os.dup(started.console) if stdin_open else None, [(STDOUT, started.console)]


def _become(
    around: Surroundings,
    spec: Mapping[str, Any],
    child: Child,
    packet: bytes,
    stdio: Stdio | None,
    stage: StageListener,
) -> Process:
    try:
        started = ahead.start(child, packet, stdio, around.shm, spec["gate"], stage)
    except StartError as error:
        # With EEXIST the cgroup is somebody else's.
        if error.errno != errno.EEXIST:
            cgroup = around.cgroups.cgroup(spec["cgroup"])
            cgroup.kill()
            cgroup.remove()
        raise
    if stdio is not None:
        _close((stdio.stdin, stdio.stdout, stdio.stderr))
    return started
