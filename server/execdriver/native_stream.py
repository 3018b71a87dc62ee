"""The streams of attached containers and exec'ed processes, as the daemon reads and writes them: nothing is read ahead of the reader."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import select
import struct
import termios
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

from moorage.server.errors import Unavailable
from moorage.server.execdriver.base import ExecSpec, Output
from moorage.server.execdriver.native_channel import AsyncChannel, checked, readable, writable
from moorage.server.model import ExitStatus
from moorage.server.supervisor.protocol import CHUNK, MESSAGE, STDIN, STREAM_NAMES

STDIN_LIMIT = 64 << 10
DRAIN_SECONDS = 1.0
"""How long after the end of a process its output is read, if somebody else holds it open."""
DRAIN_BYTES = 1 << 20
"""How much of it is read all the same: more than a pipe holds cannot be of the process that has ended."""

StreamName = Literal["stdout", "stderr"]
_NAMES: dict[int, StreamName] = {
    kind: "stderr" if name == "stderr" else "stdout" for kind, name in STREAM_NAMES.items()
}


def exit_status(status: Mapping[str, Any]) -> ExitStatus:
    """As a supervisor tells it."""
    return ExitStatus(
        exit_code=status["exit_code"],
        finished_ns=status["finished_ns"],
        oom_killed=status["oom_killed"],
        reason=status["reason"],
        error=status["error"],
    )


class AttachStream:
    """A ProcessStream: everything goes over the connection to the supervisor."""

    def __init__(self, channel: AsyncChannel, pid: int, lost: Callable[[], ExitStatus]) -> None:
        """`lost` makes the answer when the supervisor dies."""
        self.pid = pid
        self._channel = channel
        self._lost = lost

    async def read(self) -> Output | ExitStatus:
        while (frame := await self._channel.receive()) is not None:
            if frame.kind != MESSAGE:
                return Output(_NAMES[frame.kind], frame.data)
            message = checked(frame)
            if "started" in message:
                self.pid = message["started"]
            if "exit" in message:
                return exit_status(message["exit"])
        return self._lost()

    async def write(self, data: bytes) -> None:
        view = memoryview(data)
        with contextlib.suppress(OSError):
            for start in range(0, len(view), STDIN_LIMIT):
                await self._channel.send_data(STDIN, view[start : start + STDIN_LIMIT])

    async def close_stdin(self) -> None:
        await self._send({"op": "close_stdin"})

    async def resize(self, columns: int, rows: int) -> None:
        await self._send({"op": "resize", "columns": columns, "rows": rows})

    async def signal(self, number: int) -> None:
        await self._send({"op": "signal", "signal": number})

    async def close(self) -> None:
        self._channel.close()

    async def _send(self, message: Mapping[str, Any]) -> None:
        with contextlib.suppress(OSError):
            await self._channel.send(message)


class Parent(Protocol):
    """Who is told how an exec'ed process ended, and tells us: there is something to `receive` when `fileno` can be read."""

    def fileno(self) -> int: ...

    async def receive(self) -> ExitStatus | None:
        """How it ended; None when that is not what was told."""
        ...

    async def signal(self, number: int) -> None: ...

    async def hang_up(self) -> None:
        """Have the process killed if it runs; `receive` returns."""
        ...

    def release(self) -> None:
        """Let go, when nobody waits for it any more."""
        ...


class Supervised:
    """The Parent of a process that a supervisor has forked; the supervisor kills it when the connection is closed."""

    def __init__(self, channel: AsyncChannel, lost: Callable[[], ExitStatus]) -> None:
        """`lost` as for AttachStream."""
        self._channel = channel
        self._lost = lost

    def fileno(self) -> int:
        return self._channel.sock.fileno()

    async def receive(self) -> ExitStatus | None:
        frame = await self._channel.receive()
        if frame is None:
            return self._lost()
        return exit_status(frame.message["exit"]) if "exit" in frame.message else None

    async def signal(self, number: int) -> None:
        with contextlib.suppress(OSError):
            await self._channel.send({"op": "signal", "signal": number})

    async def hang_up(self) -> None:
        self._channel.close()

    def release(self) -> None:
        """The channel closes itself."""


