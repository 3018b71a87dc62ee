"""A pod's supervisor: holds the pod's namespaces, is parent and subreaper of its containers, owns their streams, logs and exit codes.

It outlives the daemon and the spawner, in a session of its own with `/` as directory and nothing of theirs open. One thread, one loop.
It listens on `supervisor.sock` in the pod's directory, and writes there

    <container>.json        {"id", "cgroup", "pid", "started_ns"}: what to clean up if we die
    <container>.exit.json   how the container ended, as `status` answers it
    supervisor.log          the traceback, should we fail

It stays when its containers have ended, so that their exit codes can be asked for, until it is told `remove`.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import socket
import traceback
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from moorage.server.libcontainer import cgroups, memory, sharedmemory, syscalls
from moorage.server.libcontainer.ahead import fork_ahead
from moorage.server.libcontainer.cgroups import CgroupManager
from moorage.server.libcontainer.channel import StageListener
from moorage.server.libcontainer.process import Child
from moorage.server.supervisor import ahead, namespaces, ocistart, oom, podinit, starter
from moorage.server.supervisor.attach import Attachment
from moorage.server.supervisor.connection import Connection
from moorage.server.supervisor.container import Container, Started, Surroundings
from moorage.server.supervisor.execs import Execution
from moorage.server.supervisor.failures import Failure, describe
from moorage.server.supervisor.loop import READ, Loop, watch_children
from moorage.server.supervisor.protocol import (
    CRASH_LOG,
    EXIT_SUFFIX,
    SOCKET_NAME,
    STATE_SUFFIX,
    Channel,
    pack_message,
    socket_address,
)
from moorage.server.supervisor.sessions import Session
from moorage.server.supervisor.title import set_title

PR_SET_CHILD_SUBREAPER = 36
BACKLOG = 128

SPARE_TITLE = "moorage-spare"
"""Of a process that has no pod yet."""

WRITTEN = memory.WrittenPages()
"""Until a first container runs."""

LINGER_SECONDS = 5.0
LINGER_STEP = 0.01


class Prepared(NamedTuple):
    """What was made before it was known for which pod."""

    child: Child
    """To become the first process of the first container."""
    learn: Callable[[], None]
    """To be called when that runs, see WrittenPages."""


class Supervisor:
    """The containers of one pod."""

    def __init__(self, pod_id: str, around: Surroundings, has_network: bool, prepared: Prepared | None) -> None:
        self.pod_id = pod_id
        self.loop = around.loop
        self.oom_score = around.oom_score
        self.user = around.user
        self.directory = around.directory
        self.has_network = has_network
        self.containers: dict[str, Container] = {}
        self.executions: dict[int, Execution] = {}
        self._around = around
        self._prepared = prepared
        """For the first container."""
        self._by_pid: dict[int, Container] = {}
        self._waiting: dict[str, list[Attachment]] = {}
        self._watchers: list[Connection] = []
        self._stopped = False
        self._removed: list[Callable[[], None]] = []
        self._linger = LINGER_SECONDS
        self._init: podinit.Init | None = None
        self._forgetting: dict[str, list[Callable[[], None]]] = {}
        self._expected = 0
        """Commands that an OCI runtime is starting, and whose pids we do not know yet."""
        self._unclaimed: dict[int, int] = {}
        """How processes ended that nobody knew, by pid, while commands are expected."""

    def describe(self) -> dict[str, Any]:
        return {
            "pod": self.pod_id,
            "pid": os.getpid(),
            "containers": [container.describe() for container in self.containers.values()],
        }

    def remains(self) -> dict[str, Any]:
        """How the containers ended, and whether nothing is left of them but files."""
        containers = self.containers.values()
        return {
            "clean": all(container.clean for container in containers),
            "containers": [container.describe() for container in containers],
        }

    def container(self, identity: str) -> Container:
        """One that runs or has ended. Raises Failure."""
        container = self.containers.get(identity)
        if container is None:
            raise Failure("NotFound", f"no container {identity} was started in pod {self.pod_id}")
        return container

    def watch(self, connection: Connection) -> None:
        """Tell the ends of containers there, from now on."""
        self._watchers.append(connection)
        connection.on_close = lambda: self._watchers.remove(connection)

    def start(self, spec: Mapping[str, Any], stage: StageListener) -> Container:
        """Start a container, and connect those who attached before. Raises Failure."""
        identity = spec["container"]
        if self._stopped:
            raise Failure("FailedPrecondition", f"pod {self.pod_id} is being stopped")
        if "/" in identity or identity.startswith("."):
            raise Failure("InvalidArgument", f"{identity!r} is no container ID")
        before = self.containers.get(identity)
        if before is not None and before.status is None:
            raise Failure("FailedPrecondition", f"container {identity} is running")
        waiting = self._waiting.pop(identity, [])
        # Before it runs: its first look at the terminal is to find the size.
        size = next((attachment.size for attachment in waiting if attachment.size), None)
        try:
            pid_namespace = self._pid_namespace(spec.get("pid", ""))
            started = self._start({**spec, "size": size, "pid_namespace": pid_namespace}, stage)
        except Exception as error:
            for attachment in waiting:
                attachment.fail(error)
            raise
        container = Container(self._around, spec, started, self._ended)
        self.containers[identity] = container
        self._by_pid[container.pid] = container
        if identity == self.pod_id:
            self._hold_mounts(container)
        for attachment in waiting:
            container.attach(attachment)
        return container

    def _pid_namespace(self, wanted: str) -> str:
        """The path of the PID namespace to be born in; empty for that of the config. Raises Failure."""
        if wanted in ("", "host"):
            return ""
        if wanted == "pod":
            if self._init is None:
                self._init = podinit.start(self._around.user)
            return f"/proc/{self._init.pid}/ns/pid"
        target = self.container(wanted)
        if target.ending:
            raise Failure("FailedPrecondition", f"container {wanted}, whose PID namespace is wanted, has ended")
        return f"/proc/{target.pid}/ns/pid"

    def forget(self, identity: str, forgotten: Callable[[], None]) -> None:
        """Kill what runs of a container; when it has ended forget that there was one, and call `forgotten`."""
        container = self.containers.get(identity)
        if container is not None and container.status is None:
            self._forgetting.setdefault(identity, []).append(forgotten)
            container.kill()
            return
        self.containers.pop(identity, None)
        for suffix in (STATE_SUFFIX, EXIT_SUFFIX):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(identity + suffix, dir_fd=self._around.directory)
        forgotten()

    def _start(self, spec: Mapping[str, Any], stage: StageListener) -> Started:
        prepared, self._prepared = self._prepared, None
        if prepared is not None:
            packet = ahead.order(self._around, spec)
            if packet is not None:
                # Once the caller has its answer.
                self.loop.call_later(0, prepared.learn)
                return ahead.start(self._around, spec, prepared.child, packet, stage)
            prepared.child.discard()
        if spec.get("runtime"):
            return ocistart.start(self._around, spec, stage)
        return starter.start(self._around, spec, stage)

    def attach(self, identity: str, attachment: Attachment) -> None:
        """Connect to a container, now or when it is started."""
        container = self.containers.get(identity)
        if container is not None:
            container.attach(attachment)
        else:
            self._waiting.setdefault(identity, []).append(attachment)

    def forget_attachment(self, attachment: Attachment) -> None:
        """It has gone, perhaps before its container came."""
        for waiting in self._waiting.values():
            if attachment in waiting:
                waiting.remove(attachment)

    def remove(self, removed: Callable[[], None]) -> None:
        """Kill everything; when all is gone call `removed` and stop."""
        self._removed.append(removed)
        self.stop()
        self._stop_when_gone()

    def stop(self) -> None:
        """Kill every container; none is started any more."""
        self._stopped = True
        if self._prepared is not None:
            self._prepared.child.discard()
            self._prepared = None
        for container in self._running():
            self._hold_mounts(container)
            container.kill()

    def _hold_mounts(self, container: Container) -> None:
        """Of a container that the pod ends with: to unmount its root may take as long as to write out a file system.

        So it does not have to be waited for, but goes on when this process ends.
        """
        with contextlib.suppress(FileNotFoundError):
            os.open(f"/proc/{container.pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)

    def child_ended(self, pid: int, wait_status: int) -> None:
        """A child has been reaped: a container's first process, an exec'ed one, or an orphan that we inherited."""
        container = self._by_pid.pop(pid, None)
        if container is not None:
            container.ended(wait_status)
        execution = self.executions.pop(pid, None)
        if execution is not None:
            execution.ended(wait_status)
        elif self._expected:
            self._unclaimed[pid] = wait_status

    def expect(self) -> None:
        """An OCI runtime starts a command, whose end may be told before its pid."""
        self._expected += 1

    def claim(self, pid: int) -> int | None:
        """An expected command is this one, or 0 as there is none after all: its wait status if it has ended already."""
        self._expected -= 1
        status = self._unclaimed.pop(pid, None)
        if not self._expected:
            self._unclaimed.clear()
        return status

    def _running(self) -> list[Container]:
        return [container for container in self.containers.values() if container.status is None]

    def _ended(self, container: Container) -> None:
        for watcher in tuple(self._watchers):
            watcher.send({"event": "exit", "container": container.describe()})
        for forgotten in self._forgetting.pop(container.id, []):
            self.forget(container.id, forgotten)
        if self._removed:
            self._stop_when_gone()

    def _stop_when_gone(self) -> None:
        if self._running():
            return
        attached = [each for container in self.containers.values() for each in container.leaving]
        if self._linger > 0 and any(attachment.behind for attachment in attached):
            # They have the end of the output still to read, and it is nowhere but here.
            self._linger -= LINGER_STEP
            self.loop.call_later(LINGER_STEP, self._stop_when_gone)
            return
        if self._init is not None:
            self._init.end()
        for removed in self._removed:
            removed()
        self.loop.stop()


def wait(order: int, *, ahead: bool) -> None:
    """The life of a supervisor's process, from before it is known for which pod.

    One message comes on the socket `order`, with two descriptors: an `execdriver.base.PodSpec`, a reply socket, and the pod's directory,
    open. `reply` is told {"pid"} when the supervisor listens, or an error, and is a watch from then on. If the socket ends before, so
    does the process. With `ahead` it makes the usual namespaces while it waits, and forks its first container's first process.
    """
    os.setsid()
    set_title(SPARE_TITLE)
    syscalls.prctl(PR_SET_CHILD_SUBREAPER, 1)
    prepared: Prepared | None = None
    if ahead:
        namespaces.enter(namespaces.USUAL)
        child = fork_ahead(cgroup_manager())
        prepared = Prepared(child, WRITTEN.copy_ahead())
    with contextlib.closing(Channel(socket.socket(fileno=order))) as channel:
        frame = channel.receive()
    if frame is not None:
        _run(frame.message, socket.socket(fileno=frame.fds[0]), frame.fds[1], prepared)
    elif prepared is not None:
        prepared.child.discard()


def _run(spec: Mapping[str, Any], reply: socket.socket, directory: int, prepared: Prepared | None) -> None:
    try:
        loop, supervisor = _set_up(spec, directory, prepared)
    except Exception as error:
        reply.sendall(pack_message({"error": describe(error)}))
        return
    try:
        watcher = Connection(loop, reply, lambda _frame: None)
        supervisor.watch(watcher)
        watcher.send({"pid": os.getpid()})
        loop.run()
    except BaseException:
        _record_crash(directory)
        raise
    finally:
        os.unlink(SOCKET_NAME, dir_fd=directory)


def _set_up(spec: Mapping[str, Any], directory: int, prepared: Prepared | None) -> tuple[Loop, Supervisor]:
    gc.enable()
    set_title(f"moorage-supervisor {spec['id'][:12]}")
    spaces, user = spec["namespaces"], None
    if prepared is None:
        user = namespaces.enter(spaces, spec.get("users") or (), spec.get("groups") or ())
    namespaces.set_up(spaces, spec["hostname"], spec["sysctls"])
    shm = sharedmemory.make(spec["shm_size"]) if spec.get("shm_size") else None
    loop = Loop()
    around = Surroundings(loop, cgroup_manager(), directory, oom.usual(), user, shm)
    supervisor = Supervisor(spec["id"], around, "net" in spaces, prepared)
    watch_children(loop, supervisor.child_ended)
    _listen(loop, supervisor, directory)
    return loop, supervisor


def _listen(loop: Loop, supervisor: Supervisor, directory: int) -> None:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(SOCKET_NAME, dir_fd=directory)
    before = os.umask(0o177)
    listener.bind(socket_address(directory))
    os.umask(before)
    listener.listen(BACKLOG)
    loop.add(listener.fileno(), READ, lambda _events: _accept(supervisor, listener))


def _accept(supervisor: Supervisor, listener: socket.socket) -> None:
    sock, _address = listener.accept()
    Session(supervisor, sock)


@functools.cache
def cgroup_manager() -> CgroupManager:
    """Found out once, in the spawner."""
    return cgroups.detect()


def _record_crash(directory: int) -> None:
    fd = os.open(CRASH_LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600, dir_fd=directory)
    with open(fd, "w") as file:
        traceback.print_exc(file=file)
