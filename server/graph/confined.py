"""The daemon's side of the tasks that touch untrusted trees: opens the directories, feeds the tar stream, hands back the result."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from io import RawIOBase
from pathlib import Path
from typing import Any, BinaryIO

from moorage.server.cancel import CancelToken
from moorage.server.errors import Internal
from moorage.server.graph.drivers.base import Differences, Form, Packed, RootfsMount, Sink, Unpacked, Whiteouts
from moorage.server.model import DiskUsage

RunTask = Callable[[str, dict[str, Any], Sequence[int], CancelToken | None], dict[str, Any]]
"""Runs a function of the supervisor's task table in a child: name, arguments, descriptors (the caller's to close), cancel."""

PIPE_SIZE = 1 << 20
CHUNK = 1 << 18
TREES = 12
"""What one task measures; a message carries few descriptors."""


class ConfinedRunner:
    """`Confined` by way of the spawner. Errors are those the tasks raise; see `supervisor/unpack.py` and `trees.py`."""

    def __init__(self, run_task: RunTask, **limits: int) -> None:
        """`limits`: `max_entries` and `max_bytes` of a layer, where they differ from the task's own."""
        self._run_task = run_task
        self._limits = limits

    def unpack(self, directory: str, tar: BinaryIO, whiteouts: Whiteouts, cancel: CancelToken) -> Unpacked:
        """The task runs in a thread of its own, while this one feeds it: an error of `tar` is raised as it is."""
        args = {"whiteouts": whiteouts, **self._limits}
        with opened(directory) as root, ThreadPoolExecutor(1, "moorage-unpack") as pool:
            reader, writer = os.pipe2(os.O_CLOEXEC)
            task = pool.submit(self._consume, args, root, reader, cancel)
            with open(writer, "wb", buffering=0) as pipe:
                fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
                fed = feed(tar, pipe, cancel)
            result = task.result()
        if not fed:
            raise Internal(f"unpacking into {directory} ended before the layer did")
        return Unpacked(int(result["bytes"]), tuple(result["implicit"]))

    def _consume(self, args: dict[str, Any], root: int, reader: int, cancel: CancelToken) -> dict[str, Any]:
        try:
            return self._run_task("unpack", args, [root, reader], cancel)
        finally:
            # With the last reader gone, who feeds a task that has ended is not left waiting.
            os.close(reader)

    def pack(
        self,
        directory: str,
        sink: Sink,
        form: Form,
        cancel: CancelToken,
        *,
        lower: str = "",
        root: str = "",
        clamp_seconds: int | None = None,
    ) -> Packed:
        """The task runs in a thread of its own, while this one empties the pipe: an error of `sink` is raised as it is."""
        args: dict[str, Any] = {
            "form": form,
            "clamp_seconds": clamp_seconds,
            "root": attributes(root) if root else None,
        }
        with ExitStack() as stack:
            tree = stack.enter_context(opened(directory))
            below = [stack.enter_context(opened(lower))] if lower else []
            result = self._drain("pack", args, lambda writer: [tree, writer, *below], sink, cancel)
        return Packed(int(result["bytes"]), int(result["entries"]), bool(result["root"]))

    def export(self, mounts: Sequence[RootfsMount], sink: Sink, cancel: CancelToken) -> Packed:
        layers = [{"type": each.type, "source": each.source, "options": list(each.options)} for each in mounts]
        result = self._drain("export", {"layers": layers}, lambda writer: [writer], sink, cancel)
        return Packed(int(result["bytes"]), int(result["entries"]), bool(result["root"]))

    def _drain(
        self, task: str, args: dict[str, Any], fds: Callable[[int], list[int]], sink: Sink, cancel: CancelToken
    ) -> dict[str, Any]:
        """Run a task that writes to a pipe, and empty it into `sink`; answers what the task does."""
        with ThreadPoolExecutor(1, "moorage-pack") as pool:
            reader, writer = os.pipe2(os.O_CLOEXEC)
            running = pool.submit(self._produce, task, args, fds(writer), writer, cancel)
            with open(reader, "rb", buffering=0) as pipe:
                fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
                while data := pipe.read(CHUNK):
                    cancel.check()
                    sink.write(data)
            return running.result()

    def _produce(
        self, task: str, args: dict[str, Any], fds: Sequence[int], writer: int, cancel: CancelToken
    ) -> dict[str, Any]:
        try:
            return self._run_task(task, args, fds, cancel)
        finally:
            # With the last writer gone, the stream is at its end.
            os.close(writer)

    def inherit(self, directory: str, lower: str, paths: Sequence[str]) -> tuple[str, ...]:
        with opened(directory) as target, opened(lower) as source:
            return tuple(self._run_task("inherit", {"paths": list(paths)}, [source, target], None)["missing"])

    def copy_tree(self, source: str, target: str, cancel: CancelToken) -> None:
        with opened(source) as source_fd, opened(target) as target_fd:
            self._run_task("copy_tree", {}, [source_fd, target_fd], cancel)

    def compare(self, actual: str, expected: str, implicit: Sequence[str], cancel: CancelToken) -> Differences:
        with opened(actual) as first, opened(expected) as second:
            found = self._run_task("compare", {"implicit": list(implicit)}, [first, second], cancel)
        return Differences(int(found["count"]), tuple((path, what) for path, what in found["shown"]))

    def remove_tree(self, directory: str) -> None:
        try:
            with opened(directory) as fd:
                self._run_task("remove_tree", {}, [fd], None)
            Path(directory).rmdir()
        except FileNotFoundError:
            return

    def measure_tree(self, directory: str) -> DiskUsage:
        with opened(directory) as fd:
            return self._measure([fd])[0]

    def measure_trees(self, directories: Sequence[str]) -> dict[str, DiskUsage]:
        found: dict[str, DiskUsage] = {}
        for at in range(0, len(directories), TREES):
            with ExitStack() as stack:
                fds = {}
                for directory in directories[at : at + TREES]:
                    with suppress(FileNotFoundError):
                        fds[directory] = stack.enter_context(opened(directory))
                found |= dict(zip(fds, self._measure([*fds.values()]), strict=True)) if fds else {}
        return found

    def _measure(self, fds: Sequence[int]) -> list[DiskUsage]:
        measured = self._run_task("measure_trees", {}, fds, None)
        return [DiskUsage(int(total), int(inodes)) for total, inodes in measured["trees"]]


def feed(tar: BinaryIO, pipe: RawIOBase, cancel: CancelToken) -> bool:
    """Copy a stream into a pipe until the stream ends; False when the other side has gone before."""
    while data := tar.read(CHUNK):
        cancel.check()
        view = memoryview(data)
        try:
            while view:
                view = view[pipe.write(view) :]
        except BrokenPipeError:
            return False
    return True


def attributes(directory: str) -> list[int]:
    """Mode, owner and group of a directory."""
    with opened(directory) as fd:
        status = os.fstat(fd)
    return [stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid]


@contextmanager
def opened(directory: str) -> Iterator[int]:
    """A directory's descriptor."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
