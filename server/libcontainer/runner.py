"""A process that is there before it is known what it shall execute, and in which container.

    parent                                     runner
      (forked by somebody else) ────────────▶  waits, with nothing open but its socket and its way back to its own cgroup
      start: one packet, JSON NUL filter,  ──▶  goes into the container, drops privileges, spawns the command
             a pidfd, stdin, stdout, stderr,
             the user namespace if there is one
      started ◀─────────────────────────────── the command's pid and pidfd, or why there is none
                                               leaves the cgroup; what of the container it has else is of no more use
      ended   ◀─────────────────────────────── how the command ended

The command is the runner's child, made by posix_spawn(3): no page is copied for it, and none thrown away when it executes. A fork of
the supervisor would have to copy what it writes to, and two such copies cost more than all the rest of an exec.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

from moorage.server.libcontainer import channel, init, memory, process, protect, syscalls, usernamespaces
from moorage.server.libcontainer.cgroupfs import Home
from moorage.server.libcontainer.cgroups import CgroupManager
from moorage.server.libcontainer.channel import Reporter
from moorage.server.libcontainer.errors import doing
from moorage.server.libcontainer.process import Stdio
from moorage.server.libcontainer.validate import validate_process

MAX_ORDER = 64 << 10
"""Bytes of an order: a packet must fit the socket's buffer."""

WRITTEN = memory.WrittenPages()

_NUL = b"\0"
_FDS = 5
_STATUS = struct.Struct("=i")


@dataclass(frozen=True)
class Running:
    """A command that runs. `socket` can be read when it has ended: see `ended`. Who has it closes both."""

    pid: int
    pidfd: int
    socket: socket.socket


def order(process: Mapping[str, Any], *, cgroup: str, seccomp: bytes | None, config: Mapping[str, Any]) -> bytes | None:
    """The order to run an OCI `process` in the container of `config`; None if it is too long. Raises StartError."""
    validate_process(process)
    linux = config.get("linux") or {}
    maps = {name: linux[name] for name in ("uidMappings", "gidMappings") if name in linux}
    packet = json.dumps({"process": process, "cgroup": cgroup, **maps}).encode() + _NUL + (seccomp or b"")
    return packet if len(packet) <= MAX_ORDER else None


def start(
    runner: socket.socket, packet: bytes, target_pid: int, stdio: Stdio, user_namespace: int | None
) -> Running | None:
    """Have a runner do what an order says, in the container whose first process is `target_pid`, a child of ours not waited for.

    None when the runner had died before. Raises StartError; nothing is left then.
    """
    with doing(f"find process {target_pid}"):
        target = os.pidfd_open(target_pid)
    try:
        fds = [target, stdio.stdin, stdio.stdout, stdio.stderr, *([] if user_namespace is None else [user_namespace])]
        socket.send_fds(runner, [packet], fds)
    except (BrokenPipeError, ConnectionResetError):
        return None
    finally:
        os.close(target)
    return Running(*channel.await_start(runner), runner)


def ended(running: Running) -> int | None:
    """The wait status of a command; None if its runner died before it, so that nobody knows."""
    packet = b""
    with suppress(ConnectionResetError):
        packet = running.socket.recv(_STATUS.size)
    return int(_STATUS.unpack(packet)[0]) if packet else None


def wait(end: socket.socket, cgroups: CgroupManager, begun: Callable[[], object] = int) -> NoReturn:
    """The life of a runner; all that it has open is `end` (of `channel.pair`). `begun` is called when it has its order."""
    protect.hide()
    report = Reporter(end, "never")
    process.become(report, lambda report: _run(report, cgroups, begun))


def _run(report: Reporter, cgroups: CgroupManager, begun: Callable[[], object]) -> NoReturn:
    home = Home()
    learn = WRITTEN.copy_ahead()
    packet, fds = report.order(MAX_ORDER, _FDS)
    if not packet:
        os._exit(0)
    begun()
    text, _, program = packet.partition(_NUL)
    content = json.loads(text)
    target, stdin, stdout, stderr, *user = fds
    maps = usernamespaces.parse(content.get("uidMappings", ()), content.get("gidMappings", ()))
    job = init.Job(
        content["process"],
        (stdin, stdout, stderr),
        cgroups.cgroup(content["cgroup"]),
        program or None,
        user_namespace=user[0] if user else None,
        id_maps=maps,
    )
    with doing("join the container's namespaces"):
        syscalls.setns(target, syscalls.CLONE_NEWPID)
    pid = init.spawn_in_existing(job, target, report)
    report.started(pid)
    learn()
    for fd in fds:
        # Readers of the streams wait until the last end is closed.
        os.close(fd)
    with suppress(OSError):
        # Gone from the host meanwhile: it has to stay, then, and counts as one more process there.
        home.enter()
    _, status = os.waitpid(pid, 0)
    with suppress(BrokenPipeError, ConnectionResetError):
        os.write(report.fileno(), _STATUS.pack(status))
    os._exit(0)
