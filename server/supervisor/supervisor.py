"""A pod's supervisor: holds the pod's namespaces, is parent and subreaper of its containers, owns their streams, logs and exit codes.

Its process, see life.py, outlives the daemon and the spawner. One thread, one loop. It listens on `supervisor.sock` in the pod's
directory, and writes there

    <container>.json        {"id", "cgroup", "pid", "started_ns"}: what to clean up if we die
    <container>.exit.json   how the container ended, as `status` answers it
    supervisor.log          the traceback, should we fail

It stays when its containers have ended, so that their exit codes can be asked for, until it is told `remove`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from moorage.server.libcontainer.channel import StageListener
from moorage.server.libcontainer.init import pass_gate
from moorage.server.libcontainer.process import Child
from moorage.server.supervisor import ahead, ocistart, podinit, starter
from moorage.server.supervisor.attach import Attachment
from moorage.server.supervisor.connection import Connection
from moorage.server.supervisor.container import Container, Started, Surroundings
from moorage.server.supervisor.execs import Execution
from moorage.server.supervisor.failures import Failure
from moorage.server.supervisor.protocol import EXIT_SUFFIX, STATE_SUFFIX

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

    def __init__(self, pod_id: str, pid: int, around: Surroundings, prepared: Prepared | None = None) -> None:
        self.pod_id = pod_id
        self.pid = pid
        """Of the process that is there as long as the pod is."""
        self.loop = around.loop
        self.oom_score = around.oom_score
        self.user = around.user
        self.directory = around.directory
        self.containers: dict[str, Container] = {}
        self.executions: dict[int, Execution] = {}
        self.around = around
        self._prepared = prepared
        """For the first container."""
        self._by_pid: dict[int, Container] = {}
        self._waiting: dict[str, list[Attachment]] = {}
        self.watchers: list[Connection] = []
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
            "pid": self.pid,
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
        self.watchers.append(connection)
        connection.on_close = lambda: self.watchers.remove(connection)

    def start(self, spec: Mapping[str, Any], gate: int | None, stage: StageListener) -> Container:
        """Start a container, and connect those who attached before; its command is not executed before `gate` (`init.Job`) is open.

        Raises Failure.
        """
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
            started = self._start({**spec, "size": size, "pid_namespace": pid_namespace, "gate": gate}, stage)
        except Exception as error:
            for attachment in waiting:
                attachment.fail(error)
            raise
        container = self.adopt(spec, started)
        if identity == self.pod_id:
            self._hold_mounts(container)
        for attachment in waiting:
            container.attach(attachment)
        return container

    def adopt(self, spec: Mapping[str, Any], started: Started) -> Container:
        """Look after a container that has been started."""
        container = Container(self.around, spec, started, self._ended)
        self.containers[container.id] = container
        self._by_pid[container.pid] = container
        return container

    @property
    def quiet(self) -> bool:
        """Whether containers run, and nothing else is there or under way but watchers."""
        expected = self._prepared or self._expected or any(self._waiting.values())
        ending = self._stopped or self._forgetting
        busy = expected or ending or self._init or self.executions
        return bool(self.containers) and not busy and all(each.quiet for each in self.containers.values())

    def _pid_namespace(self, wanted: str) -> str:
        """The path of the PID namespace to be born in; empty for that of the config. Raises Failure."""
        if wanted in ("", "host"):
            return ""
        if wanted == "pod":
            if self._init is None:
                self._init = podinit.start(self.around.user)
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
                os.unlink(identity + suffix, dir_fd=self.around.directory)
        forgotten()

    def _start(self, spec: Mapping[str, Any], stage: StageListener) -> Started:
        prepared, self._prepared = self._prepared, None
        if prepared is not None:
            packet = ahead.order(self.around, spec)
            if packet is not None:
                # Once the caller has its answer.
                self.loop.call_later(0, prepared.learn)
                return ahead.start(self.around, spec, prepared.child, packet, stage)
            prepared.child.discard()
        if spec["gate"] is not None:
            pass_gate(spec["gate"])
        if spec.get("runtime"):
            return ocistart.start(self.around, spec, stage)
        return starter.start(self.around, spec, stage)

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
        for watcher in tuple(self.watchers):
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
