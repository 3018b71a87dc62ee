"""A bound on bytes per second that all transfers of the daemon share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from moorage.server.cancel import CancelToken


class Throttle:
    """`rate` bytes a second on average, 0 for no bound. Thread-safe."""

    def __init__(self, rate: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._clock = rate, clock
        self._lock = threading.Lock()
        self._free_at = 0.0

    def take(self, count: int, cancel: CancelToken) -> None:
        """Wait until `count` more bytes may go. Raises what `cancel` raises."""
        if not self._rate:
            return
        with self._lock:
            now = self._clock()
            wait = max(0.0, self._free_at - now)
            self._free_at = now + wait + count / self._rate
        if wait:
            cancel.wait(wait)
