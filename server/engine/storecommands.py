"""The typed arguments of the jobs on the image store, by verb. See `commands.py`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Literal

from moorage.server.engine.job import Command, StreamCommand
from moorage.server.graph.fsck import Finding
from moorage.server.graph.usage import Item as Item
from moorage.server.graph.usage import Usage
from moorage.server.model import Image, Platform


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


@dataclass(frozen=True)
class Pruned:
    """What went: names, IDs of images and chain IDs of layers, bytes."""

    untagged: tuple[str, ...]
    deleted: tuple[str, ...]
    reclaimed: int


@dataclass(frozen=True)
class PruneImages(Command[Pruned]):
    """Delete images that no container holds: those without tag, or `all`; made before `until_ns` (0: any) and with these labels."""

    all: bool = False
    labels: dict[str, str] = field(default_factory=dict)
    until_ns: int = 0


@dataclass(frozen=True)
class DiskReport:
    """What takes space; how many images there are, how many of them containers hold, and the bytes that only the others hold."""

    usage: Usage
    images: int
    images_in_use: int
    reclaimable: int


@dataclass(frozen=True)
class Measure(Command[DiskReport]):
    """What the daemon's root directory takes on the disk."""


@dataclass(frozen=True)
class Viz(Command[str]):
    """The GraphDB as a graph in the dot language."""


# --- archives ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Save(StreamCommand[bytes]):
    """Images as one archive: `oci`, a layout that Docker reads too, or `docker`, the older form; with `all_platforms` their indexes."""

    references: tuple[str, ...]
    format: Literal["oci", "docker"] = "oci"
    all_platforms: bool = False


@dataclass(frozen=True)
class LoadStep:
    """One step of a load or an import: `receiving` with the bytes so far, `unpacking` a layer of that size, `done` with the image."""

    stage: Literal["receiving", "unpacking", "done"]
    digest: str = ""
    current: int = 0
    image: Image | None = None
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Load(StreamCommand[LoadStep]):
    """Images out of an archive."""

    data: AsyncIterator[bytes]


@dataclass(frozen=True)
class Import(StreamCommand[LoadStep]):
    """An image out of the tar of a root file system. See `Commit` for `changes`."""

    data: AsyncIterator[bytes]
    reference: str = ""
    message: str = ""
    changes: tuple[str, ...] = ()
    platform: Platform | None = None


@dataclass(frozen=True)
class Export(StreamCommand[bytes]):
    """A container's root file system as a tar; `pause` holds it still meanwhile."""

    container: str
    pause: bool = False


# --- fsck -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CheckStep:
    """One step of a check: `progress` with the bytes read, a `finding` with what was done about it, `done` with the sum."""

    kind: Literal["progress", "finding", "done"]
    bytes: int = 0
    finding: Finding | None = None
    outcome: str = ""
    repaired: bool = False
    blobs: int = 0
    layers: int = 0
    images: int = 0
    compared: int = 0
    problems: int = 0
    left: int = 0


@dataclass(frozen=True)
class CheckStore(StreamCommand[CheckStep]):
    """Check the image store, with `files` every file of its layers, too; with `repair`, mend what can be."""

    repair: bool = False
    files: bool = False
