"""Handler for logs: reads the files that the supervisor writes, in CRI's log format (`time stream P|F text`), also across rotation.

The files are the only copy: the past is read backwards from the end for `tail`, and followed by watching the directory with inotify.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from datetime import datetime
from io import FileIO
from pathlib import Path
from typing import Literal

from moorage.server.engine import commands
from moorage.server.engine.containers import Containers
from moorage.server.engine.job import Job
from moorage.server.errors import DataLoss
from moorage.server.libcontainer.inotify import Watch

STREAMS: dict[bytes, Literal["stdout", "stderr"]] = {b"stdout": "stdout", b"stderr": "stderr"}
CHUNK = 256 << 10


class Logs:
    """Streams of log lines."""

    def __init__(self, containers: Containers, log_path: Callable[[str], Path]) -> None:
        self._containers = containers
        self._log_path = log_path

    async def stream(self, job: Job, command: commands.Logs) -> AsyncIterator[list[commands.LogLine]]:
        """The past in batches, then, when following, what comes until the container has ended."""
        container = self._containers.get(command.id)
        path = self._log_path(container.id)
        reader = LogReader(path)
        chosen = command.since_ns or command.until_ns or len(command.streams) < len(STREAMS)
        loop = asyncio.get_running_loop()
        with closing(reader), Watch(path.parent) as watch:
            await loop.run_in_executor(None, reader.seek_tail, command.tail)
            while True:
                ended = self._ended(container.id)
                batch = await loop.run_in_executor(None, reader.read)
                lines = [line for line in batch if _wanted(line, command)] if chosen else batch
                if lines:
                    yield lines
                if command.until_ns and batch and batch[-1].time_ns >= command.until_ns:
                    return
                if batch:
                    continue
                if ended or not command.follow:
                    return
                await watch.changed(timeout=1.0)

    def _ended(self, container_id: str) -> bool:
        """Whether nothing more will be written. A container that is gone has ended; one not yet started has not."""
        states = {c.id: c.state for c in self._containers.all()}
        return states.get(container_id, "removing") in ("exited", "removing")


class LogReader:
    """Reads a log and its rotated predecessors (`path.N` … `path.1`, `path`), oldest first, from a place on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: FileIO | None = None
        self._rest = b""
        self._pending: list[FileIO] = []

    def seek_tail(self, lines: int | None) -> None:
        """Stand so that at most `lines` whole lines are ahead; None for all."""
        files = [FileIO(path) for path in self._files()]
        if lines is not None:
            files = _last_lines(files, lines)
        self._pending = files[1:]
        self._file = files[0] if files else None

    def read(self) -> list[commands.LogLine]:
        """The next batch; empty when there is nothing more for now."""
        while True:
            if self._file is None and not self._open_current():
                return []
            assert self._file is not None
            data = self._file.read(CHUNK)
            if data:
                whole, newline, rest = (self._rest + data).rpartition(b"\n")
                self._rest = rest
                if newline:
                    return _parse(whole.split(b"\n"), self._path)
                continue
            if not self._next_file():
                return []

    def close(self) -> None:
        """Let go of the files."""
        for file in [self._file, *self._pending]:
            if file is not None:
                file.close()
        self._file, self._pending = None, []

    def _files(self) -> list[Path]:
        rotated = [p for p in self._path.parent.glob(self._path.name + ".*") if p.suffix[1:].isdigit()]
        ordered = sorted(rotated, key=lambda p: -int(p.suffix[1:]))
        return [*ordered, self._path] if self._path.exists() else ordered

    def _open_current(self) -> bool:
        try:
            self._file = FileIO(self._path)
        except FileNotFoundError:
            return False
        return True

    def _next_file(self) -> bool:
        """At the end of a file: go on with the one that was written after it, if there is one."""
        assert self._file is not None
        if self._pending:
            self._file.close()
            self._file = self._pending.pop(0)
            return True
        successor = self._successor(os.fstat(self._file.fileno()))
        if successor is None:
            return False
        after = FileIO(successor)
        last = self._file.read()
        if last:
            after.close()
            self._file.seek(-len(last), os.SEEK_CUR)
            return True
        self._file.close()
        self._file = after
        return True

    def _successor(self, here: os.stat_result) -> Path | None:
        """The file next younger than the open one; None while the open one is still the current."""
        files = self._files()
        inodes = [(_inode(path), path) for path in files]
        for index, (inode, _) in enumerate(inodes):
            if inode == here.st_ino:
                return inodes[index + 1][1] if index + 1 < len(inodes) else None
        return files[0] if files else None


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0


def _last_lines(files: list[FileIO], lines: int) -> list[FileIO]:
    """The youngest files that hold the last `lines` lines, the first of them positioned at the right line."""
    wanted = lines
    for index in range(len(files) - 1, -1, -1):
        file = files[index]
        offset, found = _seek_back(file, wanted)
        file.seek(offset)
        if found >= wanted:
            for older in files[:index]:
                older.close()
            return files[index:]
        wanted -= found
    return files


def _seek_back(file: FileIO, lines: int) -> tuple[int, int]:
    """Offset of the start of the last `lines` lines, and how many lines there are from it to the end."""
    position = file.seek(0, os.SEEK_END)
    end, found = position, 0
    if lines == 0:
        return end, 0
    for start in _blocks(position):
        file.seek(start)
        block = file.read(min(CHUNK, position - start))
        at = len(block)
        while (at := block.rfind(b"\n", 0, at)) >= 0:
            if start + at + 1 == end:
                continue
            found += 1
            if found == lines:
                return start + at + 1, found
        position = start
    return 0, found + (1 if end else 0)


def _blocks(size: int) -> Iterator[int]:
    start = size
    while start > 0:
        start = max(0, start - CHUNK)
        yield start


def _parse(lines: list[bytes], path: Path) -> list[commands.LogLine]:
    """This loop is what reading a log costs: a chunk's lines share their time, which is parsed when it changes."""
    out: list[commands.LogLine] = []
    stamp, time_ns = b"", 0
    for line in lines:
        try:
            head, stream, tag, text = line.split(b" ", 3)
            if head != stamp:
                stamp, time_ns = head, _time_ns(head)
            out.append(commands.LogLine(time_ns, STREAMS[stream], text if tag == b"P" else text + b"\n", tag == b"P"))
        except (ValueError, KeyError):
            raise DataLoss(f"cannot read log {path}: a line is not in CRI's format: {line[:80]!r}", path=path) from None
    return out


def _time_ns(stamp: bytes) -> int:
    """RFC 3339 with nanoseconds, as `2026-01-02T03:04:05.123456789Z`."""
    whole, _, fraction = stamp.decode("ascii").removesuffix("Z").partition(".")
    seconds = int(datetime.fromisoformat(whole + "+00:00").timestamp())
    return seconds * 1_000_000_000 + int(fraction[:9].ljust(9, "0") or 0)


def _wanted(line: commands.LogLine, command: commands.Logs) -> bool:
    if line.stream not in command.streams or line.time_ns < command.since_ns:
        return False
    return not command.until_ns or line.time_ns < command.until_ns
