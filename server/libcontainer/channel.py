"""What a process tells its parent between fork and exec.

    child                                parent
      stage NAME  ───────────────────────▶  told to the caller
      console FD  ───────────────────────▶  kept
      ready JSON  ───────────────────────▶  nothing is left but to drop privileges and exec; who the user is, and the stages, if they were
                                            kept until now
      (exec closes the socket) ──────────▶  end of file: it runs
      error JSON  ───────────────────────▶  it failed

An end of file before `ready` is a process that died. Packets of a SOCK_SEQPACKET pair: a letter, then the content.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Literal, Protocol

from moorage.server.libcontainer.errors import StartError

_STAGE, _CONSOLE, _READY, _ERROR, _STARTED = b"s", b"c", b"r", b"e", b"p"
_MAX_PACKET = 64 << 10
_MAX_TEXT = 4096
TIMEOUT_SECONDS = 60
"""No step of a start takes long; a file system that hangs must not take the parent with it."""


class StageListener(Protocol):
    """Told the name of each stage as it begins, or when it began, on the clock of `time.monotonic_ns`."""

    def __call__(self, name: str, at_ns: int = 0, /) -> object: ...


Credentials = tuple[int, int, tuple[int, ...]]
"""User, main group and supplementary groups, in the numbers of the container."""

When = Literal["at once", "together", "never"]
"""When stages are told: each packet wakes the parent."""


class Reporter:
    """The child's end. A stage is told with an error in any case."""

    def __init__(self, end: socket.socket, when: When) -> None:
        self._socket = end
        self._when = when
        self._stage = ""
        self._kept: list[tuple[str, int]] = []
        self.before_ready: Callable[[], object] = list
        """What is to be done when all but exec is."""

    def stage(self, name: str) -> None:
        """A stage begins, unless we are in it."""
        if name == self._stage:
            return
        self._stage = name
        if self._when == "at once":
            self._write(_STAGE + name.encode())
        elif self._when == "together":
            self._kept.append((name, time.monotonic_ns()))

    def console(self, master: int) -> None:
        """Hand over the master of the terminal."""
        self._socket.sendmsg([_CONSOLE], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", master))])

    def ready(self, user: Credentials) -> None:
        """All but exec is done, as `user`."""
        self.before_ready()
        self._write(_READY + json.dumps({"user": user, "stages": self._kept}).encode())

    def failed(self, error: BaseException) -> None:
        """Tell why there will be no exec."""
        if not isinstance(error, StartError):
            number = error.errno or 0 if isinstance(error, OSError) else 0
            error = StartError(f"{self._stage}: {error}", errno=number)
        fields = {
            "message": error.message[:_MAX_TEXT],
            "stage": error.stage or self._stage,
            "errno": error.errno,
            "path": error.path[:_MAX_TEXT],
            "exit_code": error.exit_code,
        }
        self._write(_ERROR + json.dumps(fields).encode())

    def order(self, size: int, fds: int) -> tuple[bytes, list[int]]:
        """Wait for a packet from the parent, with up to `fds` descriptors; empty when it will send none."""
        packet, received, _, _ = socket.recv_fds(self._socket, size, fds)
        return packet, received

    def started(self, pid: int, pidfd: int) -> None:
        """Tell that the command runs, as a child of ours that is not waited for yet. Raises OSError when nobody is there any more."""
        socket.send_fds(self._socket, [_STARTED + b"%d" % pid], [pidfd])

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def _write(self, packet: bytes) -> None:
        # Not sendto(2): fewer system call filters forbid write(2).
        os.write(self._socket.fileno(), packet)


def pair() -> tuple[socket.socket, socket.socket]:
    """Two ends, the parent's and the child's."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", TIMEOUT_SECONDS, 0))
    return ours, theirs


def await_start(end: socket.socket) -> tuple[int, int]:
    """Hear from a runner: the pid and a pidfd of the command that it started. Raises StartError, as when a socket that does not block has
    nothing to read.
    """
    try:
        packet, fds, _, _ = socket.recv_fds(end, _MAX_PACKET, 1, socket.MSG_CMSG_CLOEXEC)
    except BlockingIOError:
        raise StartError(f"no progress for {TIMEOUT_SECONDS} seconds") from None
    except ConnectionResetError:
        packet, fds = b"", []
    if packet[:1] == _STARTED:
        return int(packet[1:]), fds[0]
    if packet[:1] == _ERROR:
        raise StartError(**json.loads(packet[1:]))
    raise StartError("the process died while it was set up; is its memory limit too low?")


def listen(
    end: socket.socket, stage: StageListener | None, consoles: list[int], stack: ExitStack
) -> tuple[Credentials | None, str]:
    """The parent's part: read to the end. Whom the command runs as, None if the child died, and its last stage. Raises StartError.

    A terminal's master is added to `consoles`, and closed by `stack`.
    """
    user: Credentials | None = None
    last = ""
    while True:
        try:
            packet, fds, _, _ = socket.recv_fds(end, _MAX_PACKET, 1)
        except BlockingIOError:
            raise StartError(f"{last}: no progress for {TIMEOUT_SECONDS} seconds", stage=last) from None
        for fd in fds:
            consoles.append(fd)
            stack.callback(os.close, fd)
        kind, content = packet[:1], packet[1:]
        if not packet:
            return user, last
        if kind == _STAGE:
            last = content.decode()
            if stage:
                stage(last)
        elif kind == _READY:
            told = json.loads(content)
            uid, gid, groups = told["user"]
            user = (uid, gid, tuple(groups))
            for name, at_ns in told["stages"]:
                if stage:
                    stage(name, at_ns)
        elif kind == _ERROR:
            raise StartError(**json.loads(content))
