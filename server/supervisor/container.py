"""A container as its supervisor has it: started, its output carried, its end waited for and written down."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from moorage.server.libcontainer.cgroups import Cgroup, CgroupManager
from moorage.server.libcontainer.channel import Credentials
from moorage.server.libcontainer.process import exit_code
from moorage.server.supervisor import filters, ociend, ociruntime, streams
from moorage.server.supervisor.attach import Attachment
from moorage.server.supervisor.failures import Failure
from moorage.server.supervisor.log import LogFile
from moorage.server.supervisor.loop import Loop
from moorage.server.supervisor.protocol import EXIT_SUFFIX, STREAM_NAMES

DRAIN_SECONDS = 1.0
"""How long after the end of a container its streams are read, if somebody outside holds them open."""
DRAIN_LIMIT = 4 << 20

KEPT = ("container", "config", "cgroup", "seccomp", "runtime", "stdin_once", "log_path", "log")
"""What a container is made of again when another process takes it over."""


class Surroundings(NamedTuple):
    """What a container finds in its supervisor. `directory` is the pod's own, open, `user` its user namespace, `shm` its /dev/shm."""

    loop: Loop
    cgroups: CgroupManager
    directory: int
    oom_score: int
    user: int | None = None
    shm: int | None = None


class Started(NamedTuple):
    """A container's first process, started, and our ends of its streams. `outputs` are kind and descriptor."""

    pid: int
    pidfd: int
    user: Credentials
    at_ns: int
    stdin: int | None
    outputs: list[tuple[int, int]]
    terminal: bool
    log: LogFile
    seccomp: bytes | None


