"""Deletes links that should be gone, in the background.

Deleting a veth waits for an RCU grace period under the lock of all links, some 15 ms. When a container's network namespace dies the
kernel deletes its links by itself, many at once; so a link is given that long first, and only one that stays is deleted here.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable

GRACE_SECONDS = 0.25
POLL_SECONDS = 0.02

log = logging.getLogger(__name__)


class LinkReaper:
    """One thread, started when first needed, asleep while there is nothing to do. Thread-safe."""

    def __init__(self, delete: Callable[[str], object], grace: float = GRACE_SECONDS) -> None:
        self._delete = delete
        self._grace = grace
        self._changed = threading.Condition()
        self._deadlines: dict[str, float] = {}
        self._thread: threading.Thread | None = None
        self._closed = False
        self._reaping = ""

    def add(self, name: str) -> None:
        """See to it that the link `name` goes."""
        with self._changed:
            self._deadlines[name] = time.monotonic() + self._grace
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="link-reaper", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def forget(self, name: str) -> None:
        """The name is about to be used anew: from the return on, nothing here deletes it."""
        with self._changed:
            self._deadlines.pop(name, None)
            self._changed.wait_for(lambda: self._reaping != name)

    def settle(self, timeout: float) -> bool:
        """Wait until all links are gone; False when they are not within `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._deadlines, timeout)

    def close(self) -> None:
        """Delete what is left now, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._deadlines or self._closed)
                if not self._deadlines:
                    return
            self._pass()
            with self._changed:
                self._changed.wait_for(lambda: not self._deadlines or self._closed, POLL_SECONDS)

    def _pass(self) -> None:
        with self._changed:
            now = time.monotonic()
            self._deadlines = {name: deadline for name, deadline in self._deadlines.items() if _exists(name)}
            due = [name for name, deadline in self._deadlines.items() if deadline <= now or self._closed]
            self._changed.notify_all()
        for name in due:
            self._reap(name)

    def _reap(self, name: str) -> None:
        with self._changed:
            if name not in self._deadlines:
                return
            self._reaping = name
        try:
            self._delete(name)
        except OSError as error:
            log.warning("cannot delete link %s: %s", name, error)
        finally:
            with self._changed:
                self._reaping = ""
                self._deadlines.pop(name, None)
                self._changed.notify_all()


def _exists(name: str) -> bool:
    """Whether there is a link of this name. Asked of ioctl(2): that does not wait while links are deleted, as netlink would."""
    try:
        socket.if_nametoindex(name)
    except OSError:
        return False
    return True
