"""Tests of libcontainer run in a fork that stands for a supervisor: one thread, own namespaces, no handler of pytest's."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import socket
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec

import pytest

from moorage.server.libcontainer import cgroups, channel, process, runner, syscalls
from moorage.server.supervisor.children import forked

P = ParamSpec("P")

BUSYBOX = "/bin/busybox"
APPLETS = (
    "sh",
    "cat",
    "echo",
    "env",
    "false",
    "hostname",
    "id",
    "kill",
    "ls",
    "mount",
    "ps",
    "pwd",
    "sleep",
    "stat",
    "stty",
    "true",
    "tty",
)
PR_SET_CHILD_SUBREAPER = 36
TIMEOUT_SECONDS = 60

CAPABILITIES = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_KILL", "CAP_MKNOD", "CAP_SETGID", "CAP_SETUID"]

PROC = {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]}
DEV = {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"]}
PTS = {
    "destination": "/dev/pts",
    "type": "devpts",
    "source": "devpts",
    "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
}
SYS = {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]}
MOUNTS = (PROC, DEV, PTS, SYS)


class Result(NamedTuple):
    """How a process ended and what it wrote, stdout and stderr together."""

    code: int
    output: str


def supervised(test: Callable[P, None]) -> Callable[P, None]:
    """Have a test's body run in a supervisor of its own."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            _child(lambda: test(*args, **kwargs), writer)
        os.close(writer)
        with open(reader) as file:
            failure = file.read()
        _, status = os.waitpid(pid, 0)
        if failure or status:
            pytest.fail(failure or f"the supervisor ended with status {status}", pytrace=False)

    return run


def _child(body: Callable[[], None], writer: int) -> None:
    status = 1
    try:
        signal.alarm(TIMEOUT_SECONDS)
        syscalls.prctl(PR_SET_CHILD_SUBREAPER, 1)
        syscalls.unshare(syscalls.CLONE_NEWNET | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWNS)
        syscalls.set_propagation("/", syscalls.MS_REC | syscalls.MS_SLAVE)
        body()
        status = 0
    except BaseException:
        os.write(writer, traceback.format_exc().encode())
        _kill_children()
    finally:
        os._exit(status)


def _kill_children() -> None:
    """End what a test that failed left running; orphans come to us one after the other."""
    own = Path(f"/proc/self/task/{os.getpid()}/children")
    while children := own.read_text().split():
        for pid in children:
            os.kill(int(pid), signal.SIGKILL)
        os.waitpid(-1, 0)