class Container:
    """One run of a container. `on_end` is called once with it, when `status` is set."""

    def __init__(
        self, around: Surroundings, spec: Mapping[str, Any], started: Started, on_end: Callable[[Container], None]
    ) -> None:
        self.id: str = spec["container"]
        self.config: str = spec["config"]
        """As JSON."""
        self.seccomp = started.seccomp
        self.usual_filter = spec["seccomp"] is None or filters.known(spec["seccomp"]) is not None
        """It is none, or one of those that the daemon gives by default."""
        self.runtime = ociruntime.parse(spec["runtime"]) if spec.get("runtime") else None
        """The OCI runtime that made it, if it is none of our own."""
        self.cgroup: Cgroup = around.cgroups.cgroup(spec["cgroup"])
        self.pid = started.pid
        self.user = started.user
        self.started_ns = started.at_ns
        self.status: dict[str, Any] | None = None
        self.clean = False
        """It has ended and its cgroup is gone."""
        self.ending = False
        """Its first process has ended; what it wrote may not all be read."""
        self._finishing = False
        """All that it wrote has been read; an OCI runtime may not have heard of its end."""
        self._around = around
        self._spec = {name: spec[name] for name in KEPT if name in spec}
        self._log = started.log
        self._pidfd = started.pidfd
        self._console = started.outputs[0][1] if started.terminal else None
        self._stdin_once = bool(spec.get("stdin_once")) and self._console is None
        self._attached: list[Attachment] = []
        self.leaving: list[Attachment] = []
        """Those who were attached at the end, and may still have output to read."""
        self._on_end = on_end
        self._input = streams.Input(around.loop, started.stdin, self._room)
        self._kinds = [kind for kind, _fd in started.outputs]
        self._outputs: list[streams.Output] = []
        for kind, fd in started.outputs:
            self._outputs.append(streams.Output(around.loop, fd, self._delivery(kind), self._output_ended))

    def describe(self) -> dict[str, Any]:
        """As `status` and `watch` answer it."""
        return {"id": self.id, "pid": self.pid, "started_ns": self.started_ns, "exit": self.status}

    @property
    def mappings(self) -> dict[str, Any]:
        """What its config says of mappings of IDs, which few have."""
        if "uidMappings" not in self.config:
            return {}
        linux = json.loads(self.config)["linux"]
        return {"linux": {name: linux[name] for name in ("uidMappings", "gidMappings") if name in linux}}

    def entry(self, user: int | None) -> tuple[dict[str, Any], list[int]]:
        """The way in for commands that others add: a message, and new descriptors of its first process and of the pod's `user` namespace.

        "entry" is None where only we can add one.
        """
        if self.runtime is not None or not self.usual_filter:
            return {"entry": None}, []
        filter_name = filters.name(self._spec["seccomp"])
        about = {"cgroup": self.cgroup.path, "filter": filter_name, "mappings": self.mappings}
        return {"entry": about}, [os.dup(fd) for fd in (self._pidfd, user) if fd is not None]

    @property
    def quiet(self) -> bool:
        """Whether it runs as it was started, and nobody is attached."""
        open_yet = not self.ending and not any(output.ended for output in self._outputs)
        return open_yet and not self._attached and self._input.empty and self.usual_filter and not self._log.dropped

    @property
    def outputs(self) -> list[int]:
        """The descriptors that its output is read from."""
        return [output.fd for output in self._outputs]

    def hand_over(self) -> tuple[dict[str, Any], list[int]]:
        """What another process needs to look after it, when it is quiet: a message as starters send it, with what was asked for as
        "spec", and its descriptors."""
        stdin = [] if self._input.fd is None else [self._input.fd]
        message = {
            "spec": self._spec,
            "pid": self.pid,
            "user": self.user,
            "started_ns": self.started_ns,
            "kinds": self._kinds,
            "stdin": bool(stdin),
        }
        return message, [self._pidfd, self._log.fd, *self.outputs, *stdin]

    # Streams.

    def attach(self, attachment: Attachment) -> None:
        """Connect one more; one that comes too late is told the end at once."""
        if self.status is not None:
            attachment.end(self.status)
            return
        self._attached.append(attachment)
        attachment.join(self)

    def detach(self, attachment: Attachment) -> None:
        if attachment in self._attached:
            self._attached.remove(attachment)
            if attachment.writes:
                self.stdin_closed()
            self.balance()

    def balance(self) -> None:
        """Read the container's output unless one of the lossless is full."""
        held = any(attachment.full for attachment in self._attached)
        for output in self._outputs:
            if held and not self.ending:
                output.pause()
            else:
                output.resume()

    def stdin(self, data: bytes) -> None:
        """Bytes from one of the attached."""
        self._input.write(data)
        if self._input.full:
            for attachment in self._attached:
                attachment.hold(True)

    def stdin_closed(self) -> None:
        """One of the attached will write no more."""
        if self._stdin_once:
            self._input.end()

    def resize(self, columns: int, rows: int) -> None:
        if self._console is not None and not self._outputs[0].ended:
            streams.resize(self._console, columns, rows)

    def reopen_log(self) -> None:
        """Raises Failure when it has ended, as its log is closed then; OSError."""
        if self._finishing:
            raise Failure("FailedPrecondition", f"container {self.id} is not running")
        self._log.reopen()

    def _delivery(self, kind: int) -> Callable[[bytes], None]:
        name = STREAM_NAMES[kind]

        def deliver(data: bytes) -> None:
            self._log.write(name, data)
            if self._attached:
                for attachment in tuple(self._attached):
                    attachment.output(kind, data)
                self.balance()

        return deliver

    def _room(self) -> None:
        if not self._input.full:
            for attachment in self._attached:
                attachment.hold(False)

    # Its end.

    def signal(self, number: int) -> None:
        """Signal the first process; one that has ended is fine."""
        if not self.ending:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def kill(self) -> None:
        """SIGKILL all of it."""
        self.cgroup.kill()

    def ended(self, wait_status: int) -> None:
        """Its first process has ended, with this status of wait(2). The rest goes with it, and what it wrote is read to the end."""
        self.ending = True
        self._exit_code = exit_code(wait_status)
        self._finished_ns = time.time_ns()
        os.close(self._pidfd)
        with contextlib.suppress(OSError):
            self.cgroup.kill()
        self._input.close()
        self._deadline = self._around.loop.call_later(DRAIN_SECONDS, self._give_up)
        for output in self._outputs:
            # What the pipe still holds is read also for a reader who lags: it is not much, and nothing more comes.
            output.drain(DRAIN_LIMIT)
        self.balance()
        self._output_ended()

    def _give_up(self) -> None:
        for output in self._outputs:
            output.drain(DRAIN_LIMIT)
            output.close()

    def _output_ended(self) -> None:
        if self.ending and not self._finishing and all(output.ended for output in self._outputs):
            self._finishing = True
            self._deadline.cancel()
            self._finish()

    def _finish(self) -> None:
        oom_kills = self.cgroup.oom_kills()
        with contextlib.suppress(OSError):
            # Tried once more when the pod is removed.
            self.cgroup.remove()
            self.clean = True
        self._log.close()
        if self.runtime is None:
            self._tell_end(oom_kills > 0)
            return

        def forgotten(forgotten: bool) -> None:
            self.clean = self.clean and forgotten
            self._tell_end(oom_kills > 0)

        ociend.begin(self._around.loop, self._around.directory, self.id, self.runtime, forgotten)

    def _tell_end(self, oom_killed: bool) -> None:
        reason = "Completed" if self._exit_code == 0 else "OOMKilled" if oom_killed else "Error"
        self.status = {
            "exit_code": self._exit_code,
            "finished_ns": self._finished_ns,
            "oom_killed": oom_killed,
            "reason": reason,
            "error": "",
        }
        with contextlib.suppress(OSError):
            # On a full disk the supervisor's memory has to do.
            write_json(self._around.directory, self.id + EXIT_SUFFIX, self.describe())
        self.leaving, self._attached = self._attached, []
        for attachment in self.leaving:
            attachment.end(self.status)
        self._on_end(self)


def write_json(directory: int, name: str, content: Mapping[str, Any]) -> None:
    """Write a file in an open directory, all or nothing."""
    temporary = f".{name}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600, dir_fd=directory)
    try:
        data = json.dumps(content).encode()
        if os.write(fd, data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
    finally:
        os.close(fd)
    os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)


def extend_json(directory: int, name: str, content: Mapping[str, Any]) -> None:
    """Write over such a file what is longer in one write of less than a page, which a killed process has done or not begun."""
    fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        os.write(fd, json.dumps(content).encode())
    finally:
        os.close(fd)
