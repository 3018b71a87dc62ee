"""A connection of the supervisor's: frames in and out on the loop, with queues that are bounded by whoever fills them."""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from moorage.server.supervisor.loop import READ, WRITE, Loop
from moorage.server.supervisor.protocol import Decoder, Frame, ProtocolError, pack_data, pack_message, receive, send


def _nothing() -> None:
    pass


class Connection:
    """Owns its socket. `on_frame` gets each frame and owns its descriptors; `on_close` is called once, whoever ends the connection;
    `on_drained` when all that had to wait has been sent.
    """

    def __init__(self, loop: Loop, sock: socket.socket, on_frame: Callable[[Frame], None]) -> None:
        sock.setblocking(False)
        self._loop = loop
        self._sock = sock
        self._decoder = Decoder()
        self._queue: deque[tuple[bytes | memoryview, Sequence[int]]] = deque()
        self._begun = False
        self._events = READ
        self._ending = False
        self.queued = 0
        """Bytes that wait to be sent."""
        self.on_frame = on_frame
        self.on_close: Callable[[], None] = _nothing
        self.on_drained: Callable[[], None] = _nothing
        self.closed = False
        loop.add(sock.fileno(), READ, self._ready)

    def send(self, message: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
        """Send or queue a message. The descriptors are closed once they have gone."""
        self._push(pack_message(message, fds), fds)

    def send_data(self, kind: int, data: bytes) -> None:
        """Send or queue stream data."""
        self._push(pack_data(kind, data), ())

    def drop_queued(self) -> None:
        """Forget what is queued, but for a frame that has gone in part."""
        kept = [self._queue.popleft()] if self._begun else []
        for _frame, fds in self._queue:
            _close_all(fds)
        self._queue = deque(kept)
        self.queued = sum(len(frame) for frame, _fds in kept)

    def pause(self) -> None:
        """Take no more frames; the end of the connection is still noticed."""
        self._want(self._events & ~READ)

    def resume(self) -> None:
        self._want(self._events | READ)

    def end(self) -> None:
        """Close when all that is queued has been sent; what still comes in is thrown away."""
        self._ending = True
        if not self._queue:
            self.close()

    @property
    def idle(self) -> bool:
        """Whether nothing is on its way."""
        return not self._queue and not self._decoder.pending and not self._ending

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._loop.remove(self._sock.fileno())
        for _frame, fds in self._queue:
            _close_all(fds)
        self._queue.clear()
        self.queued = 0
        self._decoder.close()
        self._sock.close()
        self.on_close()

    def _push(self, frame: bytes | memoryview, fds: Sequence[int]) -> None:
        if self.closed or self._ending:
            _close_all(fds)
            return
        self._queue.append((frame, fds))
        self.queued += len(frame)
        if len(self._queue) == 1:
            self._flush()

    def _flush(self) -> None:
        try:
            while self._queue:
                frame, fds = self._queue[0]
                sent = send(self._sock, frame, fds)
                _close_all(fds)
                self.queued -= sent
                self._begun = sent < len(frame)
                if self._begun:
                    self._queue[0] = (memoryview(frame)[sent:], ())
                else:
                    self._queue.popleft()
        except BlockingIOError:
            self._want(self._events | WRITE)
            return
        except OSError:
            self.close()
            return
        if self._ending:
            self.close()
        elif self._events & WRITE:
            self._want(self._events & ~WRITE)
            self.on_drained()

    def _ready(self, events: int) -> None:
        if events & WRITE:
            self._flush()
        if self.closed:
            return
        if events & READ and self._events & READ:
            self._receive()
        elif events & ~(READ | WRITE):
            # A hang-up or an error, told although nothing is read.
            self.close()

    def _receive(self) -> None:
        try:
            data, fds = receive(self._sock)
            if not data:
                self.close()
                return
            for frame in self._decoder.feed(data, fds):
                if self.closed or self._ending:
                    _close_all(frame.fds)
                else:
                    self.on_frame(frame)
        except BlockingIOError:
            return
        except (OSError, ProtocolError, LookupError, TypeError, ValueError):
            # Whatever this one sent was wrong; the containers must not pay for it.
            self.close()

    def _want(self, events: int) -> None:
        if not self.closed and events != self._events:
            self._events = events
            self._loop.modify(self._sock.fileno(), events)


def _close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
