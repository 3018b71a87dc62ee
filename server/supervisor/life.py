"""The life of a supervisor's process: from before it is known for which pod, in a session of its own with `/` as directory and nothing
of the daemon's or the spawner's open, until the pod is removed.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import signal
import socket
from collections.abc import Callable, Mapping
from typing import Any

from moorage.server.libcontainer import cgroups, interfaces, memory, sharedmemory, syscalls
from moorage.server.libcontainer.ahead import fork_ahead
from moorage.server.libcontainer.cgroups import CgroupManager
from moorage.server.supervisor import handover, keeper, namespaces, oom
from moorage.server.supervisor.children import print_traceback
from moorage.server.supervisor.container import Surroundings
from moorage.server.supervisor.failures import describe
from moorage.server.supervisor.keeper import BACKLOG
from moorage.server.supervisor.loop import READ, Loop, watch_children
from moorage.server.supervisor.protocol import CRASH_LOG, SOCKET_NAME, Channel, pack_message, socket_address
from moorage.server.supervisor.sessions import Session
from moorage.server.supervisor.supervisor import Prepared, Supervisor
from moorage.server.supervisor.title import set_title

PR_SET_CHILD_SUBREAPER = 36

SPARE_TITLE = "moorage-spare"
"""Of a process that has no pod yet."""

WRITTEN = memory.WrittenPages()
"""Until a first container runs."""

FIRST_LOOK, LONGEST_WAIT = 0.01, 60.0
"""Seconds between two looks whether the pod is quiet: each wait is twice the one before, within these."""


def wait(order: int) -> None:
    """Become a pod's supervisor when it is known which.

    One message comes on the socket `order`, with two descriptors: an `execdriver.base.PodSpec`, a reply socket, and the pod's directory,
    open. `reply` is told {"pid"} when the supervisor listens, or an error, and is a watch from then on. If the socket ends before, so
    does the process.
    """
    _begin()
    _take_order(order, None, None)


def keep(order: int, *, ahead: bool, patience: float) -> None:
    """The same for a pod with the usual namespaces, which are made while we wait, but as its keeper, whose pid is the one that is told.

    A fork is the supervisor, until the pod has been quiet for about `patience` seconds. With `ahead` it has forked the first process
    of the pod's first container before it is known for what.
    """
    _begin()
    syscalls.unshare(namespaces.USUAL_FLAGS)
    legacy = keeper.keep(functools.partial(_supervise, ahead, patience), order)
    if legacy is not None:
        _take_over(legacy)


def _begin() -> None:
    os.setsid()
    set_title(SPARE_TITLE)
    syscalls.prctl(PR_SET_CHILD_SUBREAPER, 1)


def _supervise(ahead: bool, patience: float, order: int, end: int) -> None:
    syscalls.prctl(PR_SET_CHILD_SUBREAPER, 1)
    interfaces.loopback_up()
    prepared = Prepared(fork_ahead(cgroup_manager()), WRITTEN.copy_ahead()) if ahead else None
    with socket.socket(fileno=end) as keeper:
        _take_order(order, prepared, Retirement(keeper, patience))


def _take_order(order: int, prepared: Prepared | None, retirement: Retirement | None) -> None:
    with contextlib.closing(Channel(socket.socket(fileno=order))) as channel:
        frame = channel.receive()
    if frame is not None:
        _run(frame.message, socket.socket(fileno=frame.fds[0]), frame.fds[1], prepared, retirement)
    elif prepared is not None:
        prepared.child.discard()


def _run(
    spec: Mapping[str, Any],
    reply: socket.socket,
    directory: int,
    prepared: Prepared | None,
    retirement: Retirement | None,
) -> None:
    loop = Loop()
    try:
        user = None if retirement else namespaces.enter(spec["namespaces"], spec["users"], spec["groups"])
        pod = _set_up(loop, spec, directory, user, os.getppid() if retirement else os.getpid(), prepared)
        children = watch_children(loop, pod.child_ended)
        listener = _listen(loop, pod, directory)
    except Exception as error:
        reply.sendall(pack_message({"error": describe(error)}))
        return

    def begin() -> Loop:
        watcher = Session(pod, reply).connection
        pod.watch(watcher)
        watcher.send({"pid": pod.pid})
        if retirement is not None:
            retirement.begin(loop, pod, listener, children)
        return loop

    _live(directory, begin)


def _set_up(
    loop: Loop, spec: Mapping[str, Any], directory: int, user: int | None, pid: int, prepared: Prepared | None
) -> Supervisor:
    gc.enable()
    keeper.name_supervisor(spec["id"])
    spaces = spec["namespaces"]
    namespaces.set_up(spaces, spec["hostname"], spec["sysctls"])
    shm = sharedmemory.make(spec["shm_size"]) if spec["shm_size"] else None
    around = Surroundings(loop, cgroup_manager(), directory, oom.usual(), user, shm)
    return Supervisor(spec["id"], pid, around, prepared)


def _listen(loop: Loop, pod: Supervisor, directory: int) -> int:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(SOCKET_NAME, dir_fd=directory)
    before = os.umask(0o177)
    listener.bind(socket_address(directory))
    os.umask(before)
    listener.listen(BACKLOG)
    return _serve(loop, pod, listener)


def _serve(loop: Loop, pod: Supervisor, listener: socket.socket) -> int:
    loop.add(listener.fileno(), READ, lambda _events: _accept(pod, listener))
    return listener.fileno()


def _accept(pod: Supervisor, listener: socket.socket) -> None:
    sock, _address = listener.accept()
    Session(pod, sock)


def _take_over(legacy: keeper.Inheritance) -> None:
    """Be the supervisor as soon as one is needed."""

    def begin() -> Loop:
        keeper.wait(legacy.fds)
        gc.enable()
        loop = Loop()
        pod, listener = handover.take_over(loop, cgroup_manager(), os.getpid(), legacy)
        watch_children(loop, pod.child_ended)
        # For those who have ended before.
        signal.raise_signal(signal.SIGCHLD)
        _serve(loop, pod, socket.socket(fileno=listener))
        return loop

    _live(legacy.fds[0], begin)


def _live(directory: int, begin: Callable[[], Loop]) -> None:
    """Look after a pod to its end."""
    try:
        begin().run()
    except BaseException as error:
        _record_crash(directory, error)
        raise
    finally:
        # Who has removed the pod may be deleting its directory already.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(SOCKET_NAME, dir_fd=directory)


class Retirement:
    """Of a supervisor, by handing its pod over to the keeper at the other end of a socket, once the pod is quiet."""

    def __init__(self, keeper: socket.socket, patience: float) -> None:
        self._keeper = keeper
        self._wait = patience

    def begin(self, loop: Loop, pod: Supervisor, listener: int, children: int) -> None:
        """`listener` and `children` are what the loop watches beside what the pod has."""

        def look() -> None:
            if handover.can_hand_over(loop, pod, (listener, children)):
                handover.hand_over(self._keeper, pod, listener)
                os._exit(0)
            self._wait = min(max(2 * self._wait, FIRST_LOOK), LONGEST_WAIT)
            loop.call_later(self._wait, look)

        loop.call_later(self._wait, look)


@functools.cache
def cgroup_manager() -> CgroupManager:
    """Found out once, in the spawner."""
    return cgroups.detect()


def _record_crash(directory: int, error: BaseException) -> None:
    fd = os.open(CRASH_LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600, dir_fd=directory)
    with open(fd, "w") as file, contextlib.redirect_stderr(file):
        print_traceback(error)
