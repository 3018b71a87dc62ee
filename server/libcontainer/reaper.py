"""Process 1 of a container whose command does not want to be it: passes signals on, reaps orphans, ends as the command ends.

It is a fork of the supervisor that executes nothing: a program of the image would be the image's, one of the host's could be reached
from inside. So it stays non-dumpable, holds no descriptor, and has the command's user and capabilities.
"""

from __future__ import annotations

import ctypes
import os
import signal
from contextlib import suppress
from typing import NoReturn

from moorage.server.libcontainer import syscalls

_NAME = ctypes.create_string_buffer(b"init")
_PR_SET_NAME = 15
_ALL_DESCRIPTORS = (1 << 31) - 1
_SIGNALS = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})


def run(command: int) -> NoReturn:
    """Serve until process `command`, a child, ends. All signals are blocked, so that none is lost before it is waited for."""
    syscalls.prctl(_PR_SET_NAME, ctypes.addressof(_NAME))
    os.closerange(0, _ALL_DESCRIPTORS)
    while True:
        number = signal.sigwaitinfo(_SIGNALS).si_signo
        if number == signal.SIGCHLD:
            _reap(command)
        else:
            # The command may have ended, or have become another user's.
            with suppress(ProcessLookupError, PermissionError):
                os.kill(command, number)


def _reap(command: int) -> None:
    """Collect all that have ended; several ends may have made one signal."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            os._exit(0)
        if pid == 0:
            return
        if pid == command:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)
