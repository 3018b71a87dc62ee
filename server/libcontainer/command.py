"""Finding and executing a container's command."""

from __future__ import annotations

import errno
import os
import signal
import stat
from collections.abc import Mapping, Sequence
from typing import NoReturn

from moorage.server.libcontainer import syscalls
from moorage.server.libcontainer.errors import NOT_EXECUTABLE, NOT_FOUND, StartError

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SHEBANG_SIZE = 256
_MAX_INTERPRETERS = 5
_SETTABLE = frozenset(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}


def find(name: str, environment: Mapping[str, str]) -> str:
    """The path of command `name`, looked for in PATH as a shell does; the caller is inside the container and privileged.

    Whether the user may execute it is the kernel's to say. Raises StartError: 127 when there is none, 126 when it cannot be a
    command, or when it or its interpreter is one of procfs's magic links, which lead out of the container.
    """
    if "/" in name:
        return _checked(name)
    failure: StartError | None = None
    for directory in environment.get("PATH", DEFAULT_PATH).split(":"):
        try:
            return _checked(f"{directory or '.'}/{name}")
        except StartError as error:
            if error.exit_code != NOT_FOUND:
                failure = failure or error
    raise failure or _not_found(name, errno.ENOENT)


def _checked(path: str) -> str:
    _check(path, _MAX_INTERPRETERS)
    return path


def _check(path: str, interpreters: int) -> None:
    try:
        fd = syscalls.openat2(syscalls.AT_FDCWD, path, os.O_PATH, syscalls.RESOLVE_NO_MAGICLINKS)
    except OSError as error:
        raise _unusable(path, error.errno or 0) from error
    try:
        mode = os.fstat(fd).st_mode
        if stat.S_ISDIR(mode):
            raise _unusable(path, errno.EISDIR)
        if not stat.S_ISREG(mode) or not mode & 0o111:
            raise _unusable(path, errno.EACCES)
    finally:
        os.close(fd)
    interpreter = shebang(_beginning(path))
    if interpreter and interpreters:
        try:
            _check(interpreter, interpreters - 1)
        except StartError as error:
            message = f"cannot execute {path}: its interpreter: {error.message}"
            raise StartError(message, errno=error.errno, path=path, exit_code=error.exit_code) from error


def _beginning(path: str) -> bytes:
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
    try:
        fd = syscalls.openat2(syscalls.AT_FDCWD, path, flags, syscalls.RESOLVE_NO_MAGICLINKS)
    except OSError as error:
        raise _unusable(path, error.errno or 0) from error
    try:
        return os.read(fd, _SHEBANG_SIZE) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
    finally:
        os.close(fd)


def shebang(beginning: bytes) -> str:
    """The interpreter that the first bytes of a script name, as the kernel reads it; empty when they name none."""
    if not beginning.startswith(b"#!"):
        return ""
    words = beginning[2:].split(b"\n", 1)[0].replace(b"\t", b" ").split(b"\0", 1)[0].split()
    return os.fsdecode(words[0]) if words else ""


def _unusable(path: str, number: int) -> StartError:
    if number in (errno.ENOENT, errno.ENOTDIR):
        return _not_found(path, number)
    why = os.strerror(number).lower()
    if number == errno.ELOOP:
        why = "it goes through a loop of links, or a link of procfs that leads out of the container"
    return StartError(f"cannot execute {path}: {why}", errno=number, path=path, exit_code=NOT_EXECUTABLE)


def _not_found(name: str, number: int) -> StartError:
    message = (
        f"executable file not found in $PATH: {name}"
        if "/" not in name
        else f"cannot execute {name}: no such file or directory"
    )
    return StartError(message, errno=number, path=name, exit_code=NOT_FOUND)


def execute(path: str, arguments: Sequence[str], environment: Mapping[str, str]) -> NoReturn:
    """execve(2). Raises StartError."""
    try:
        os.execve(path, list(arguments), environment)
    except OSError as error:
        raise _failure(path, error) from error


def _failure(path: str, error: OSError) -> StartError:
    if error.errno == errno.ENOENT:
        message = f"cannot execute {path}: the interpreter or loader that it names does not exist"
        return StartError(message, errno=error.errno, path=path, exit_code=NOT_FOUND)
    return _unusable(path, error.errno or 0)


def spawn(path: str, arguments: Sequence[str], environment: Mapping[str, str], stdio: Sequence[int]) -> int:
    """posix_spawn(3) in a session of its own with default signals, on three descriptors above 2; the child's pid. Raises StartError.

    All other descriptors must be close-on-exec. The C library has its own two signals, 32 and 33, ignored there; programs that want them
    set them.
    """
    actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(stdio)]
    try:
        return os.posix_spawn(
            path, list(arguments), environment, file_actions=actions, setsid=True, setsigmask=(), setsigdef=_SETTABLE
        )
    except OSError as error:
        raise _failure(path, error) from error


def environment_of(variables: Sequence[str]) -> dict[str, str]:
    """OCI `process.env` as a mapping, the last of a name winning, without an empty HOME."""
    pairs = (variable.partition("=") for variable in variables)
    environment = {name: value for name, separator, value in pairs if name and separator}
    if not environment.get("HOME"):
        environment.pop("HOME", None)
    return environment
