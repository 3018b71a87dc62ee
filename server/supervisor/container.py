"""A container as its supervisor has it: started, its output carried, its end waited for and written down."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from moorage.server.libcontainer import process
from moorage.server.libcontainer.cgroups import Cgroup, CgroupManager
from moorage.server.libcontainer.process import Process, StartError, Stdio
from moorage.server.supervisor import filters, streams
from moorage.server.supervisor.attach import Attachment
from moorage.server.supervisor.log import LogFile
from moorage.server.supervisor.loop import Loop
from moorage.server.supervisor.protocol import EXIT_SUFFIX, STATE_SUFFIX, STDERR, STDOUT, STREAM_NAMES

DRAIN_SECONDS = 1.0
"""How long after the end of a container its streams are read, if somebody outside holds them open."""
DRAIN_LIMIT = 4 << 20

KILLED = 128


class Surroundings(NamedTuple):
    """What a container finds in its supervisor. `directory` is the pod's own, open."""

    loop: Loop
    cgroups: CgroupManager
    directory: int
    oom_score: int


class Container:
    """One run of a container. Made by `start_container`; `on_end` is called once with it, when `status` is set."""

    def __init__(
        self, around: Surroundings, spec: Mapping[str, Any], started: Started, on_end: Callable[[Container], None]
    ) -> None:
        self.id: str = spec["container"]
        self.config: dict[str, Any] = spec["config"]
        self.seccomp = started.seccomp
        self.cgroup = started.cgroup
        self.pid = started.process.pid
        self.started_ns = started.at_ns
        self.status: dict[str, Any] | None = None
        self.ending = False
        """Its first process has ended; what it wrote may not all be read."""
        self._around = around
        self._log = started.log
        self._pidfd = started.process.pidfd
        self._console = started.process.console
        self._stdin_once = bool(spec.get("stdin_once")) and self._console is None
        self._attached: list[Attachment] = []
        self.leaving: list[Attachment] = []
        """Those who were attached at the end, and may still have output to read."""
        self._on_end = on_end
        self._input = streams.Input(around.loop, started.stdin, self._room)
        self._outputs: list[streams.Output] = []
        for kind, fd in started.outputs:
            self._outputs.append(streams.Output(around.loop, fd, self._delivery(kind), self._output_ended))

    def describe(self) -> dict[str, Any]:
        """As `status` and `watch` answer it."""
        return {"id": self.id, "pid": self.pid, "started_ns": self.started_ns, "exit": self.status}

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
        if self.ending and self.status is None and all(output.ended for output in self._outputs):
            self._deadline.cancel()
            self._finish()

    def _finish(self) -> None:
        oom_kills = self.cgroup.oom_kills()
        with contextlib.suppress(OSError):
            # Tried once more when the pod is removed.
            self.cgroup.remove()
        self._log.close()
        reason = "Completed" if self._exit_code == 0 else "OOMKilled" if oom_kills else "Error"
        self.status = {
            "exit_code": self._exit_code,
            "finished_ns": self._finished_ns,
            "oom_killed": oom_kills > 0,
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


class Started(NamedTuple):
    """What `start_container` has when the process runs. `outputs` are kind and descriptor."""

    process: Process
    cgroup: Cgroup
    log: LogFile
    seccomp: bytes | None
    stdin: int | None
    outputs: list[tuple[int, int]]
    at_ns: int


def start_container(
    around: Surroundings, spec: Mapping[str, Any], stage: Callable[[str], None], on_end: Callable[[Container], None]
) -> Container:
    """Start a container as the message of a `start` says; nothing is left when it fails. Raises StartError."""
    identity, config = spec["container"], spec["config"]
    config["process"].setdefault("oomScoreAdj", around.oom_score)
    state = {"id": identity, "cgroup": config["linux"]["cgroupsPath"], "pid": 0, "started_ns": 0}
    with contextlib.ExitStack() as undo:
        stage("prepare")
        with _start_errors("prepare"):
            seccomp = filters.program(spec["seccomp"]) if spec.get("seccomp") else None
            log = LogFile(spec["log_path"], spec["log"]["max_size"], spec["log"]["max_files"])
            undo.callback(log.close)
            _record(around.directory, state, undo)
        with _start_errors("cgroup"):
            cgroup = around.cgroups.cgroup(config["linux"]["cgroupsPath"])
            cgroup.create(config["linux"].get("resources") or {})
            undo.callback(cgroup.remove)
        child, stdio, stdin, outputs = _run(spec, cgroup, seccomp, stage)
        at_ns = time.time_ns()
        undo.pop_all()
    for fd in stdio:
        os.close(fd)
    with contextlib.suppress(OSError):
        write_json(around.directory, identity + STATE_SUFFIX, {**state, "pid": child.pid, "started_ns": at_ns})
    return Container(around, spec, Started(child, cgroup, log, seccomp, stdin, outputs, at_ns), on_end)


def _record(directory: int, state: Mapping[str, Any], undo: contextlib.ExitStack) -> None:
    """Write down what is to be killed should we die, before there is anything to kill."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(state["id"] + EXIT_SUFFIX, dir_fd=directory)
    write_json(directory, state["id"] + STATE_SUFFIX, state)
    undo.callback(os.unlink, state["id"] + STATE_SUFFIX, dir_fd=directory)


@contextlib.contextmanager
def _start_errors(stage: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        path = str(error.filename or "")
        raise StartError(str(error), stage=stage, errno=error.errno or 0, path=path) from error
    except ValueError as error:
        raise StartError(str(error), stage=stage) from error


def _run(
    spec: Mapping[str, Any], cgroup: Cgroup, seccomp: bytes | None, stage: Callable[[str], None]
) -> tuple[Process, list[int], int | None, list[tuple[int, int]]]:
    """Start the process on pipes or a terminal: the process, what of its descriptors to close here, our end of stdin, our outputs."""
    config, rest = spec["config"], {"rootfs": spec["rootfs"], "cgroup": cgroup, "seccomp": seccomp, "stage": stage}
    init = bool(spec.get("init"))
    if config["process"].get("terminal"):
        child = process.start(config, stdio=None, init=init, **rest)
        console = child.console
        if console is None:
            raise StartError("no terminal was made", stage="terminal")
        stdin = os.dup(console) if spec.get("stdin_open") else None
        return child, [], stdin, [(STDOUT, console)]
    with contextlib.ExitStack() as undo:
        theirs, stdin, outputs = _pipes(bool(spec.get("stdin_open")), undo)
        child = process.start(config, stdio=Stdio(*theirs), init=init, **rest)
        undo.pop_all()
    return child, theirs, stdin, outputs


def _pipes(stdin_open: bool, undo: contextlib.ExitStack) -> tuple[list[int], int | None, list[tuple[int, int]]]:
    def pipe() -> tuple[int, int]:
        ends = os.pipe2(os.O_CLOEXEC)
        for fd in ends:
            undo.callback(os.close, fd)
        return ends

    ours: int | None = None
    if stdin_open:
        stdin, ours = pipe()
    else:
        stdin = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        undo.callback(os.close, stdin)
    (out, stdout), (err, stderr) = pipe(), pipe()
    return [stdin, stdout, stderr], ours, [(STDOUT, out), (STDERR, err)]


def exit_code(wait_status: int) -> int:
    """As a shell gives it: 128 and the signal for a process that was killed."""
    code = os.waitstatus_to_exitcode(wait_status)
    return code if code >= 0 else KILLED - code


def write_json(directory: int, name: str, content: Mapping[str, Any]) -> None:
    """Write a file in an open directory, all or nothing."""
    temporary = f".{name}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600, dir_fd=directory)
    with open(fd, "w") as file:
        json.dump(content, file)
    os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
