"""Process 1 of a PID namespace that containers of a pod share: a fork of the supervisor that reaps orphans, and nothing else.

It has an empty directory for its root, no capabilities, no descriptors, and dies with the supervisor, and with it all that is in the
namespace.
"""

from __future__ import annotations

import gc
import os
import signal
from contextlib import suppress
from typing import NamedTuple, NoReturn

from moorage.server.libcontainer import capabilities, emptyroom, protect, syscalls
from moorage.server.supervisor.children import MAX_FD, PR_SET_PDEATHSIG, reap_all
from moorage.server.supervisor.oom import unprotect

NOBODY = 65534


class Init(NamedTuple):
    """A running one, a child of ours. `pid` as we see it."""

    pid: int
    pidfd: int

    def end(self) -> None:
        """Kill it and wait for its end, which is that of every process in its namespace."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        os.close(self.pidfd)


def start(user: int | None) -> Init:
    """Start one, in the user namespace `user` if that is given; it is ready on return. Raises OSError."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    mask = syscalls.block_signals()
    try:
        pid, pidfd = syscalls.clone(syscalls.CLONE_NEWPID | syscalls.CLONE_NEWNS)
        if pid == 0:
            _become(user, writer)
    finally:
        syscalls.set_signal_mask(mask)
        os.close(writer)
    init = Init(pid, pidfd)
    with open(reader, "rb", buffering=0) as file:
        if file.read(1) != b"1":
            init.end()
            raise ChildProcessError("process 1 of the shared pid namespace died while it was set up")
    return init


def _become(user: int | None, ready: int) -> NoReturn:
    """All signals are blocked and stay so: only a child's end wakes it."""
    try:
        gc.disable()
        protect.forget_handlers()
        protect.hide()
        unprotect()
        # So that /proc/1/root leads nowhere.
        emptyroom.empty()
        if user is not None:
            syscalls.setns(user, syscalls.CLONE_NEWUSER)
        capabilities.drop_bounding({})
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        capabilities.apply({})
        protect.hide()
        # Last: a change of credentials takes it back.
        syscalls.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.write(ready, b"1")
        os.closerange(0, MAX_FD)
        while True:
            signal.sigwaitinfo({signal.SIGCHLD})
            reap_all()
    finally:
        os._exit(1)