class Image:
    """A root file system of busybox, mounted as an overlay."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.lower = self.upper = directory / "lower"
        for name in ("bin", "etc", "tmp"):
            (self.lower / name).mkdir(parents=True)
        shutil.copy(BUSYBOX, self.lower / "bin/busybox")
        for applet in APPLETS:
            (self.lower / "bin" / applet).symlink_to("busybox")
        (self.lower / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nbob:x:1000:1001::/home/bob:/bin/sh\n")
        (self.lower / "etc/group").write_text("root:x:0:\nbob:x:1001:\nstaff:x:50:alice,bob\naudio:x:29:alice\n")

    def script(self, name: str, text: str, mode: int = 0o755) -> None:
        """Put an executable file into /bin."""
        path = self.lower / "bin" / name
        path.write_text(text)
        path.chmod(mode)

    def rootfs(self) -> list[dict[str, Any]]:
        """The mounts of a new container of this image, whose changes go to `upper`."""
        number = len(list(self.directory.glob("upper-*")))
        self.upper, work = self.directory / f"upper-{number}", self.directory / f"work-{number}"
        self.upper.mkdir()
        work.mkdir()
        options = [f"lowerdir={self.lower}", f"upperdir={self.upper}", f"workdir={work}"]
        return [{"type": "overlay", "source": "overlay", "options": options}]


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return Image(tmp_path)


def command(*args: str, **fields: Any) -> dict[str, Any]:
    """An OCI `process`."""
    sets = dict.fromkeys(("bounding", "effective", "permitted"), CAPABILITIES)
    base = {"args": list(args), "env": ["PATH=/bin"], "cwd": "/", "user": {"uid": 0, "gid": 0}}
    return {**base, "capabilities": sets, "noNewPrivileges": True, **fields}


def config(
    process: Mapping[str, Any],
    *,
    mounts: Sequence[Mapping[str, Any]] = (),
    base: Sequence[Mapping[str, Any]] = MOUNTS,
    namespaces: Sequence[Mapping[str, str]] = ({"type": "pid"}, {"type": "mount"}),
    **linux: Any,
) -> dict[str, Any]:
    """An OCI config; more of `linux` by keyword."""
    return {
        "process": process,
        "root": {"readonly": False},
        "mounts": [*base, *mounts],
        "linux": {"namespaces": list(namespaces), **linux},
    }


class Running(NamedTuple):
    """A process with its output in a pipe."""

    process: process.Process
    reader: int
    runner: socket.socket | None = None
    """Which knows how it ends, when it is not our child."""
    clean_up: Callable[[], None] = lambda: None

    def finish(self) -> Result:
        """Read to the end and wait."""
        output = b""
        while chunk := os.read(self.reader, 65536):
            output += chunk
        os.close(self.reader)
        return Result(self.wait(), output.decode())

    def wait(self) -> int:
        if self.runner is not None:
            with self.runner:
                code = runner.ended(self.runner)
            assert code is not None
            os.waitpid(-1, 0)
        else:
            _, status = os.waitpid(self.process.pid, 0)
            code = os.waitstatus_to_exitcode(status)
        os.close(self.process.pidfd)
        self.clean_up()
        return code

    def line(self) -> str:
        """The next line, for a process that is to run on."""
        line = b""
        while not line.endswith(b"\n") and (byte := os.read(self.reader, 1)):
            line += byte
        return line.decode().rstrip()

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        os.close(self.reader)
        self.wait()


def begin(image: Image, config: Mapping[str, Any], **options: Any) -> Running:
    """Start a container with its output in a pipe."""
    more = {"rootfs": image.rootfs(), "cgroup": None, "seccomp": None, **options}
    return _piped(lambda stdio: process.start(config, stdio=stdio, **more))


def begin_exec(target: Running, command: Mapping[str, Any], **options: Any) -> Running:
    """Execute one more command in it."""
    more = {"cgroup": None, "seccomp": None, **options}
    return _piped(lambda stdio: process.execute(target.process.pid, {}, command, stdio=stdio, **more))


def runner_exec(target: Running, command: Mapping[str, Any]) -> Running:
    """As `begin_exec`, by a runner (libcontainer/runner.py)."""
    ours, theirs = channel.pair()
    path = f"/moorage-test-{target.process.pid}"
    cgroup = cgroups.detect().cgroup(path)
    with suppress(FileExistsError):
        cgroup.create({})
    packet = runner.order(command, cgroup=path, filter_name=None, config={})
    assert packet is not None
    around = runner.Surroundings(cgroups.detect(), lambda _name: None, 0, int)
    with theirs:
        pid = forked(lambda kept: runner.wait(socket.socket(fileno=kept[0]), around), (theirs.fileno(),))

    def start(stdio: process.Stdio) -> process.Process:
        assert runner.give(ours, packet, target.process.pidfd, stdio, None)
        return process.Process(*channel.await_start(ours), None, (0, 0, (0,)))

    try:
        return _piped(start)._replace(runner=ours, clean_up=cgroup.remove)
    except BaseException:
        ours.close()
        os.waitpid(pid, 0)
        cgroup.remove()
        raise


EXECS = {"fork": begin_exec, "runner": runner_exec}
"""The two ways to execute one more command."""


def _piped(start: Callable[[process.Stdio], process.Process]) -> Running:
    reader, writer = os.pipe()
    null = os.open("/dev/null", os.O_RDONLY)
    try:
        return Running(start(process.Stdio(null, writer, writer)), reader)
    except BaseException:
        os.close(reader)
        raise
    finally:
        os.close(writer)
        os.close(null)


def run(image: Image, config: Mapping[str, Any], **options: Any) -> Result:
    """Run a container to its end."""
    return begin(image, config, **options).finish()
