"""A process that is there before it is known what it shall execute, and in which container.

    caller                                     runner
      (forked by somebody else) ────────────▶  waits, with nothing open but its socket and its way back to its own cgroup
      order: one packet, a pidfd of the    ──▶  goes into the container, drops privileges, spawns the command
             container's first process, stdin,
             stdout, stderr, and the user
             namespace if there is one
      started ◀─────────────────────────────── the command's pid and pidfd, or why there is none
                                               leaves the cgroup; what of the container it has else is of no more use
      ended   ◀─────────────────────────────── the exit code of the command

The command is the runner's child, made by posix_spawn(3): no page is copied for it, and none thrown away when it executes. A fork of
a supervisor would have to copy what it writes to, and two such copies cost more than all the rest of an exec.

A caller who wants the command no more kills it himself, with all that belongs to it. One that dies cannot: then the runner kills the
command's process group, as far as it still may.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple, NoReturn

from moorage.server.libcontainer import init, memory, process, protect, syscalls, usernamespaces
from moorage.server.libcontainer.cgroupfs import Home
from moorage.server.libcontainer.cgroups import CgroupManager
from moorage.server.libcontainer.channel import Reporter
from moorage.server.libcontainer.errors import StartError, doing
from moorage.server.libcontainer.process import Stdio
from moorage.server.libcontainer.validate import validate_process

MAX_ORDER = 64 << 10
"""Bytes of an order: a packet must fit the socket's buffer."""

LINGER_SECONDS = 0.02

WRITTEN = memory.WrittenPages()

_FDS = 5
_STATUS = struct.Struct("=i")


class Surroundings(NamedTuple):
    """What a runner finds in the process that it is a fork of."""

    cgroups: CgroupManager
    filters: Callable[[str], bytes | None]
    """Compiled filters by name."""
    oom_score: int
    """Of commands whose process does not give one."""
    begun: Callable[[], object]
    """Called when it has its order."""


def order(
    process: Mapping[str, Any], *, cgroup: str, filter_name: str | None, config: Mapping[str, Any]
) -> bytes | None:
    """The order to run an OCI `process` in a container; None if it is too long. `config` is what its config says of mappings of IDs.

    Raises StartError.
    """
    validate_process(process)
    packet = json.dumps({"process": process, "cgroup": cgroup, "filter": filter_name, "config": config}).encode()
    return packet if len(packet) <= MAX_ORDER else None


def give(runner: socket.socket, packet: bytes, target: int, stdio: Stdio, user_namespace: int | None) -> bool:
    """Give a runner its order, for the container whose first process is behind the pidfd `target`. False when it had died before."""
    fds = [target, stdio.stdin, stdio.stdout, stdio.stderr, *([] if user_namespace is None else [user_namespace])]
    try:
        socket.send_fds(runner, [packet], fds)
    except (BrokenPipeError, ConnectionResetError):
        return False
    return True


def ended(runner: socket.socket) -> int | None:
    """The exit code of its command; None if the runner died before it, so that nobody knows. Raises BlockingIOError."""
    packet = b""
    with suppress(ConnectionResetError):
        packet = runner.recv(_STATUS.size)
    return int(_STATUS.unpack(packet)[0]) if packet else None


def wait(end: socket.socket, around: Surroundings) -> NoReturn:
    """The life of a runner; all that it has open is `end` (of `channel.pair`)."""
    protect.hide()
    report = Reporter(end, "never")
    process.become(report, lambda report: _run(report, around))


def _run(report: Reporter, around: Surroundings) -> NoReturn:
    home = Home()
    learn = WRITTEN.copy_ahead()
    packet, fds = report.order(MAX_ORDER, _FDS)
    if not packet:
        os._exit(0)
    around.begun()
    target, *stdio = fds
    job = _job(json.loads(packet), stdio, around)
    with doing("join the container's namespaces"):
        syscalls.setns(target, syscalls.CLONE_NEWPID)
    pid = init.spawn_in_existing(job, target, report)
    pidfd = os.pidfd_open(pid)
    # Without anybody to tell, it is seen below that there is nobody.
    with suppress(BrokenPipeError, ConnectionResetError):
        report.started(pid, pidfd)
    learn()
    for fd in fds:
        # Readers of the streams wait until the last end is closed.
        os.close(fd)
    with suppress(OSError):
        # Gone from the host meanwhile: it has to stay, then, and counts as one more process there.
        home.enter()
    if not _ends_before(pidfd, report.fileno()):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    with suppress(BrokenPipeError, ConnectionResetError):
        os.write(report.fileno(), _STATUS.pack(process.exit_code(status)))
    # To let go of its memory takes the kernel two milliseconds, which the caller, just woken on this processor, would wait for.
    time.sleep(LINGER_SECONDS)
    os._exit(0)


def _job(content: Mapping[str, Any], fds: list[int], around: Surroundings) -> init.Job:
    stdin, stdout, stderr, *user = fds
    linux = content["config"].get("linux") or {}
    program = around.filters(content["filter"]) if content["filter"] is not None else None
    if program is None and content["filter"] is not None:
        raise StartError(f"runner knows no filter {content['filter']!r}")
    return init.Job(
        {"oomScoreAdj": around.oom_score, **content["process"]},
        (stdin, stdout, stderr),
        around.cgroups.cgroup(content["cgroup"]),
        program,
        user_namespace=user[0] if user else None,
        id_maps=usernamespaces.parse(linux.get("uidMappings", ()), linux.get("gidMappings", ())),
    )


def _ends_before(pidfd: int, caller: int) -> bool:
    """Wait until a command has ended or its caller has hung up; whether it is the former."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(caller, select.POLLIN)
    return any(fd == pidfd for fd, _events in poll.poll())
