"""A container's log file, in the format of Kubernetes' CRI: an entry a line,

    2026-11-24T14:53:29.000000001Z stdout F text of the line
    2026-11-24T14:53:29.000000002Z stderr P a part, whose line goes on in the next entry of this stream

A line longer than MAX_TEXT is split into parts, and so is one that was not complete when it was read: nothing waits in memory. What
was written to a stream is the text of its entries, with a line feed after each F. One clock reading and one `bytes.replace` do for
all the lines of a read, not work line by line.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

MAX_TEXT = 16 << 10
FILE_MODE = 0o640
DIRECTORY_MODE = 0o700


def timestamp(ns: int) -> bytes:
    """RFC 3339 with nanoseconds, in UTC."""
    seconds, rest = divmod(ns, 1_000_000_000)
    return b"%s.%09dZ" % (time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)).encode(), rest)


def entries(stream: str, data: bytes, ns: int) -> Iterator[bytes]:
    """The entries of what was read at once from `stream`, in blocks of whole entries, for at most MAX_TEXT of text each."""
    head = b"%s %s " % (timestamp(ns), stream.encode())
    full, part = head + b"F ", head + b"P "
    between = b"\n" + full
    start, size = 0, len(data)
    while start < size:
        # One more than MAX_TEXT: the line feed of a line that just fits.
        end = data.rfind(b"\n", start, start + MAX_TEXT + 1)
        if end >= 0:
            yield full + data[start:end].replace(b"\n", between) + b"\n"
            start = end + 1
        else:
            end = min(start + MAX_TEXT, size)
            yield part + data[start:end] + b"\n"
            start = end


class LogFile:
    """Appends to a log file and rotates it: `log` to `log.1` and so on, `max_files` in all, each about `max_size` bytes (0: never).

    Never blocks the container for want of space: what cannot be written is counted, and the count is written when there is space again.
    """

    def __init__(self, path: str, max_size: int, max_files: int, fd: int) -> None:
        """`fd` is of `open_log(path)`, and belongs to this from now on."""
        self._path = path
        self._max_size = max_size
        self._max_files = max_files
        self.dropped = 0
        """Bytes of output lost since the last write that worked."""
        self._error = 0
        self.fd = fd
        self._size = os.fstat(fd).st_size

    def write(self, stream: str, data: bytes) -> None:
        """Log what was read at once from `stream`."""
        ns = time.time_ns()
        for block in entries(stream, data, ns):
            if self._max_size and self._size and self._size + len(block) > self._max_size:
                self._rotate()
            if self.dropped:
                self._tell_dropped(ns)
            if self.dropped or not self._append(block):
                self.dropped += len(block)

    def reopen(self) -> None:
        """Go on in a file of the same name: somebody has renamed this one. Raises OSError, and then goes on in this one."""
        fd = open_log(self._path)
        os.close(self.fd)
        self.fd = fd
        self._size = os.fstat(fd).st_size

    def close(self) -> None:
        if self.dropped:
            self._tell_dropped(time.time_ns())
        os.close(self.fd)

    def _append(self, block: bytes) -> bool:
        try:
            written = os.write(self.fd, block)
            while written < len(block):
                written += os.write(self.fd, memoryview(block)[written:])
        except OSError as error:
            self._error = error.errno or 0
            # Half an entry would spoil the next one.
            with contextlib.suppress(OSError):
                os.ftruncate(self.fd, self._size)
            return False
        self._size += len(block)
        return True

    def _tell_dropped(self, ns: int) -> None:
        text = f"moorage: {self.dropped} bytes of log were dropped: {os.strerror(self._error).lower()}\n"
        if self._append(b"".join(entries("stderr", text.encode(), ns))):
            self.dropped = 0

    def _rotate(self) -> None:
        """Rename the files up by one and begin a new one; where that fails, go on in the old one."""
        with contextlib.suppress(OSError):
            for number in range(self._max_files - 2, 0, -1):
                with contextlib.suppress(FileNotFoundError):
                    os.rename(f"{self._path}.{number}", f"{self._path}.{number + 1}")
            if self._max_files > 1:
                os.rename(self._path, f"{self._path}.1")
            else:
                os.unlink(self._path)
            self.reopen()


def open_log(path: str) -> int:
    """Open a log file to append to, and make it and its directory where they are missing. Raises OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags, FILE_MODE)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), DIRECTORY_MODE, exist_ok=True)
        return os.open(path, flags, FILE_MODE)
