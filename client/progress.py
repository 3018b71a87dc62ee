"""The progress of pulls and pushes on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from moorage.client import format
from moorage.client.console import tell
from moorage.client.jsonout import enum_word

if TYPE_CHECKING:
    from moorage.v1 import image_pb2, registry_pb2

    Step = image_pb2.PullImageResponse | image_pb2.PushImageResponse | registry_pb2.PutBlobResponse

Show = Callable[["Step"], None]


@contextmanager
def progress(quiet: bool) -> Iterator[Show]:
    """Shows steps on stderr: bars on a terminal, a line a stage otherwise, nothing when `quiet`."""
    if quiet:
        yield lambda step: None
    elif sys.stderr.isatty():
        with _bars() as show:
            yield show
    else:
        yield _lines()


def _word(step: Step) -> str:
    """The stage's name, of a pull or of a push."""
    from moorage.v1 import image_pb2

    stages = image_pb2.PullStage if isinstance(step, image_pb2.PullImageResponse) else image_pb2.PushStage
    return enum_word(stages.DESCRIPTOR, step.stage)


def _lines() -> Show:
    """A line whenever an item comes to a new stage."""
    stages: dict[str, int] = {}

    def show(step: Step) -> None:
        if stages.get(step.digest) == step.stage or not step.stage:
            return
        stages[step.digest] = step.stage
        size = f" {format.size(step.total_bytes)}" if step.total_bytes else ""
        tell(f"{format.short_id(step.digest) or 'image'}: {_word(step)}{size}")

    return show


@contextmanager
def _bars() -> Iterator[Show]:
    """A bar an item: its digest, stage, and bytes of total."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn

    columns = (TextColumn("{task.description}"), TextColumn("{task.fields[stage]:<11}"), BarColumn(), DownloadColumn())
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=Console(stderr=True, highlight=False)) as bars:

        def show(step: Step) -> None:
            if not step.digest or not step.stage:
                return
            if step.digest not in tasks:
                tasks[step.digest] = bars.add_task(format.short_id(step.digest), stage="", total=None)
            total = step.total_bytes or None
            stage = _word(step)
            ended = stage in ("done", "exists", "mounted") and total is not None
            bars.update(tasks[step.digest], stage=stage, total=total, completed=total if ended else step.current_bytes)

        yield show
