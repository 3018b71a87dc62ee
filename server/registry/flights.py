"""Keeps concurrent pulls from doing the same work twice: one flight a digest, and a blob lives while any pull wants it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from moorage.server.cancel import CancelToken


class Flights:
    """Mutual exclusion by key, whose wait ends when the waiter is cancelled."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._busy: set[str] = set()

    @contextmanager
    def alone(self, key: str, cancel: CancelToken) -> Iterator[None]:
        """Be the only one in here with `key`. Raises Cancelled or DeadlineExceeded."""
        with cancel.on_cancel(self._wake), self._changed:
            while key in self._busy:
                cancel.check()
                self._changed.wait()
            cancel.check()
            self._busy.add(key)
        try:
            yield
        finally:
            with self._changed:
                self._busy.remove(key)
                self._changed.notify_all()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()


class Wanted:
    """Counts who wants a blob; the last one to leave deletes it, when it was of use."""

    def __init__(self, delete: Callable[[str], object]) -> None:
        self._delete = delete
        self._lock = threading.Lock()
        self._count: Counter[str] = Counter()

    @contextmanager
    def held(self, digests: Iterable[str]) -> Iterator[Callable[[str], None]]:
        """Want `digests` inside the block; the function given says that one was used up.

        What was not used up stays when the block ends: a later pull will find it.
        """
        mine = set(digests)
        with self._lock:
            self._count.update(mine)

        def used(digest: str) -> None:
            mine.remove(digest)
            self._release(digest, delete=True)

        try:
            yield used
        finally:
            for digest in mine:
                self._release(digest, delete=False)

    def _release(self, digest: str, *, delete: bool) -> None:
        with self._lock:
            self._count[digest] -= 1
            if self._count[digest] == 0:
                del self._count[digest]
                if delete:
                    self._delete(digest)
