"""Progress of a pull or a push, item by item, not more often than anyone can read."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Generic, TypeVar


class PullStage(IntEnum):
    """How far an item has come; numbered as `moorage.v1.PullStage`."""

    RESOLVING = 1
    WAITING = 2
    DOWNLOADING = 3
    VERIFYING = 4
    UNPACKING = 5
    DONE = 6
    EXISTS = 7


class PushStage(IntEnum):
    """How far an item has come; numbered as `moorage.v1.PushStage`."""

    PREPARING = 1
    WAITING = 2
    FETCHING = 3
    PACKING = 4
    UPLOADING = 5
    DONE = 6
    EXISTS = 7
    MOUNTED = 8


S = TypeVar("S", PullStage, PushStage)


@dataclass(frozen=True)
class Progress(Generic[S]):
    """One step. `digest` is the layer, config or manifest, empty for the image; `current` of `total` are compressed bytes."""

    digest: str
    stage: S
    current: int = 0
    total: int = 0


PullProgress = Progress[PullStage]
PushProgress = Progress[PushStage]


class Reporter(Generic[S]):
    """Passes every change of stage on, and counts of bytes at most ten times a second an item. Calls back one at a time."""

    INTERVAL = 0.1

    def __init__(self, report: Callable[[Progress[S]], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._report: Callable[[Progress[S]], None] = report
        self._clock = clock
        self._lock = threading.Lock()
        self._last: dict[str, tuple[Progress[S], float]] = {}

    def __call__(self, digest: str, stage: S, current: int = 0, total: int = 0) -> None:
        step = Progress(digest, stage, current, total)
        now = self._clock()
        with self._lock:
            last, at = self._last.get(digest, (None, 0.0))
            if last == step or (last and last.stage == stage and now - at < self.INTERVAL):
                return
            self._last[digest] = step, now
            self._report(step)
