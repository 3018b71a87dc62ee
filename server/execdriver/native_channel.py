"""Connections to supervisors: blocking ones for a call, and asyncio's for streams."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from moorage.server.errors import NotFound, Unavailable
from moorage.server.execdriver.spawner_client import raise_error
from moorage.server.libcontainer.channel import StageListener
from moorage.server.supervisor import protocol
from moorage.server.supervisor.protocol import VERSION, Channel, Decoder, Frame

_CREDENTIALS = struct.Struct("iII")


def connect(directory: Path) -> socket.socket:
    """Connect to the supervisor of the pod whose directory this is. Raises NotFound, Unavailable."""
    pod_id = directory.name
    try:
        fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NotFound(f"no pod {pod_id}") from error
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(protocol.socket_address(fd))
    except OSError as error:
        sock.close()
        raise died(pod_id) from error
    finally:
        os.close(fd)
    return sock


def connect_to_living(directory: Path) -> tuple[socket.socket, int]:
    """Connect, and answer a pidfd of the supervisor, too. Raises NotFound, Unavailable."""
    while True:
        sock = connect(directory)
        pidfd = peer_pidfd(sock)
        if pidfd is not None:
            return sock, pidfd
        # It has handed over to its keeper between two looks, and who listens now is another.
        sock.close()


def died(pod_id: str) -> Unavailable:
    """The error of a supervisor that is not there any more."""
    return Unavailable(f"supervisor of pod {pod_id} died", reason="SUPERVISOR_DIED")


def call(
    directory: Path,
    message: Mapping[str, Any],
    *,
    stage: StageListener | None = None,
    timeout: float | None = None,
) -> dict[str, Any]:
    """One request on a connection of its own. Raises what the supervisor answers; NotFound, Unavailable, TimeoutError."""
    return checked(call_frame(directory, message, stage=stage, timeout=timeout))


def call_frame(
    directory: Path,
    message: Mapping[str, Any],
    *,
    stage: StageListener | None = None,
    timeout: float | None = None,
) -> Frame:
    """The same for an answer that may be an error and may bring descriptors."""
    with contextlib.closing(Channel(connect(directory))) as channel:
        channel.sock.settimeout(timeout)
        return ask_frame(channel, directory.name, message, stage)


def ask(
    channel: Channel, pod_id: str, message: Mapping[str, Any], stage: StageListener | None = None
) -> dict[str, Any]:
    """One request on an open connection."""
    return checked(ask_frame(channel, pod_id, message, stage))


def ask_frame(channel: Channel, pod_id: str, message: Mapping[str, Any], stage: StageListener | None = None) -> Frame:
    """One request on an open connection, and its answer, which may be an error and may bring descriptors."""
    with _alive(pod_id):
        channel.send({**message, "version": VERSION})
        return _answer(channel, pod_id, stage)


def call_meanwhile(
    directory: Path, message: Mapping[str, Any], stage: StageListener, meanwhile: Callable[[], None]
) -> Frame:
    """One request whose work comes to a gate, and goes on only when `meanwhile` has returned; what that raises is raised."""
    pod_id = directory.name
    with contextlib.closing(Channel(connect(directory))) as channel:
        gate, key = os.pipe2(os.O_CLOEXEC)
        try:
            try:
                with _alive(pod_id):
                    channel.send({**message, "version": VERSION}, [gate])
            finally:
                os.close(gate)
            meanwhile()
            # Nobody is there where it has failed on the way.
            with contextlib.suppress(BrokenPipeError):
                os.write(key, b"1")
        finally:
            os.close(key)
        with _alive(pod_id):
            return _answer(channel, pod_id, stage)


@contextlib.contextmanager
def _alive(pod_id: str) -> Iterator[None]:
    try:
        yield
    except (BrokenPipeError, ConnectionResetError):
        raise died(pod_id) from None


def _answer(channel: Channel, pod_id: str, stage: StageListener | None) -> Frame:
    while (frame := channel.receive()) is not None:
        if stage is not None:
            _tell_stages(frame.message, stage)
        if "stage" not in frame.message:
            return frame
    raise died(pod_id)


def _tell_stages(message: Mapping[str, Any], stage: StageListener) -> None:
    if "stage" in message:
        stage(message["stage"])
    for name, at_ns in message.get("stages", ()):
        stage(name, at_ns)


def checked(frame: Frame) -> dict[str, Any]:
    """The answer, unless it is an error."""
    if "error" in frame.message:
        raise_error(frame.message["error"])
    return frame.message


def peer_pidfd(sock: socket.socket) -> int | None:
    """A pidfd of the supervisor that listens at the other end; None when it has died."""
    pid, _uid, _gid = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    with contextlib.suppress(ProcessLookupError):
        return os.pidfd_open(pid)
    return None


def wait_for_end(pidfd: int, seconds: float) -> bool:
    """Wait until a process has ended."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def kill_and_wait(pidfd: int, seconds: float) -> bool:
    """SIGKILL a process and wait for its end."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    return wait_for_end(pidfd, seconds)


class AsyncChannel:
    """A connection on the running loop. One reader and any number of writers; `close` ends them all."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._loop = asyncio.get_running_loop()
        self._decoder = Decoder()
        self._ready: deque[Frame] = deque()
        self._sending = asyncio.Lock()
        self._using = 0
        self._closed = False

    async def send(self, message: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
        """Send a message. Raises OSError when the connection has ended."""
        await self._send(protocol.pack_message(message, fds), fds)

    async def request(self, message: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
        """Send a message that wants an answer. Raises Unavailable when the supervisor has died since the connection was made."""
        try:
            await self.send({**message, "version": VERSION}, fds)
        except (BrokenPipeError, ConnectionResetError):
            raise Unavailable("supervisor died", reason="SUPERVISOR_DIED") from None

    async def send_data(self, kind: int, data: bytes | memoryview) -> None:
        """Send stream data. Raises OSError when the connection has ended."""
        await self._send(protocol.pack_data(kind, bytes(data)), ())

    async def receive(self) -> Frame | None:
        """The next frame; None at the end."""
        while not self._ready:
            if not await self._readable():
                return None
            try:
                data, fds = protocol.receive(self.sock)
            except BlockingIOError:
                continue
            except OSError:
                return None
            if not data:
                return None
            self._ready.extend(self._decoder.feed(data, fds))
        return self._ready.popleft()

    def close(self) -> None:
        """Hang up. Who waits on it is woken; the descriptor goes when the last of them is out."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self._decoder.close()
        self._release()

    async def _send(self, frame: bytes, fds: Sequence[int]) -> None:
        async with self._sending:
            if self._closed:
                raise BrokenPipeError
            self._using += 1
            try:
                sent = protocol.send(self.sock, frame, fds) if fds else 0
                if sent < len(frame):
                    # Not with nothing left: who has it all may have answered and hung up, and then even that is a broken pipe.
                    await self._loop.sock_sendall(self.sock, memoryview(frame)[sent:])
            finally:
                self._using -= 1
                self._release()

    async def _readable(self) -> bool:
        if self._closed:
            return False
        self._using += 1
        try:
            await readable(self._loop, (self.sock.fileno(),))
        finally:
            self._using -= 1
            self._release()
        return not self._closed

    def _release(self) -> None:
        if self._closed and self._using == 0:
            self.sock.close()


async def ask_soon(directory: Path, message: Mapping[str, Any]) -> Frame:
    """One request on a connection of its own, on the running loop. Raises as `call` does."""
    with contextlib.closing(AsyncChannel(connect(directory))) as channel:
        await channel.request(message)
        frame = await channel.receive()
    if frame is None:
        raise died(directory.name)
    checked(frame)
    return frame


async def readable(
    loop: asyncio.AbstractEventLoop,
    fds: Sequence[int],
    *,
    timeout: float | None = None,
    unless: asyncio.Future[None] | None = None,
) -> int | None:
    """Wait until one of the descriptors can be read, and answer it; None when the time is up or `unless` is done."""
    with _waiting(loop, timeout, unless) as (ready, wake):
        for fd in fds:
            loop.add_reader(fd, wake, fd)
        try:
            return await ready
        finally:
            for fd in fds:
                loop.remove_reader(fd)


async def writable(loop: asyncio.AbstractEventLoop, fd: int, *, unless: asyncio.Future[None]) -> None:
    """Wait until the descriptor can be written, or `unless` is done."""
    with _waiting(loop, None, unless) as (ready, wake):
        loop.add_writer(fd, wake, fd)
        try:
            await ready
        finally:
            loop.remove_writer(fd)


@contextlib.contextmanager
def _waiting(
    loop: asyncio.AbstractEventLoop, timeout: float | None, unless: asyncio.Future[None] | None
) -> Iterator[tuple[asyncio.Future[int | None], Callable[[int | None], None]]]:
    """A future and what completes it, done by itself in the end."""
    ready: asyncio.Future[int | None] = loop.create_future()

    def wake(fd: int | None) -> None:
        if not ready.done():
            ready.set_result(fd)

    def give_up(_future: asyncio.Future[None]) -> None:
        wake(None)

    timer = loop.call_later(timeout, wake, None) if timeout is not None else None
    if unless is not None:
        unless.add_done_callback(give_up)
    try:
        yield ready, wake
    finally:
        if timer is not None:
            timer.cancel()
        if unless is not None:
            unless.remove_done_callback(give_up)
