"""What a process tells its parent between fork and exec.

    child                                parent
      stage NAME  ───────────────────────▶  told to the caller
      console FD  ───────────────────────▶  kept
      ready       ───────────────────────▶  nothing is left but to drop privileges and exec
      (exec closes the socket) ──────────▶  end of file: it runs
      error JSON  ───────────────────────▶  it failed

An end of file before `ready` is a process that died. Packets of a SOCK_SEQPACKET pair: a letter, then the content.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Callable
from contextlib import ExitStack

from moorage.server.libcontainer.errors import StartError

_STAGE, _CONSOLE, _READY, _ERROR = b"s", b"c", b"r", b"e"
_MAX_PACKET = 64 << 10
_MAX_TEXT = 4096
_TIMEOUT_SECONDS = 60
"""No step of a start takes long; a file system that hangs must not take the parent with it."""


class Reporter:
    """The child's end. Stages are told as they begin if `stages` is set, else only with an error: each packet wakes the parent."""

    def __init__(self, end: socket.socket, *, stages: bool = True) -> None:
        self._socket = end
        self._stages = stages
        self._stage = ""

    def stage(self, name: str) -> None:
        """A stage begins."""
        self._stage = name
        if self._stages:
            self._write(_STAGE + name.encode())

    def console(self, master: int) -> None:
        """Hand over the master of the terminal."""
        self._socket.sendmsg([_CONSOLE], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", master))])

    def ready(self) -> None:
        """All but exec is done."""
        self._write(_READY)

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

    def close(self) -> None:
        self._socket.close()

    def _write(self, packet: bytes) -> None:
        # Not sendto(2): fewer system call filters forbid write(2).
        os.write(self._socket.fileno(), packet)


def pair() -> tuple[socket.socket, socket.socket]:
    """Two ends, the parent's and the child's."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", _TIMEOUT_SECONDS, 0))
    return ours, theirs


def listen(end: socket.socket, stage: Callable[[str], object], consoles: list[int], stack: ExitStack) -> str | None:
    """The parent's part: read to the end; the stage that the child died in, None if it said `ready`. Raises StartError.

    A terminal's master is added to `consoles`, and closed by `stack`.
    """
    ready, last = False, ""
    while True:
        try:
            packet, fds, _, _ = socket.recv_fds(end, _MAX_PACKET, 1)
        except BlockingIOError:
            raise StartError(f"{last}: no progress for {_TIMEOUT_SECONDS} seconds", stage=last) from None
        for fd in fds:
            consoles.append(fd)
            stack.callback(os.close, fd)
        kind, content = packet[:1], packet[1:]
        if not packet:
            return None if ready else last
        if kind == _STAGE:
            last = content.decode()
            stage(last)
        elif kind == _READY:
            ready = True
        elif kind == _ERROR:
            raise StartError(**json.loads(content))
