"""A container's first process, forked before it is known which container that will be.

    parent                                       child, process 1 of a new pid namespace
      fork_ahead ──────────────────────────────▶  waits, with nothing open but its socket
      start: one packet, JSON NUL config NUL ──▶  makes the cgroup and the container around itself, and becomes its command
             filter, and descriptors, see `start`
      (closes the socket) ─────────────────────▶  ends

The fork, the copies of the pages that a start writes to, and a mount namespace are paid for while nobody waits. That is an empty one:
what is mounted on the host then is neither kept nor taken for what is mounted when the order comes.
"""

from __future__ import annotations

import json
import os
import select
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NoReturn

from moorage.server.libcontainer import emptyroom, memory, namespaces, process, sharedmemory, syscalls
from moorage.server.libcontainer.cgroups import CgroupManager
from moorage.server.libcontainer.channel import Reporter, StageListener
from moorage.server.libcontainer.errors import stating
from moorage.server.libcontainer.init import Job, enter_new
from moorage.server.libcontainer.process import Child, Process, Stdio
from moorage.server.libcontainer.rootfs import plan as plan_root
from moorage.server.libcontainer.validate import validate

MAX_ORDER = 64 << 10
"""Bytes of an order: a packet must fit the socket's buffer. What is longer cannot be started ahead."""

WRITTEN = memory.WrittenPages()

_NUL = b"\0"
_FIRST_FD = 3
_MAX_FD = 1 << 30
_FDS = 5


def fork_ahead(cgroups: CgroupManager) -> Child:
    """Fork a child that waits for its order: for `start`, or `Child.discard`. The caller becomes non-dumpable for good."""
    return process.fork(syscalls.CLONE_NEWPID, None, "together", lambda report: _wait(report, cgroups))


def order(
    config: str,
    *,
    rootfs: Sequence[Mapping[str, Any]],
    cgroup: str,
    seccomp: bytes | None,
    init: bool = False,
    defaults: Mapping[str, Any] | None = None,
    shares_memory: bool = False,
    gated: bool = False,
) -> bytes | None:
    """The order to start a container; None if it is too long.

    As for `process.start`, but that `config` is JSON and has a new pid namespace and no mappings of IDs, and `cgroup` is the path of a
    cgroup that the child makes. `defaults` are members that `process` is given where it has none. With `shares_memory` and `gated`, `start`
    gets these.
    """
    content = {
        "rootfs": rootfs,
        "cgroup": cgroup,
        "init": init,
        "defaults": defaults or {},
        "shares_memory": shares_memory,
        "gated": gated,
    }
    packet = _NUL.join((json.dumps(content).encode(), config.encode(), seccomp or b""))
    return packet if len(packet) <= MAX_ORDER else None


def start(
    child: Child,
    packet: bytes,
    stdio: Stdio | None,
    memory: int | None,
    gate: int | None,
    stage: StageListener | None,
) -> Process:
    """Have a waiting child become the container that an order says; on return its command has been executed.

    `memory` is of `sharedmemory.make`, for the container's /dev/shm; `gate` is `Job.gate`. The stages `prepare`, `cgroup` and so on are
    told at the end. Raises StartError; what there is of the cgroup is the caller's to remove.
    """
    streams = (stdio.stdin, stdio.stdout, stdio.stderr) if stdio else ()
    fds = [*streams, *(fd for fd in (memory, gate) if fd is not None)]
    # Should it have died, `follow` is going to say so.
    with suppress(BrokenPipeError):
        socket.send_fds(child.socket, [packet], fds)
    if gate is not None:
        # Which may take longer than any step of a start.
        poll = select.poll()
        poll.register(gate, select.POLLIN)
        poll.poll()
    return process.follow(child, stage)


def _wait(report: Reporter, cgroups: CgroupManager) -> NoReturn:
    os.closerange(_FIRST_FD, report.fileno())
    os.closerange(report.fileno() + 1, _MAX_FD)
    room = emptyroom.make()
    report.before_ready = WRITTEN.copy_ahead()
    packet, fds = report.order(MAX_ORDER, _FDS)
    if not packet:
        os._exit(0)
    report.stage("prepare")
    # Of these a filter alone may have such bytes in it.
    text, config_text, program = packet.split(_NUL, 2)
    content, config = json.loads(text), json.loads(config_text)
    for name, value in content["defaults"].items():
        config["process"].setdefault(name, value)
    gate = fds.pop() if content["gated"] else None
    if content["shares_memory"]:
        sharedmemory.use(config, fds.pop())
    validate(config)
    linux = config.get("linux") or {}
    spaces = namespaces.plan(linux.get("namespaces") or ())
    plan = plan_root(config, content["rootfs"])
    cgroup = cgroups.cgroup(content["cgroup"])
    report.stage("cgroup")
    with stating("cgroup"):
        cgroup.create(linux.get("resources") or {})
    syscalls.unshare(spaces.clone & ~syscalls.CLONE_NEWPID)
    stdio = (fds[0], fds[1], fds[2]) if fds else None
    job = Job(config["process"], stdio, cgroup, program or None, content["init"], gate=gate)
    enter_new(job, config, plan, spaces, {}, room, report)
