"""What a build tells while it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from moorage.server.builder.agents import AgentData
from moorage.server.model import Image


@dataclass(frozen=True)
class StepBegun:
    """A step begins. `name` is `[build 2/7] RUN make`; `id` counts within the build."""

    id: int
    name: str
    stage: str


@dataclass(frozen=True)
class StepEnded:
    """A step has ended, by itself or (with `error`) not; `cached` when its result was there. `seconds` since it began."""

    id: int
    seconds: float
    cached: bool = False
    error: str = ""


@dataclass(frozen=True)
class StepOutput:
    """What a step's command wrote, or (`status`) how far it is."""

    id: int
    stream: Literal["stdout", "stderr", "status"]
    data: bytes


@dataclass(frozen=True)
class Wanted:
    """Contents of context files that are to be sent; with `last` there are no more."""

    digests: tuple[str, ...]
    last: bool = True


@dataclass(frozen=True)
class Warned:
    """Something to know that is no error."""

    message: str


@dataclass(frozen=True)
class Files:
    """The next bytes of a tar of the target's files."""

    data: bytes


@dataclass(frozen=True)
class Built:
    """The image; the last of all."""

    image: Image


BuildEvent = StepBegun | StepEnded | StepOutput | Wanted | Warned | AgentData | Files | Built
