"""Progress of a pull, item by item, not more often than anyone can read."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum


class PullStage(IntEnum):
    """How far an item has come; numbered as `moorage.v1.PullStage`."""

    RESOLVING = 1
    WAITING = 2
    DOWNLOADING = 3
    VERIFYING = 4
    UNPACKING = 5
    DONE = 6
    EXISTS = 7


@dataclass(frozen=True)
class PullProgress:
    """One step. `digest` is the layer, config or manifest, empty for the image; `current` of `total` are compressed bytes."""

    digest: str
    stage: PullStage
    current: int = 0
    total: int = 0


class Reporter:
    """Passes every change of stage on, and counts of bytes at most ten times a second an item. Calls back one at a time."""

    INTERVAL = 0.1

    def __init__(self, report: Callable[[PullProgress], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._report, self._clock = report, clock
        self._lock = threading.Lock()
        self._last: dict[str, tuple[PullProgress, float]] = {}

    def __call__(self, digest: str, stage: PullStage, current: int = 0, total: int = 0) -> None:
        step = PullProgress(digest, stage, current, total)
        now = self._clock()
        with self._lock:
            last, at = self._last.get(digest, (None, 0.0))
            if last == step or (last and last.stage == stage and now - at < self.INTERVAL):
                return
            self._last[digest] = step, now
            self._report(step)
