"""The user's own terminal: raw mode, its size, the keys that detach, and writing all of a piece of output."""

from __future__ import annotations

import os
import select
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager

STDIN, STDOUT, STDERR = 0, 1, 2


def size() -> tuple[int, int] | None:
    """Columns and rows of the terminal, None where there is none."""
    for fd in (STDOUT, STDIN, STDERR):
        try:
            columns, rows = os.get_terminal_size(fd)
        except OSError:
            continue
        if columns and rows:
            return columns, rows
    return None


@contextmanager
def raw(fd: int) -> Iterator[None]:
    """Every byte typed comes through as it is, unechoed, until the block is left."""
    before = termios.tcgetattr(fd)
    # setraw waits for output to drain; what was typed ahead stays for the container (TCSADRAIN, not TCSAFLUSH).
    tty.setraw(fd, termios.TCSADRAIN)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def write_all(fd: int, data: bytes) -> None:
    """Write every byte. A descriptor that some other program made non-blocking is waited for."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            select.select([], [fd], [])


class DetachKeys:
    """Watches what is typed for a sequence of keys. What may still become the sequence is held back."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._held = b""

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """Bytes to pass on, and whether the keys have been typed: what came after them is dropped then."""
        if not self._keys:
            return data, False
        data = self._held + data
        at = data.find(self._keys)
        if at >= 0:
            self._held = b""
            return data[:at], True
        lengths = range(min(len(self._keys) - 1, len(data)), 0, -1)
        held = next((length for length in lengths if data.endswith(self._keys[:length])), 0)
        self._held = data[len(data) - held :]
        return data[: len(data) - held], False

    def rest(self) -> bytes:
        """What is held back still: at the end of the input it is just input."""
        held, self._held = self._held, b""
        return held
