"""Keeping what a process of ours has from what runs in the containers it enters."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
from collections.abc import Sequence

from moorage.server.libcontainer import syscalls


def hide() -> None:
    """Make the process non-dumpable, for good: without CAP_SYS_PTRACE nobody can trace it or open its /proc/PID/{exe,fd,mem}.

    Children are born so; execve(2) ends it.
    """
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)


def forget_handlers() -> None:
    """Give every signal its default action; handlers and the wake-up descriptor are the parent's. All signals are blocked."""
    signal.set_wakeup_fd(-1)
    syscalls.default_signals()


def set_stdio(stdio: Sequence[int]) -> None:
    """Make three descriptors 0, 1 and 2, whatever their numbers are now."""
    copies = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3) for fd in stdio]
    for number, copy in enumerate(copies):
        os.dup2(copy, number)


def execute_read_only(arguments: Sequence[str]) -> None:
    """Execute this interpreter anew, through a read-only mount that nobody can find.

    Its /proc/PID/exe cannot be opened for writing then, whoever gets hold of it: a command, or the interpreter of a script,
    that an image points there executes the host's Python inside the container, and the file must not be written after that.
    Returns when this process was executed so already. Raises OSError.
    """
    if os.statvfs("/proc/self/exe").f_flag & os.ST_RDONLY:
        return
    executable = os.readlink("/proc/self/exe")
    mount = syscalls.open_tree(syscalls.AT_FDCWD, executable, recursive=False)
    syscalls.mount_setattr(mount, syscalls.MOUNT_ATTR_RDONLY, propagation=syscalls.MS_PRIVATE, recursive=False)
    os.execve(mount, [sys.executable, *arguments], os.environ)
