"""Reading, writing, killing and removing in cgroup file systems: what is the same in both versions."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress

from moorage.server.libcontainer.cgroups.base import CgroupError, CgroupStats

Parser = Callable[[bytes, dict[str, int]], None]
"""Adds what a file's content says to the fields of a CgroupStats."""

REMOVE_SECONDS = 5.0
FREEZE_SECONDS = 2.0
KILL_PASSES = 4
READ_SIZE = 65536


def write(path: str, *values: str) -> None:
    """Write each value with a write(2) of its own, as the kernel takes one setting from each."""
    value = ""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            for value in values:
                os.write(fd, value.encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise CgroupError(error.errno or 0, "write", path, value or " ".join(values)) from error


def read(path: str) -> bytes:
    """The whole of a small file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(fd, READ_SIZE)
        finally:
            os.close(fd)
    except OSError as error:
        raise CgroupError(error.errno or 0, "read", path) from error


def make(path: str) -> None:
    """mkdir(2)."""
    try:
        os.mkdir(path, 0o755)
    except OSError as error:
        raise CgroupError(error.errno or 0, "make", path) from error


def below(directory: str) -> list[str]:
    """The cgroups directly below; none when `directory` does not exist."""
    try:
        with os.scandir(directory) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError as error:
        # ENODEV: removed between open and read.
        if error.errno in (errno.ENOENT, errno.ENODEV):
            return []
        raise CgroupError(error.errno or 0, "list", directory) from error


def pids(directory: str) -> list[int]:
    """Processes in the cgroup and below it; none when it does not exist."""
    try:
        with open(f"{directory}/cgroup.procs", "rb") as file:
            found = [int(line) for line in file.read().split()]
        # 2 and one for each directory in it: cheaper than to list the files of every cgroup.
        leaf = os.stat(directory).st_nlink == 2
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV):
            return []
        raise CgroupError(error.errno or 0, "read", f"{directory}/cgroup.procs") from error
    for name in [] if leaf else below(directory):
        found += pids(f"{directory}/{name}")
    # 0 is a process that this pid namespace cannot see; to kill(2) it would mean ourselves.
    return [pid for pid in found if pid > 0]


def kill_all(list_pids: Callable[[], Iterable[int]], freeze: Callable[[], object], thaw: Callable[[], None]) -> None:
    """SIGKILL every process, those forked meanwhile too.

    A process that has SIGKILL pending cannot fork any more, so a pass that finds nobody new is the last. Whoever forks
    faster than that is frozen first.
    """
    killed: set[int] = set()
    for _ in range(KILL_PASSES):
        fresh = set(list_pids()) - killed
        if not fresh:
            return
        _sigkill(fresh)
        killed |= fresh
    freeze()
    try:
        _sigkill(list_pids())
    finally:
        thaw()


def _sigkill(processes: Iterable[int]) -> None:
    for pid in processes:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def remove(*directories: str) -> None:
    """rmdir(2) cgroups and all below them; while processes are still leaving (EBUSY), try again for a bounded time."""
    deadline = time.monotonic() + REMOVE_SECONDS
    for directory in directories:
        _remove(directory, deadline)


def _remove(directory: str, deadline: float) -> None:
    pause = 0.0005
    while True:
        try:
            os.rmdir(directory)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise CgroupError(error.errno or 0, "remove", directory) from error
        else:
            return
        for name in below(directory):
            _remove(f"{directory}/{name}", deadline)
        time.sleep(pause)
        pause = min(pause * 2, 0.05)


def prune(root: str, path: str) -> None:
    """Remove the cgroup at `path` below `root`, and its parents, as far up as nothing is in or below them."""
    while path.strip("/"):
        try:
            os.rmdir(f"{root}{path}")
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno in (errno.EBUSY, errno.ENOTEMPTY):
                return
            raise CgroupError(error.errno or 0, "remove", f"{root}{path}") from error
        path = path.rpartition("/")[0]


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether `condition` became true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True


def parents(path: str) -> list[str]:
    """Every cgroup above `path`, outermost first: `/a/b/c` gives `/a`, `/a/b`."""
    names = path.strip("/").split("/")[:-1]
    return ["/" + "/".join(names[: end + 1]) for end in range(len(names))]


class FileSampler:
    """Statistics out of files that stay open: pread(2) at 0 makes the kernel write them anew."""

    def __init__(self, directory: str, sources: Sequence[tuple[str, Parser]]) -> None:
        """`sources` are paths with their parsers; files that this kernel does not have count as 0."""
        self._sources: list[tuple[int, str, Parser]] = []
        with ExitStack() as stack:
            for path, parser in sources:
                with suppress(FileNotFoundError):
                    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                    stack.callback(os.close, fd)
                    self._sources.append((fd, path, parser))
            if not self._sources:
                raise CgroupError(errno.ENOENT, "read", directory)
            self._close = stack.pop_all()

    def read(self) -> CgroupStats:
        values: dict[str, int] = {}
        for fd, path, parser in self._sources:
            try:
                content = os.pread(fd, READ_SIZE, 0)
            except OSError as error:
                raise CgroupError(error.errno or 0, "read", path) from error
            parser(content, values)
        return CgroupStats(**values)

    def close(self) -> None:
        self._close.close()
        self._sources = []


def number(field: str) -> Parser:
    """A file that holds one number; `max`, and what version 1 writes for "no limit", are 0."""

    def parse(content: bytes, values: dict[str, int]) -> None:
        value = 0 if content.startswith(b"max") else int(content)
        values[field] = 0 if value >= NO_LIMIT else value

    return parse


NO_LIMIT = (1 << 63) - (1 << 20)
"""Version 1's "none" is the largest multiple of the page size in 63 bits; pages have up to 64 KiB."""


def keyed(factor: int = 1, **keys: str) -> Parser:
    """A file of `key value` lines, of which some are wanted: keys by field. A key that is not there counts as 0."""
    needles = [(field, _needle(key)) for field, key in keys.items()]

    def parse(content: bytes, values: dict[str, int]) -> None:
        lines = b"\n" + content
        for field, needle in needles:
            values[field] = _value(lines, needle) * factor

    return parse


def value_of(key: str, content: bytes) -> int:
    """The value of one key in a file of `key value` lines; 0 where it is not there."""
    return _value(b"\n" + content, _needle(key))


def _needle(key: str) -> bytes:
    return f"\n{key} ".encode()


def _value(lines: bytes, needle: bytes) -> int:
    """What follows the needle on its line. Every line has a newline before it and one at its end."""
    at = lines.find(needle)
    if at < 0:
        return 0
    at += len(needle)
    return int(lines[at : lines.index(b"\n", at)])
