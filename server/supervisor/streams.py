"""The standard streams of a container: from its pipes or terminal to the log and the attached, and from the attached to its stdin."""

from __future__ import annotations

import fcntl
import os
import struct
import termios
from collections import deque
from collections.abc import Callable

from moorage.server.supervisor.loop import READ, WRITE, Loop
from moorage.server.supervisor.protocol import CHUNK

STDIN_LIMIT = 64 << 10
"""Bytes of stdin that wait here before those who send them are held."""


class Output:
    """Reads a pipe or a terminal. `deliver` gets what was read, `on_end` is called once at its end."""

    def __init__(self, loop: Loop, fd: int, deliver: Callable[[bytes], None], on_end: Callable[[], None]) -> None:
        os.set_blocking(fd, False)
        self._loop = loop
        self.fd = fd
        self._deliver = deliver
        self._on_end = on_end
        self._watched = False
        self.ended = False
        self.resume()

    def pause(self) -> None:
        """Read no more: the writer is held as soon as the pipe is full."""
        if self._watched:
            self._watched = False
            # Not by taking READ away: epoll tells a hang-up again and again, whatever it is asked for.
            self._loop.remove(self.fd)

    def resume(self) -> None:
        if not self._watched and not self.ended:
            self._watched = True
            self._loop.add(self.fd, READ, self._ready)

    def drain(self, limit: int) -> None:
        """Read what is there now, at most about `limit` bytes."""
        while limit > 0 and not self.ended and (size := self._read()):
            limit -= size

    def close(self) -> None:
        if not self.ended:
            self.pause()
            self.ended = True
            os.close(self.fd)
            self._on_end()

    def _ready(self, _events: int) -> None:
        self._read()

    def _read(self) -> int:
        try:
            data = os.read(self.fd, CHUNK)
        except BlockingIOError:
            return 0
        except OSError:
            # EIO: the last process has closed the other side of the terminal.
            data = b""
        if data:
            self._deliver(data)
        else:
            self.close()
        return len(data)


class Input:
    """Writes to a container's stdin what comes in, and holds the senders while it does not read. None for a stdin of nothing."""

    def __init__(self, loop: Loop, fd: int | None, on_room: Callable[[], None]) -> None:
        self._loop = loop
        self.fd = fd
        self._on_room = on_room
        self._queue: deque[bytes | memoryview] = deque()
        self._size = 0
        self._ending = False
        self._watched = False
        if fd is not None:
            os.set_blocking(fd, False)

    @property
    def empty(self) -> bool:
        return not self._queue

    @property
    def full(self) -> bool:
        return self._size > STDIN_LIMIT

    def write(self, data: bytes) -> None:
        """Take bytes; they are dropped when stdin is closed."""
        if self.fd is None or self._ending or not data:
            return
        self._queue.append(data)
        self._size += len(data)
        if not self._watched:
            self._flush()

    def end(self) -> None:
        """Close it when all that was taken has been written."""
        self._ending = True
        if not self._queue:
            self.close()

    def close(self) -> None:
        """Close it now."""
        if self.fd is not None:
            self._watch(False)
            os.close(self.fd)
            self.fd = None
            self._queue.clear()
            self._size = 0
            self._on_room()

    def _flush(self) -> None:
        try:
            while self._queue and self.fd is not None:
                self._write_first(self.fd)
        except BlockingIOError:
            self._watch(True)
            return
        except OSError:
            # The other side is closed: as with a pipe, the bytes are nobody's.
            self.close()
            return
        self._watch(False)
        if self._ending:
            self.close()
        else:
            self._on_room()

    def _write_first(self, fd: int) -> None:
        data = self._queue[0]
        written = os.write(fd, data)
        self._size -= written
        if written < len(data):
            self._queue[0] = memoryview(data)[written:]
        else:
            self._queue.popleft()

    def _watch(self, wanted: bool) -> None:
        if self.fd is None or wanted == self._watched:
            return
        self._watched = wanted
        if wanted:
            self._loop.add(self.fd, WRITE, lambda _events: self._flush())
        else:
            self._loop.remove(self.fd)


def resize(console: int, columns: int, rows: int) -> None:
    """Set a terminal's size, see ioctl_tty(2)."""
    fcntl.ioctl(console, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def discard(loop: Loop, console: int) -> Output:
    """Read a terminal that nobody looks at, so that its processes are not held."""
    return Output(loop, console, lambda _data: None, lambda: None)
