"""The typed arguments of the jobs on the image store, by verb. See `commands.py`."""

from __future__ import annotations

from dataclasses import dataclass

from moorage.server.engine.job import Command
from moorage.server.model import Image


@dataclass(frozen=True)
class Commit(Command[Image]):
    """Make an image of what a container has changed.

    `reference` names it, empty for no name; `changes` are lines as in a Dockerfile that change its config; `pause` holds the container
    still while its files are copied. `compression` is gzip, zstd or none.
    """

    container: str
    reference: str = ""
    author: str = ""
    message: str = ""
    changes: tuple[str, ...] = ()
    pause: bool = True
    compression: str = "gzip"


@dataclass(frozen=True)
class Tag(Command[Image]):
    """Give an image one more name."""

    source: str
    target: str


@dataclass(frozen=True)
class HistoryEntry:
    """One step of how an image was made. `diff_id` and `size` are of its layer, empty and 0 for a step without one."""

    created_ns: int = 0
    created_by: str = ""
    author: str = ""
    comment: str = ""
    diff_id: str = ""
    size: int = 0


@dataclass(frozen=True)
class History(Command[list[HistoryEntry]]):
    """How an image was made, the last step first."""

    reference: str
