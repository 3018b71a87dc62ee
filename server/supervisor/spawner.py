"""The spawner: forks tasks and pod supervisors for the daemon, which never forks itself (gRPC does not survive it).

    daemon ── spawner ─┬─ task         runs one function of the table in tasks.py, dies with the spawner
                       ├─ supervisor   one a pod, in a session of its own, outlives both
              └─ spare        becomes a supervisor, ends with the spawner while it has not

Single-threaded, everything imported and frozen, so that a fork costs no start-up and shares its pages. Each request brings a reply
socket of its own as first descriptor, which goes to the child: the child answers, and the spawner never waits for anybody. The end of
a task's reply socket is its end; shut down by the caller, it is the order to kill the task. The spawner ends when the daemon does.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
from collections.abc import Callable, Sequence
from typing import Any

from moorage.server.libcontainer import cgroupfs, memory
from moorage.server.supervisor import filters, life, oom
from moorage.server.supervisor.children import die_with_parent, forked
from moorage.server.supervisor.failures import Failure, describe
from moorage.server.supervisor.loop import READ, Loop, handle_sigchld, watch_children
from moorage.server.supervisor.protocol import BEGUN, Decoder, Frame, ProtocolError, pack_message, receive, send_all
from moorage.server.supervisor.spares import Spares
from moorage.server.supervisor.tasks import TASKS
from moorage.server.supervisor.title import set_title


class Spawner:
    """Serves one daemon over one socket."""

    def __init__(self, sock: socket.socket, spares: int, patience: float) -> None:
        self._sock = sock
        self._loop = Loop()
        self._spares = Spares(self._loop, spares, patience)
        self._decoder = Decoder()
        self._tasks: dict[int, socket.socket] = {}
        self._ops: dict[str, Callable[[dict[str, Any], tuple[int, ...]], None]] = {
            "task": self._task,
            "pod": self._pod,
            "prime": self._prime,
            "runner": self._runner,
        }

    def run(self) -> None:
        """Serve until the daemon is gone, then kill the tasks."""
        watch_children(self._loop, self._ended)
        self._loop.add(self._sock.fileno(), READ, self._readable)
        self._loop.run()
        for pid in self._tasks:
            os.kill(pid, signal.SIGKILL)

    def _readable(self, _events: int) -> None:
        data, fds = receive(self._sock)
        if not data:
            self._loop.stop()
            return
        for frame in self._decoder.feed(data, fds):
            self._dispatch(frame)

    def _dispatch(self, frame: Frame) -> None:
        if not frame.fds:
            raise ProtocolError("request without a reply socket")
        handler = self._ops.get(frame.message.get("op", ""))
        try:
            if handler is None:
                raise Failure("Unimplemented", f"spawner knows no operation {frame.message.get('op')!r}")
            handler(frame.message, frame.fds)
        except Exception as error:
            with socket.socket(fileno=os.dup(frame.fds[0])) as reply:
                answer(reply, {"error": describe(error)})
        finally:
            for fd in frame.fds:
                os.close(fd)

    def _task(self, message: dict[str, Any], fds: tuple[int, ...]) -> None:
        name = message["name"]
        function = TASKS.get(name)
        if function is None:
            raise Failure("Unimplemented", f"no task {name!r}")
        spawner = os.getpid()
        pid = forked(lambda kept: run_task(spawner, name, message["args"], kept), fds)
        reply = socket.socket(fileno=os.dup(fds[0]))
        self._tasks[pid] = reply
        self._loop.add(reply.fileno(), READ, lambda _events: self._kill(pid))

    def _kill(self, pid: int) -> None:
        self._loop.remove(self._tasks[pid].fileno())
        os.kill(pid, signal.SIGKILL)

    def _ended(self, pid: int, status: int) -> None:
        reply = self._tasks.pop(pid, None)
        if reply is None:
            return
        self._loop.remove(reply.fileno())
        with reply:
            if status:
                how = f"killed by {signal.Signals(os.WTERMSIG(status)).name}" if os.WIFSIGNALED(status) else "failed"
                answer(reply, {"error": {"kind": "Internal", "message": f"task process {how}"}})

    def _pod(self, message: dict[str, Any], fds: tuple[int, ...]) -> None:
        order = self._spares.take(message)
        with order:
            send_all(order, pack_message(message, fds), fds)

    def _runner(self, _message: dict[str, Any], fds: tuple[int, ...]) -> None:
        self._spares.fork_runner(socket.socket(fileno=os.dup(fds[0])))

    def _prime(self, message: dict[str, Any], fds: tuple[int, ...]) -> None:
        filters.prime(message["profile"], message["name"])
        # Those that are there do not know it.
        self._spares.discard()
        with socket.socket(fileno=os.dup(fds[0])) as reply:
            answer(reply, {})


def answer(reply: socket.socket, message: dict[str, Any]) -> None:
    """Answer a caller who may have gone."""
    # A task's own end shares the file description, so that it cannot be made non-blocking here.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError, BlockingIOError):
        reply.send(pack_message(message), socket.MSG_DONTWAIT)


def run_task(spawner: int, name: str, args: dict[str, Any], fds: Sequence[int]) -> None:
    """The life of a task's process. The first descriptor is the reply socket."""
    die_with_parent(spawner)
    oom.unprotect()
    set_title(f"moorage-task {name}")
    gc.enable()
    reply = socket.socket(fileno=fds[0])
    send_all(reply, pack_message(BEGUN))
    try:
        result = {"result": TASKS[name](args, list(fds[1:]))}
    except Exception as error:
        result = {"error": describe(error)}
    send_all(reply, pack_message(result))


def run(fd: int, spares: int, patience: float) -> None:
    """The life of the spawner's process; `fd` is its end of the socket to the daemon, `spares` how many supervisors to have ready,
    `patience` how many seconds these wait until they leave a quiet pod to its keeper.
    """
    os.chdir("/")
    os.umask(0o022)
    os.set_inheritable(fd, False)
    set_title("moorage-spawner")
    oom.protect()
    handle_sigchld()
    life.cgroup_manager()
    cgroupfs.hierarchies()
    memory.settle()
    with socket.socket(fileno=fd) as sock:
        Spawner(sock, spares, patience).run()
