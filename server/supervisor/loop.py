"""An event loop on epoll: callbacks on descriptors, timers, and ended children. One thread, no asyncio (its import costs memory)."""

from __future__ import annotations

import heapq
import os
import select
import signal
import time
from collections.abc import Callable, Iterable
from itertools import count
from types import FrameType

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
HANGUP = select.EPOLLHUP
ERROR = select.EPOLLERR

Callback = Callable[[int], None]
"""Called with the events of a descriptor."""


class Timer:
    """A call to come, which can be called off."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call: Callable[[], None] | None = call

    @property
    def waits(self) -> bool:
        return self._call is not None

    def cancel(self) -> None:
        self._call = None

    def fire(self) -> None:
        if self._call is not None:
            self._call()


class Loop:
    """Runs until `stop`. `events` may be 0: errors and hang-ups are told all the same, as epoll does."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callback] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = count()
        self._running = False

    def add(self, fd: int, events: int, callback: Callback) -> None:
        self._epoll.register(fd, events)
        self._callbacks[fd] = callback

    def modify(self, fd: int, events: int) -> None:
        self._epoll.modify(fd, events)

    def remove(self, fd: int) -> None:
        """Before the descriptor is closed; one that is not here is fine."""
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def call_later(self, seconds: float, call: Callable[[], None]) -> Timer:
        timer = Timer(call)
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._order), timer))
        return timer

    def watches_only(self, fds: Iterable[int]) -> bool:
        """Whether these are all the descriptors here, and no call is to come."""
        return self._callbacks.keys() == set(fds) and not any(timer.waits for _, _, timer in self._timers)

    def stop(self) -> None:
        self._running = False

    def run(self) -> None:
        self._running = True
        while self._running:
            for fd, events in self._epoll.poll(self._timeout()):
                # An earlier callback of this round may have removed it.
                callback = self._callbacks.get(fd)
                if callback is not None:
                    callback(events)
            self._fire_timers()

    def close(self) -> None:
        self._epoll.close()

    def _timeout(self) -> float | None:
        return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None

    def _fire_timers(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2].fire()


def handle_sigchld() -> None:
    """Have the kernel tell SIGCHLD. Done in the spawner, once for all that it forks: the `signal` module touches much memory."""
    signal.signal(signal.SIGCHLD, _nothing)


def _nothing(_number: int, _frame: FrameType | None) -> None:
    pass


def watch_children(loop: Loop, on_exit: Callable[[int, int], None]) -> int:
    """Reap every child that ends, and call `on_exit` with its pid and wait status. Answers the descriptor that tells of them.

    `handle_sigchld` was called, here or before the fork. A descriptor woken by SIGCHLD and not one pidfd a child: a subreaper
    also inherits processes it never heard of.
    """
    receiver, sender = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(sender, warn_on_full_buffer=False)

    def reap(_events: int) -> None:
        os.read(receiver, 512)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            on_exit(pid, status)

    loop.add(receiver, READ, reap)
    return receiver
