"""The typed arguments of the jobs on images, by verb. See `commands.py`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from moorage.server.engine.job import Command, StreamCommand
from moorage.server.model import Image, Platform
from moorage.server.registry.credentials import RegistryAuth


@dataclass(frozen=True)
class Progress:
    """One step of a pull; `image` in the last one only. `stage` as the lower-case end of moorage.v1.PullStage."""

    digest: str = ""
    stage: str = ""
    current: int = 0
    total: int = 0
    image: Image | None = None


@dataclass(frozen=True)
class Pull(StreamCommand[Progress]):
    """Bring an image from its registry."""

    reference: str
    platform: Platform | None = None
    auth: RegistryAuth | None = None
    auth_registry: str = ""
    """The registry that `auth` is for; empty for that of `reference`."""
    policy: Literal["always", "missing", "never"] = "always"


@dataclass(frozen=True)
class ListImages(Command[list[Image]]):
    """Images, newest first; all conditions must hold. See `imagefilter.py`. With `narrow` each has those names only that were asked for."""

    reference: str = ""
    dangling: bool | None = None
    labels: dict[str, str] = field(default_factory=dict)
    before: str = ""
    since: str = ""
    patterns: tuple[str, ...] = ()
    narrow: bool = False


@dataclass(frozen=True)
class InspectImage(Command[Image]):
    """One image."""

    reference: str


@dataclass(frozen=True)
class RemovedImage:
    """What went with an image."""

    untagged: tuple[str, ...]
    deleted: tuple[str, ...]
    reclaimed: int


@dataclass(frozen=True)
class RemoveImage(Command[RemovedImage]):
    """Delete a tag or an image. With `force` names go even while containers hold it, and the image with the last of those; with `forget`
    all names do."""

    reference: str
    forget: bool = False
    force: bool = False


@dataclass(frozen=True)
class ImageUsers(Command[list[str]]):
    """Names of the containers made from an image (full ID)."""

    image_id: str