class ExecStream:
    """A ProcessStream on the process's own pipes or terminal; its parent only brings its end."""

    def __init__(self, parent: Parent, pid: int, stdin: int | None, outputs: Mapping[int, StreamName]) -> None:
        """Owns the parent and the descriptors; one that is both `stdin` and an output is a terminal."""
        self.pid = pid
        self._loop = asyncio.get_running_loop()
        self._parent = parent
        self._stdin = stdin
        self._outputs = dict(outputs)
        self._terminal = stdin if stdin in outputs else None
        self._status: ExitStatus | None = None
        self._deadline = 0.0
        self._since_end = 0
        self._reading = asyncio.Lock()
        self._writing = asyncio.Lock()
        self._closed: asyncio.Future[None] = self._loop.create_future()
        for fd in {*outputs, *([stdin] if stdin is not None else [])}:
            os.set_blocking(fd, False)

    async def read(self) -> Output | ExitStatus:
        async with self._reading:
            while self._outputs and not self._closed.done():
                if self._status is None and _has_input(self._parent.fileno()):
                    await self._receive()
                output = self._take()
                if output is not None:
                    self._account(len(output.data))
                    return output
                if self._outputs:
                    await self._wait()
            while self._status is None:
                await self._receive()
            return self._status

    async def write(self, data: bytes) -> None:
        view = memoryview(data)
        async with self._writing:
            while view and self._stdin is not None and not self._closed.done():
                try:
                    view = view[os.write(self._stdin, view[:CHUNK]) :]
                except BlockingIOError:
                    await writable(self._loop, self._stdin, unless=self._closed)
                except OSError:
                    # The other side is closed: as with a pipe, the bytes are nobody's.
                    self._drop_stdin()

    async def close_stdin(self) -> None:
        async with self._writing:
            if self._terminal is None:
                self._drop_stdin()

    async def resize(self, columns: int, rows: int) -> None:
        if self._terminal is not None and self._terminal in self._outputs:
            fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    async def signal(self, number: int) -> None:
        if self._status is None:
            await self._parent.signal(number)

    async def close(self) -> None:
        if self._closed.done():
            return
        self._closed.set_result(None)
        try:
            await self._parent.hang_up()
        finally:
            async with self._reading, self._writing:
                self._drop_stdin()
                for fd in tuple(self._outputs):
                    self._drop_output(fd)
                self._parent.release()

    def _account(self, size: int) -> None:
        """Somebody who outlives the process must not keep its reader for ever."""
        if self._status is None:
            return
        self._since_end += size
        if self._since_end > DRAIN_BYTES and self._loop.time() > self._deadline:
            for fd in tuple(self._outputs):
                self._drop_output(fd)

    def _take(self) -> Output | None:
        """What one of the outputs has now. Those at their end are dropped; the one that was read goes to the end of the line."""
        for fd, name in tuple(self._outputs.items()):
            try:
                data = os.read(fd, CHUNK)
            except BlockingIOError:
                continue
            except OSError:
                # EIO: the last process has closed the other side of the terminal.
                data = b""
            if data:
                self._outputs[fd] = self._outputs.pop(fd)
                return Output(name, data)
            self._drop_output(fd)
        return None

    async def _wait(self) -> None:
        """Wait for output, or for the end. After the end output is waited for no more than a moment."""
        outputs = tuple(self._outputs)
        if self._status is None:
            parent = self._parent.fileno()
            if await readable(self._loop, (*outputs, parent), unless=self._closed) == parent:
                await self._receive()
        elif await readable(self._loop, outputs, timeout=self._left(), unless=self._closed) is None:
            for fd in outputs:
                self._drop_output(fd)

    async def _receive(self) -> None:
        self._status = await self._parent.receive()
        if self._status is not None:
            self._deadline = self._loop.time() + DRAIN_SECONDS

    def _left(self) -> float:
        return max(0.0, self._deadline - self._loop.time())

    def _drop_stdin(self) -> None:
        if self._stdin is not None and self._stdin != self._terminal:
            os.close(self._stdin)
        self._stdin = None

    def _drop_output(self, fd: int) -> None:
        del self._outputs[fd]
        if fd == self._terminal:
            self._stdin = None
        os.close(fd)


def _has_input(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


async def execute(
    channel: AsyncChannel,
    message: Mapping[str, Any],
    spec: ExecSpec,
    lost: Callable[[], ExitStatus],
) -> ExecStream:
    """Have a supervisor start what `message` (an `exec`) says, on new pipes or a terminal. The channel is the stream's then.

    Raises what the supervisor answers, Unavailable when it dies.
    """
    with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
        stdin: int | None = None
        outputs: dict[int, StreamName] = {}
        fds: list[int] = []
        if not (spec.detach or spec.process.get("terminal")):
            stdin, outputs, fds = pipes(spec.stdin, theirs, ours)
        await channel.request(message, fds)
        theirs.close()
        frame = await channel.receive()
        if frame is None:
            raise Unavailable("supervisor died", reason="SUPERVISOR_DIED")
        pid = checked(frame)["pid"]
        if frame.fds:
            (console,) = frame.fds
            stdin, outputs = console, {console: "stdout"}
        ours.pop_all()
        return ExecStream(Supervised(channel, lost), pid, stdin, outputs)


def pipes(
    stdin_wanted: bool, theirs: contextlib.ExitStack, ours: contextlib.ExitStack
) -> tuple[int | None, dict[int, StreamName], list[int]]:
    """Our end of stdin, our outputs, and the process's three descriptors; each is closed by its stack."""

    def pipe() -> tuple[int, int]:
        return os.pipe2(os.O_CLOEXEC)

    def owned(fd: int, stack: contextlib.ExitStack) -> int:
        stack.callback(os.close, fd)
        return fd

    stdin: int | None = None
    if stdin_wanted:
        source, target = pipe()
        fds, stdin = [owned(source, theirs)], owned(target, ours)
    else:
        fds = [owned(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC), theirs)]
    outputs: dict[int, StreamName] = {}
    names: tuple[StreamName, StreamName] = ("stdout", "stderr")
    for name in names:
        source, target = pipe()
        outputs[owned(source, ours)] = name
        fds.append(owned(target, theirs))
    return stdin, outputs, fds
