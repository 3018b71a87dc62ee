"""An OCI runtime's binary: how its command line is put together, how it is waited for, and what its errors mean.

The command line is the one that runc and those after it share: create, start, exec, delete, with errors as JSON in a file.
"""

from __future__ import annotations

import errno
import json
import os
import re
import select
import signal
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from moorage.server.libcontainer import syscalls
from moorage.server.libcontainer.errors import NOT_EXECUTABLE, NOT_FOUND, SETUP_FAILED, StartError
from moorage.server.supervisor.children import die_with_parent, forked

SECONDS = 60.0
"""How long one command of a runtime may take: as long as a step of a start of our own."""
DELETE_SECONDS = 10.0
"""How long it may take to forget a container whose processes are gone; what it leaves is deleted with the pod."""
LOG = "log"
LOG_LIMIT = 64 << 10
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}

# What runc, crun and youki say of a command that cannot be executed, and a shell's exit code for it with its errno.
_COMMAND_ERRORS = (
    (re.compile(r'executable( file)? .*not found|exec: ".*": stat .*: no such file'), NOT_FOUND, errno.ENOENT),
    (
        re.compile(r'(exec: ".*"|open executable|exec .*): .*(not permitted|permission denied)', re.I),
        NOT_EXECUTABLE,
        errno.EACCES,
    ),
    (re.compile(r'exec: ".*": is a directory'), NOT_EXECUTABLE, errno.EISDIR),
    (re.compile(r"exec .*exec format error", re.I), NOT_EXECUTABLE, errno.ENOEXEC),
)


class Runtime(NamedTuple):
    """One that the daemon's configuration names. `root` is where it keeps its state, `args` stand before the command."""

    name: str
    path: str
    root: str
    args: Sequence[str] = ()


def parse(message: Mapping[str, Any]) -> Runtime:
    """As a `start` message, and the state file of a container, have it."""
    return Runtime(message["name"], message["path"], message["root"], message["args"])


def command_line(runtime: Runtime, *arguments: str, log: str = "") -> list[str]:
    """The command of a runtime; it writes its errors to the file `log`."""
    logging = ["--log", log, "--log-format", "json"] if log else []
    return [runtime.path, *runtime.args, "--root", runtime.root, *logging, *arguments]


def delete_command(runtime: Runtime, identity: str) -> list[str]:
    """What makes a runtime forget a container, whatever state that is in; none at all is fine."""
    return command_line(runtime, "delete", "--force", identity)


def run(
    runtime: Runtime,
    directory: str,
    *arguments: str,
    stdio: Sequence[int] = (),
    stream_owner: int | None = None,
    seconds: float = SECONDS,
) -> None:
    """Run a command of a runtime in a directory, where its log is, and wait for its end. It dies with the caller.

    `stdio` become its 0, 1 and 2, and those of what it starts; pipes among them are given to the user `stream_owner`. Raises StartError.
    """
    log = os.path.join(directory, LOG)
    if not os.access(runtime.path, os.X_OK):
        raise StartError(
            f"OCI runtime {runtime.name}: {runtime.path} is not there, or cannot be executed", path=runtime.path
        )
    if stream_owner is not None:
        _give(stdio, stream_owner)
    caller = os.getpid()
    line = command_line(runtime, *arguments, log=log)
    pid = forked(lambda kept: _become(line, directory, kept, caller), stdio)
    status = _wait(pid, runtime, arguments[0], seconds)
    if status:
        raise failure(runtime, arguments[0], _logged(log), status)


def _give(stdio: Sequence[int], owner: int) -> None:
    for fd in stdio:
        if stat.S_ISFIFO(os.fstat(fd).st_mode):
            os.fchown(fd, owner, -1)


def _become(line: list[str], directory: str, stdio: Sequence[int], parent: int) -> None:
    die_with_parent(parent)
    # The interpreter ignores SIGPIPE, and what is ignored stays so in what the runtime starts.
    syscalls.default_signals()
    os.chdir(directory)
    for number, fd in enumerate(stdio):
        os.dup2(fd, number)
    os.execve(line[0], line, ENVIRONMENT)


def _wait(pid: int, runtime: Runtime, command: str, seconds: float) -> int:
    """The exit code, as a shell gives it."""
    pidfd = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if not poll.poll(seconds * 1000):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise StartError(
                f"OCI runtime {runtime.name}: {command} has not ended within {seconds:.0f} seconds", stage=command
            )
    finally:
        os.close(pidfd)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def failure(runtime: Runtime, command: str, log: str, status: int) -> StartError:
    """The error of a command of a runtime, by the last error in its log."""
    said = _last_error(log) or f"{command} ended with {status} and did not say why"
    code, number = next(
        ((code, number) for pattern, code, number in _COMMAND_ERRORS if pattern.search(said)), (SETUP_FAILED, 0)
    )
    return StartError(f"OCI runtime {runtime.name}: {said}", stage=command, errno=number, exit_code=code)


def _last_error(log: str) -> str:
    said = ""
    for line in log.splitlines():
        with suppress(ValueError):
            entry = json.loads(line)
            if isinstance(entry, dict) and entry.get("level") in ("error", "fatal"):
                said = str(entry.get("msg", ""))
    return said


def _logged(log: str) -> str:
    with suppress(FileNotFoundError), open(log, "rb") as file:
        return file.read(LOG_LIMIT).decode("utf-8", "replace")
    return ""
