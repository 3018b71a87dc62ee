"""Starting the processes of a container: an OCI runtime-spec config in, a process out.

The caller has one thread and sits in the network, IPC and UTS namespaces that the container is to inherit.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any, NamedTuple, NoReturn

from moorage.server.libcontainer import channel, emptyroom, namespaces, protect, syscalls, usernamespaces
from moorage.server.libcontainer.cgroups import Cgroup
from moorage.server.libcontainer.channel import Credentials, Reporter, StageListener, When
from moorage.server.libcontainer.errors import SETUP_FAILED, StartError, doing
from moorage.server.libcontainer.init import Job, enter_existing, enter_new
from moorage.server.libcontainer.rootfs import Plan
from moorage.server.libcontainer.rootfs import plan as plan_root
from moorage.server.libcontainer.usernamespaces import IdMaps
from moorage.server.libcontainer.validate import validate, validate_process

__all__ = ["Process", "StartError", "Stdio", "execute", "exit_code", "start"]

KILLED = 128


class Stdio(NamedTuple):
    """Descriptors that become 0, 1 and 2; they stay open in the caller."""

    stdin: int
    stdout: int
    stderr: int


class Process(NamedTuple):
    """A running child of the caller, which waits for it and closes `pidfd` and `console`.

    `pid` is the caller's number for it. `console` is the master of its terminal when `process.terminal` was set. `user` is whom it began
    as.
    """

    pid: int
    pidfd: int
    console: int | None
    user: Credentials


def start(
    config: Mapping[str, Any],
    *,
    rootfs: Sequence[Mapping[str, Any]],
    stdio: Stdio | None,
    cgroup: Cgroup | None,
    seccomp: bytes | None,
    init: bool = False,
    stage: StageListener | None = None,
) -> Process:
    """Start a container's first process; on return its command has been executed.

    `rootfs` are the mounts that make the root file system, bottom first, without destination. `stdio` None is a terminal
    when `process.terminal` is set, else /dev/null. `seccomp` is a compiled program. With `init`, process 1 is a small
    reaper and the command its child. `stage` is told the name of each stage as it begins: `clone`, `cgroup`, `rootfs`,
    `seal`, `user`, `exec`. The caller becomes non-dumpable for good. Raises StartError.
    """
    if stage:
        stage("clone")
    validate(config)
    spaces = namespaces.plan((config.get("linux") or {}).get("namespaces") or ())
    plan = plan_root(config, rootfs)
    with ExitStack() as stack:
        pid_namespace = _open_namespace(spaces.pid_path, stack)
        user = _open_namespace(spaces.user_path, stack)
        users = _user_namespaces(plan, user, stack)
        job = Job(config["process"], _descriptors(stdio), cgroup, seccomp, init, user, plan.id_maps)
        return _run(
            spaces.clone,
            pid_namespace,
            lambda report: enter_new(job, config, plan, spaces, users, emptyroom.make(), report),
            stage,
            "at once" if stage else "never",
        )


def _open_namespace(path: str, stack: ExitStack) -> int | None:
    """A namespace to join; None for no path."""
    if not path:
        return None
    with doing("join the namespace", path):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    stack.callback(os.close, fd)
    return fd


def _user_namespaces(plan: Plan, user: int | None, stack: ExitStack) -> dict[IdMaps, int]:
    """One for each mapping of a mount; that which is to be joined will do for its own."""
    users: dict[IdMaps, int] = {}
    for maps in plan.all_id_maps():
        if user is not None and maps == plan.id_maps:
            users[maps] = user
            continue
        with doing("make a user namespace to map mounts by"):
            users[maps] = usernamespaces.make(maps)
        stack.callback(os.close, users[maps])
    return users


def execute(
    target_pid: int,
    config: Mapping[str, Any],
    process: Mapping[str, Any],
    *,
    stdio: Stdio | None,
    cgroup: Cgroup | None,
    seccomp: bytes | None,
    user_namespace: int | None = None,
) -> Process:
    """Run one more process in the container whose first process is `target_pid`, a child of the caller not yet waited for.

    `config` is the container's, `process` shaped as its `process`, `user_namespace` that of the container, open.
    The process is a child of the caller, which becomes
    non-dumpable for good, and must be waited for in any order: the kernel lets process 1 of a pid namespace end only when all the others
    have been. Raises StartError.
    """
    validate_process(process)
    linux = config.get("linux") or {}
    id_maps = usernamespaces.parse(linux.get("uidMappings") or (), linux.get("gidMappings") or ())
    job = Job(process, _descriptors(stdio), cgroup, seccomp, False, user_namespace, id_maps)
    with doing(f"find process {target_pid}"):
        target = os.pidfd_open(target_pid)
    try:
        return _run(0, target, lambda report: enter_existing(job, target, report), None, "never")
    finally:
        os.close(target)


def _descriptors(stdio: Stdio | None) -> tuple[int, int, int] | None:
    return None if stdio is None else (stdio.stdin, stdio.stdout, stdio.stderr)


def _run(
    flags: int,
    pid_namespace: int | None,
    body: Callable[[Reporter], object],
    stage: StageListener | None,
    when: When,
) -> Process:
    """Fork, have the child run `body`, which executes, and hear from it how that went."""
    return follow(fork(flags, pid_namespace, when, body), stage)


class Child(NamedTuple):
    """A fork on its way to its command, and our end of the socket to it."""

    pid: int
    pidfd: int
    socket: socket.socket

    def discard(self) -> None:
        """Kill it, and wait for its end."""
        self.socket.close()
        _end(self.pid, self.pidfd)
        os.close(self.pidfd)


def fork(flags: int, pid_namespace: int | None, when: When, body: Callable[[Reporter], object]) -> Child:
    """Fork, and have the child run `body`, which executes. The caller becomes non-dumpable for good."""
    protect.hide()
    with ExitStack() as stack:
        ours, theirs = channel.pair()
        stack.callback(ours.close)
        with theirs:
            pid, pidfd = _fork(flags, pid_namespace, lambda: become(Reporter(theirs, when), body))
        stack.pop_all()
        return Child(pid, pidfd, ours)


def follow(child: Child, stage: StageListener | None) -> Process:
    """Hear from a child how it went. Raises StartError; the child has ended then."""
    with ExitStack() as stack:
        stack.callback(child.discard)
        consoles: list[int] = []
        user, last = channel.listen(child.socket, stage, consoles, stack)
        if user is None:
            raise _died(child.pidfd, last)
        stack.pop_all()
        child.socket.close()
        return Process(child.pid, child.pidfd, consoles[0] if consoles else None, user)


def _fork(flags: int, pid_namespace: int | None, child: Callable[[], NoReturn]) -> tuple[int, int]:
    """Fork with all signals blocked, so that the parent's handlers never run in the child."""
    mask = syscalls.block_signals()
    try:
        with doing("fork"):
            pid, pidfd = namespaces.clone(flags, pid_namespace)
        if pid == 0:
            child()
        return pid, pidfd
    finally:
        syscalls.set_signal_mask(mask)


def exit_code(wait_status: int) -> int:
    """As a shell gives it: 128 and the signal for a process that was killed."""
    code = os.waitstatus_to_exitcode(wait_status)
    return code if code >= 0 else KILLED - code


def become(report: Reporter, body: Callable[[Reporter], object]) -> NoReturn:
    """The life of a child from here: `body`, which executes or exits; if it raises, that is reported."""
    code = SETUP_FAILED
    # A collection would touch, and so copy, every object there is.
    gc.disable()
    try:
        protect.forget_handlers()
        body(report)
    except BaseException as error:
        code = getattr(error, "exit_code", SETUP_FAILED)
        with suppress(OSError):
            report.failed(error)
    finally:
        os._exit(code)


def _end(pid: int, pidfd: int) -> None:
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    with suppress(ChildProcessError):
        os.waitpid(pid, 0)


def _died(pidfd: int, stage: str) -> StartError:
    ended = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT)
    how = "was killed by signal" if ended and ended.si_code != os.CLD_EXITED else "ended with code"
    number = ended.si_status if ended else 0
    return StartError(f"the process {how} {number} while it was set up; is its memory limit too low?", stage=stage)
