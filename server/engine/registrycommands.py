"""The typed arguments of the jobs that talk to registries, by verb. See `commands.py`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

from moorage.server.engine.job import Command, StreamCommand
from moorage.server.model import ImageIndex
from moorage.server.registry import reference as references
from moorage.server.registry.credentials import RegistryAuth
from moorage.server.registry.discover import Found, Page, Referrer
from moorage.server.registry.push import Pushed as Pushed


@dataclass(frozen=True)
class PushStep:
    """One step of a push; `pushed` in the last one only. `stage` as the lower-case end of moorage.v1.PushStage."""

    digest: str = ""
    stage: str = ""
    current: int = 0
    total: int = 0
    pushed: Pushed | None = None


@dataclass(frozen=True)
class Given:
    """Credentials of a call. `registry` is the one they are for, empty for that of the call's reference."""

    auth: RegistryAuth
    registry: str = ""


@dataclass(frozen=True)
class Push(StreamCommand[PushStep]):
    """Send an image, or with `all_platforms` the index it was pulled by, to a registry, under `destination` or its own name."""

    reference: str
    destination: str = ""
    given: Given | None = None
    all_platforms: bool = False


@dataclass(frozen=True)
class Authenticate(Command[bool]):
    """Try credentials; answers whether the registry asked for any."""

    registry: str
    given: Given | None = None


@dataclass(frozen=True)
class Search(Command[list[Found]]):
    """Find repositories."""

    term: str
    limit: int = 25
    official: bool = False
    min_stars: int = 0
    given: Given | None = None


@dataclass(frozen=True)
class ListTags(Command[Page]):
    """A page of a repository's tags; `query` is the page before's `next`."""

    repository: str
    size: int = 1000
    query: str = ""
    given: Given | None = None


@dataclass(frozen=True)
class ListRepositories(Command[Page]):
    """A page of a registry's catalogue; `query` is the page before's `next`."""

    registry: str
    size: int = 1000
    query: str = ""
    given: Given | None = None


@dataclass(frozen=True)
class ListReferrers(Command[tuple[str, list[Referrer]]]):
    """What refers to a manifest, whose digest comes first in the answer."""

    reference: str
    artifact_type: str = ""
    given: Given | None = None


@dataclass(frozen=True)
class DeleteManifest(Command[str]):
    """Delete a tag or manifest from its registry; answers its digest."""

    reference: str
    given: Given | None = None


@dataclass(frozen=True)
class RawManifest:
    """A document as it is; `local` when it is an index that is kept here."""

    raw: bytes
    digest: str
    media_type: str
    local: bool = False


@dataclass(frozen=True)
class GetManifest(Command[RawManifest]):
    """The manifest or index of a name."""

    reference: str
    given: Given | None = None


@dataclass(frozen=True)
class CreateIndex(Command[ImageIndex]):
    """Make an index of images here and in registries."""

    name: str
    images: tuple[str, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)
    given: Given | None = None


@dataclass(frozen=True)
class ListIndexes(Command[list[ImageIndex]]):
    """The indexes that were made here."""


@dataclass(frozen=True)
class RemoveIndex(Command[None]):
    """Delete an index that was made here."""

    name: str


@dataclass(frozen=True)
class PushIndex(StreamCommand[PushStep]):
    """Send an index and its images to a registry, under `destination` or its own name."""

    name: str
    destination: str = ""
    given: Given | None = None


@dataclass(frozen=True)
class CopyManifest(StreamCommand[PushStep]):
    """Copy what a name means in its registry to another name, with what refers to it or without."""

    source: str
    destination: str
    referrers: bool = False
    given: Given | None = None
    source_given: Given | None = None


@dataclass(frozen=True)
class GetBlob(StreamCommand[bytes]):
    """The bytes of a blob that a manifest lists."""

    reference: str
    digest: str
    size: int
    given: Given | None = None


@dataclass(frozen=True)
class PutStep:
    """One step of sending a blob, or the question for its bytes from `send_from` on. `stage` as in `PushStep`."""

    stage: str = ""
    current: int = 0
    send_from: int | None = None


@dataclass(frozen=True)
class PutBlob(StreamCommand[PutStep]):
    """Send a blob. `data` are offsets with the bytes there; see `piping.Asked`."""

    data: AsyncIterator[tuple[int, bytes]]
    reference: str
    digest: str
    size: int
    given: Given | None = None


@dataclass(frozen=True)
class PutManifest(Command[Pushed]):
    """Send a manifest or index whose parts are there."""

    reference: str
    raw: bytes
    media_type: str = ""
    given: Given | None = None


def for_registry(given: Given | None, domain: str) -> RegistryAuth | None:
    """The credentials of a call, if they are for the registry it turned out to be about."""
    if given is None or (given.registry and references.canonical_domain(given.registry) != domain):
        return None
    return given.auth or None
