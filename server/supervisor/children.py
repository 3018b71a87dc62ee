"""Forking single-threaded processes that keep nothing of their parent but what they are given."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
from collections.abc import Callable, Sequence

from moorage.server.libcontainer import syscalls

PR_SET_PDEATHSIG = 1
MAX_FD = 1 << 30


def forked(main: Callable[[list[int]], None], fds: Sequence[int]) -> int:
    """Fork a child that runs `main` with its copies of `fds` and ends; answer its pid.

    0, 1 and 2 are /dev/null there, all else is closed. Its SIGCHLD handler does nothing.
    """
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        main(_keep_only(fds))
        status = 0
    except BaseException as error:
        print_traceback(error)
    finally:
        os._exit(status)


def print_traceback(error: BaseException) -> None:
    """On stderr. Not by the module for that, which every fork would have a share in."""
    sys.excepthook(type(error), error, error.__traceback__)


def _keep_only(fds: Sequence[int]) -> list[int]:
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    kept = list(range(3, 3 + len(fds)))
    # Out of the way of the numbers they are going to have.
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3 + len(fds)) for fd in fds]
    for source, target in zip(moved, kept, strict=True):
        os.dup2(source, target, inheritable=False)
    os.closerange(3 + len(fds), MAX_FD)
    return kept


def reap_all() -> None:
    """Reap the children that have ended, whoever they were."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent, which was `parent` at the fork, ends."""
    syscalls.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
