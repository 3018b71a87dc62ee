"""A token that tells running work to stop.

Blocking work calls `check()` between steps, or registers `on_cancel` to be woken out of a wait (close a socket, kill a child).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from moorage.server.errors import Cancelled, DeadlineExceeded


class CancelToken:
    """Set once, from any thread; never unset."""

    def __init__(self) -> None:
        self._set = False
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], None]] = []
        self._why = ""
        self._deadline = False

    @property
    def cancelled(self) -> bool:
        return self._set

    def cancel(self, why: str, *, deadline: bool = False) -> None:
        """Set the token and run the callbacks, once. `why` becomes the error's message."""
        with self._lock:
            if self._set:
                return
            self._why, self._deadline = why, deadline
            self._set = True
            callbacks = list(self._callbacks)
        for callback in callbacks:
            callback()

    def check(self) -> None:
        """Raise Cancelled or DeadlineExceeded when the token is set."""
        if self._set:
            raise (DeadlineExceeded if self._deadline else Cancelled)(self._why)

    def wait(self, seconds: float) -> None:
        """Sleep, but no longer than until the token is set; then raise as `check` does."""
        woken = threading.Event()
        with self.on_cancel(woken.set):
            woken.wait(seconds)
        self.check()

    @contextmanager
    def on_cancel(self, callback: Callable[[], None]) -> Iterator[None]:
        """Run `callback` from the cancelling thread if the token is set inside the block (at once if it is set already)."""
        with self._lock:
            already = self._set
            self._callbacks.append(callback)
        if already:
            callback()
        try:
            yield
        finally:
            with self._lock:
                self._callbacks.remove(callback)
