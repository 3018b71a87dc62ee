"""Commands that runners (libcontainer/runner.py) add to running containers. Supervisors have no part in it, but to tell once the way in."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from moorage.server.errors import FailedPrecondition
from moorage.server.execdriver.base import ExecSpec
from moorage.server.execdriver.native_channel import readable, wait_for_end
from moorage.server.execdriver.native_stream import ExecStream, pipes
from moorage.server.execdriver.spawner_client import raise_error
from moorage.server.libcontainer import channel, runner
from moorage.server.libcontainer.cgroups import Cgroup, CgroupManager
from moorage.server.libcontainer.errors import StartError
from moorage.server.libcontainer.family import kill_tree
from moorage.server.libcontainer.process import KILLED, Stdio
from moorage.server.model import ExitStatus
from moorage.server.supervisor.failures import describe


class Entry:
    """The way into one run of a container, as its supervisor has told it."""

    def __init__(self, container_id: str, about: Mapping[str, Any] | None, fds: Sequence[int]) -> None:
        """`about` is None where only the supervisor can add a command. Owns the descriptors, which are of the first process and, if there
        is one, the user namespace.
        """
        self.container_id = container_id
        self.about = about
        self.fds = fds

    @property
    def ended(self) -> bool:
        """Whether it leads nowhere any more."""
        return not self.fds or wait_for_end(self.fds[0], 0)

    def close(self) -> None:
        fds, self.fds = self.fds, ()
        for fd in fds:
            os.close(fd)


class Entries:
    """The ways into the containers that run."""

    def __init__(self) -> None:
        self._entries: dict[str, dict[str, Entry]] = {}

    def get(self, pod_id: str, container_id: str) -> Entry | None:
        return self._entries.get(pod_id, {}).get(container_id)

    def put(self, pod_id: str, entry: Entry) -> None:
        """Keep one, in place of another run's."""
        self.drop(pod_id, entry.container_id)
        self._entries.setdefault(pod_id, {})[entry.container_id] = entry

    def drop(self, pod_id: str, container_id: str) -> None:
        """Forget a container's, if there is one."""
        entry = self._entries.get(pod_id, {}).pop(container_id, None)
        if entry is not None:
            entry.close()

    def drop_pod(self, pod_id: str) -> None:
        """Forget those of a pod."""
        for entry in self._entries.pop(pod_id, {}).values():
            entry.close()

    def clear(self) -> None:
        for pod_id in tuple(self._entries):
            self.drop_pod(pod_id)


class Ran:
    """The native_stream.Parent of a command that a runner has spawned."""

    def __init__(self, sock: socket.socket, pid: int, pidfd: int, cgroup: Cgroup) -> None:
        """Owns `sock`, to the runner, and `pidfd`, of the command."""
        self._sock = sock
        self._pid = pid
        self._pidfd = pidfd
        self._cgroup = cgroup
        self._loop = asyncio.get_running_loop()

    def fileno(self) -> int:
        return self._sock.fileno()

    async def receive(self) -> ExitStatus | None:
        try:
            code = runner.ended(self._sock)
        except BlockingIOError:
            await readable(self._loop, (self._sock.fileno(),))
            code = runner.ended(self._sock)
        if code is None:
            # Who was to wait for it has been killed; the rest of what it ran must not stay without anybody.
            await self.signal(signal.SIGKILL)
            code = KILLED + signal.SIGKILL
        return ExitStatus(code, time.time_ns(), reason="Error" if code else "Completed")

    async def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)

    async def hang_up(self) -> None:
        try:
            if not wait_for_end(self._pidfd, 0):
                await asyncio.to_thread(kill_tree, self._pid, self._cgroup.pids)
        finally:
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)

    def release(self) -> None:
        self._sock.close()
        os.close(self._pidfd)


async def execute(
    entry: Entry, spec: ExecSpec, cgroups: CgroupManager, take_runner: Callable[[], socket.socket]
) -> ExecStream | None:
    """Have a runner start a command without a terminal, on new pipes. None when that cannot be and its supervisor has to.

    Raises FailedPrecondition as ExecDriver.exec does.
    """
    about = entry.about
    if about is None:
        return None
    cgroup = about["cgroup"]
    try:
        packet = runner.order(spec.process, cgroup=cgroup, filter_name=about["filter"], config=about["mappings"])
        if packet is None:
            return None
        return await _start(entry, packet, spec.stdin, cgroups.cgroup(cgroup), take_runner())
    except StartError as error:
        if entry.ended:
            raise FailedPrecondition(f"container {entry.container_id} is not running") from error
        # At the limit of processes there is room for one, as who enters is not refused, but not for its child.
        if error.errno == errno.EAGAIN:
            return None
        raise_error(describe(error))


async def _start(
    entry: Entry, packet: bytes, stdin_wanted: bool, cgroup: Cgroup, sock: socket.socket
) -> ExecStream | None:
    """The same with an order. Owns the socket to the runner. Raises StartError."""
    with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
        ours.callback(sock.close)
        sock.setblocking(False)
        stdin, outputs, fds = pipes(stdin_wanted, theirs, ours)
        target, *user = entry.fds
        if not runner.give(sock, packet, target, Stdio(*fds), user[0] if user else None):
            return None
        theirs.close()
        await readable(asyncio.get_running_loop(), (sock.fileno(),), timeout=channel.TIMEOUT_SECONDS)
        pid, pidfd = channel.await_start(sock)
        ours.pop_all()
        return ExecStream(Ran(sock, pid, pidfd, cgroup), pid, stdin, outputs)
