"""The daemon's side of the builder's tasks on root file systems: opens the pipes, feeds them, hands back the results."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path
from typing import Any, BinaryIO

from moorage.server.builder.modes import Mode
from moorage.server.cancel import CancelToken
from moorage.server.graph.confined import CHUNK, PIPE_SIZE, RunTask, opened
from moorage.server.graph.drivers.base import RootfsMount, Sink

_UPPER = "upperdir="
"""The option of an overlay that names the directory where changes are."""


@dataclass(frozen=True)
class Placement:
    """Where files go, and how: see `supervisor/buildtree.py`, `put`. `mode` is None for each file's own."""

    what: str
    target: str
    directory: bool
    owner: str = ""
    mode: Mode | None = None
    archive: bool = False


@dataclass(frozen=True)
class Stubs:
    """What mounts make to be mounted on, the outer before the inner, and what the directories `around` that were like."""

    paths: tuple[str, ...]
    around: dict[str, Any]


@dataclass(frozen=True)
class Sources:
    """What to take of a root file system, see `BuildContext.choose`."""

    patterns: tuple[str, ...]
    parents: bool = False
    exclude: tuple[str, ...] = ()


Feeder = Callable[[RawIOBase], None]
"""Writes a tar stream."""


class Trees:
    """Blocking; thread-safe for different root file systems. Errors are those the tasks raise."""

    def __init__(self, run_task: RunTask) -> None:
        self._run = run_task

    def missing(self, layers: Sequence[RootfsMount], paths: Sequence[str]) -> Stubs:
        """Those of `paths`, and of the directories that lead to them, that are not there and that mounts will make."""
        found = self._run("build_missing", {"layers": tables(layers), "paths": list(paths)}, [], None)
        return Stubs(tuple(found["missing"]), found["around"])

    def sweep(self, layers: Sequence[RootfsMount], stubs: Stubs) -> None:
        """Delete those of the stubs that are empty, and have the directories around them as they were."""
        args = {"layers": tables(layers), "paths": list(stubs.paths), "around": stubs.around}
        self._run("build_sweep", args, [], None)
        for option in (option for each in layers for option in each.options if option.startswith(_UPPER)):
            with opened(option.removeprefix(_UPPER)) as fd:
                self._run("build_trim", {"around": stubs.around}, [fd], None)

    def have_directory(self, layers: Sequence[RootfsMount], path: str) -> None:
        """Have a directory, made with its parents where it is missing."""
        self._run("build_directory", {"layers": tables(layers), "path": path}, [], None)

    def owner(self, layers: Sequence[RootfsMount], name: str, what: str) -> str:
        """`uid:gid` of a `name[:group]`."""
        found = self._run("build_owner", {"layers": tables(layers), "owner": name, "what": what}, [], None)
        return f"{found['uid']}:{found['gid']}"

    def put(self, layers: Sequence[RootfsMount], where: Placement, feeder: Feeder, cancel: CancelToken) -> None:
        """Put the files of a tar stream into a root file system. An error of the feeder is raised as it is."""
        args = {"layers": tables(layers), **vars(where)}
        with ExitStack() as stack:
            pool = stack.enter_context(ThreadPoolExecutor(1, "moorage-build-put"))
            reader, writer = os.pipe2(os.O_CLOEXEC)
            task = pool.submit(self._with_end, "build_put", args, reader, cancel)
            with open(writer, "wb", buffering=0) as pipe:
                fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
                # A task that has ended before says why itself.
                with suppress(BrokenPipeError):
                    feeder(pipe)
            task.result()

    def look(self, layers: Sequence[RootfsMount], sources: Sources, what: str) -> tuple[int, int]:
        """How many files and directories are named. Raises InvalidArgument when a pattern names nothing."""
        found = self._run("build_look", {"layers": tables(layers), "what": what, **vars(sources)}, [], None)
        return int(found["files"]), int(found["directories"])

    def take(self, layers: Sequence[RootfsMount], sources: Sources, what: str, sink: Sink, cancel: CancelToken) -> None:
        """Pack what is named into `sink`."""
        args = {"layers": tables(layers), "what": what, **vars(sources)}
        with ExitStack() as stack:
            pool = stack.enter_context(ThreadPoolExecutor(1, "moorage-build-take"))
            reader, writer = os.pipe2(os.O_CLOEXEC)
            task = pool.submit(self._with_end, "build_take", args, writer, cancel)
            with open(reader, "rb", buffering=0) as pipe:
                fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
                while data := pipe.read(CHUNK):
                    cancel.check()
                    sink.write(data)
            task.result()

    def remove(self, directory: Path) -> None:
        """Delete a directory that containers have written to."""
        with opened(str(directory)) as fd:
            self._run("remove_tree", {}, [fd], None)
        directory.rmdir()

    def _with_end(self, name: str, args: dict[str, Any], fd: int, cancel: CancelToken) -> dict[str, Any]:
        """Run a task at one end of a pipe, which is closed with it: so the other end is not left waiting."""
        try:
            return self._run(name, args, [fd], cancel)
        finally:
            os.close(fd)


def tables(layers: Sequence[RootfsMount]) -> list[dict[str, Any]]:
    """Mounts as the tasks take them."""
    return [{"type": each.type, "source": each.source, "options": list(each.options)} for each in layers]


def copied(source: BinaryIO, cancel: CancelToken) -> Feeder:
    """A feeder that hands on a stream as it is."""

    def feed(pipe: RawIOBase) -> None:
        while data := source.read(CHUNK):
            cancel.check()
            view = memoryview(data)
            while view:
                view = view[pipe.write(view) :]

    return feed
