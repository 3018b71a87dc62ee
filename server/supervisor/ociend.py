"""The end of a container that an OCI runtime made: the runtime forgets it, and its bundle goes."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

from moorage.server.supervisor import bundle, ociruntime
from moorage.server.supervisor.children import forked
from moorage.server.supervisor.loop import READ, Loop
from moorage.server.supervisor.ociruntime import Runtime

_DONE = b"1"


def pod_path(pod: int) -> str:
    """The path of a pod's directory, which is open."""
    return os.readlink(f"/proc/self/fd/{pod}")


def bundle_path(pod: int, identity: str) -> str:
    """Where the bundle of a container is; `pod` is the pod's directory, open."""
    return f"{pod_path(pod)}/{identity}{bundle.SUFFIX}"


def begin(loop: Loop, pod: int, identity: str, runtime: Runtime, ended: Callable[[bool], None]) -> None:
    """Have a container forgotten whose processes have ended; `ended` is told whether that has worked, on the loop."""
    ours, theirs = socket.socketpair()
    path = bundle_path(pod, identity)

    def done(_events: int) -> None:
        loop.remove(ours.fileno())
        with ours:
            ended(ours.recv(1) == _DONE)

    with theirs:
        forked(lambda kept: _forget(path, identity, runtime, kept[0]), (theirs.fileno(),))
    loop.add(ours.fileno(), READ, done)


def discard(pod: int, identity: str, runtime: Runtime) -> None:
    """Have what is left of a start that failed forgotten, and wait for that."""
    path = bundle_path(pod, identity)
    if os.path.exists(path):
        os.waitpid(forked(lambda _kept: _forget(path, identity, runtime, None), ()), 0)


def _forget(path: str, identity: str, runtime: Runtime, report: int | None) -> None:
    """The life of the process that does it: a runtime takes its time, and the supervisor has other containers."""
    try:
        ociruntime.run(runtime, path, "delete", "--force", identity, seconds=ociruntime.DELETE_SECONDS)
    finally:
        bundle.remove(path)
    if report is not None:
        os.write(report, _DONE)
