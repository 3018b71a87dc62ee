"""Manifests and indexes, OCI and Docker: read strictly, and a platform chosen.

A document must be one thing only. What could be read both as an index and as a manifest, or whose type is not the one it was
served or listed under, is refused: two readers of it would run different images (CVE-2021-41190).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from moorage.server.errors import MoorageError, NotFound, ResourceExhausted, Unimplemented
from moorage.server.model import Platform
from moorage.server.registry.blob import wrong_content
from moorage.server.registry.problems import Subject, excerpt, shown
from moorage.server.registry.reference import is_digest

T = TypeVar("T")

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
MANIFESTS = (OCI_MANIFEST, DOCKER_MANIFEST)
INDEXES = (OCI_INDEX, DOCKER_LIST)
CONFIGS = ("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json")
ACCEPT = ", ".join((OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST))

FOREIGN = ("nondistributable", "foreign")
"""In the media types of layers that say they are not to be handed on (OCI image spec, layer.md)."""
MAX_MANIFEST = 4 << 20
MAX_CONFIG = 4 << 20
MAX_LAYERS = 500
_SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1"
_UNTYPED = ("", "application/json", "application/octet-stream", "text/plain")
_LAYER_PREFIXES = ("application/vnd.oci.image.layer.", "application/vnd.docker.image.rootfs.")
_ALIASES = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "armhf": "arm", "i386": "386"}
_BASE_VARIANT = {"amd64": "v1", "arm64": "v8", "arm": "v7"}


@dataclass(frozen=True)
class Descriptor:
    """A content descriptor (OCI image spec, descriptor.md); digest and size checked for form."""

    media_type: str
    digest: str
    size: int
    platform: Platform | None = None


@dataclass(frozen=True)
class Manifest:
    """An image's manifest; `raw` is the document as it came, `digest` its digest."""

    digest: str
    media_type: str
    raw: bytes
    config: Descriptor
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True)
class Index:
    """An index (or manifest list); `raw` is the document as it came, `digest` its digest."""

    digest: str
    media_type: str
    raw: bytes
    manifests: tuple[Descriptor, ...]


@dataclass(frozen=True)
class Listing:
    """What a document of a registry lists, be it an image, an index or an artifact: blobs and other documents. `subject` is the digest of
    the manifest that it refers to, empty for none."""

    media_type: str
    artifact_type: str
    blobs: tuple[Descriptor, ...]
    manifests: tuple[Descriptor, ...]
    subject: str
    annotations: Mapping[str, str]


class _Platform(msgspec.Struct):
    os: str = ""
    architecture: str = ""
    variant: str = ""


class _Descriptor(msgspec.Struct):
    digest: str
    size: int
    media_type: str = msgspec.field(name="mediaType", default="")
    platform: _Platform | None = None


class _Document(msgspec.Struct):
    schema_version: int = msgspec.field(name="schemaVersion", default=0)
    media_type: str = msgspec.field(name="mediaType", default="")
    config: _Descriptor | None = None
    layers: list[_Descriptor] | None = None
    manifests: list[_Descriptor] | None = None
    fs_layers: list[msgspec.Raw] | None = msgspec.field(name="fsLayers", default=None)
    artifact_type: str = msgspec.field(name="artifactType", default="")
    subject: _Descriptor | None = None
    annotations: dict[str, str] | None = None


def digest_of(data: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def read(raw: bytes, content_type: str, subject: Subject, *, digest: str = "", listed_as: str = "") -> Manifest | Index:
    """Decode a document. `digest` and `listed_as` are the digest and media type it was asked by, where known."""
    actual = digest_of(raw, digest.partition(":")[0] or "sha256")
    if digest and actual != digest:
        raise wrong_content(subject, f"what came has the digest {actual}, not {digest}")
    served = content_type.partition(";")[0].strip().lower()
    document = _decode(raw, served, subject)
    media_type = _media_type(document, served, listed_as, subject)
    if media_type in INDEXES:
        entries = tuple(_descriptor(entry, "manifests", subject) for entry in document.manifests or ())
        return Index(actual, media_type, raw, entries)
    return _manifest(document, actual, media_type, raw, subject)


def listing(raw: bytes, content_type: str, subject: Subject) -> Listing:
    """What a document lists, whatever it is of: for who hands it on as it is."""
    served = content_type.partition(";")[0].strip().lower()
    document = _decode(raw, served, subject)
    if document.schema_version == 1 or document.fs_layers is not None:
        raise _schema_1(subject)
    config = [document.config] if document.config else []
    blobs = [_descriptor(entry, "blobs", subject) for entry in (*config, *(document.layers or ()))]
    manifests = [_descriptor(entry, "manifests", subject) for entry in document.manifests or ()]
    if len(blobs) + len(manifests) > MAX_LAYERS:
        raise _too_large(subject, f"it lists {len(blobs) + len(manifests)} parts, more than {MAX_LAYERS}")
    return Listing(
        document.media_type
        or ("" if served in _UNTYPED else served)
        or (OCI_INDEX if document.manifests else OCI_MANIFEST),
        document.artifact_type or (document.config.media_type if document.config else ""),
        tuple(blobs),
        tuple(manifests),
        _descriptor(document.subject, "subject", subject).digest if document.subject else "",
        document.annotations or {},
    )


def choose(index: Index, wanted: Platform) -> Descriptor | None:
    """The entry that suits `wanted` best: the closest variant it can run, or an entry that names no platform; None for none."""
    ranked = [(rank, i) for i, entry in enumerate(index.manifests) if (rank := _rank(entry, wanted)) is not None]
    return index.manifests[min(ranked)[1]] if ranked else None


def not_for(subject: Subject, wanted: Platform, offered: Sequence[Platform]) -> NotFound:
    """The error for an image that does not exist for the platform wanted."""
    names = ", ".join(sorted({platform_name(entry) for entry in offered})) or "none"
    message = f"{subject}: there is none for {platform_name(wanted)}, only for {shown(names)[1:-1]}"
    return NotFound(message, reason="PLATFORM_NOT_FOUND", hint="ask for one of these platforms", **subject.metadata())


def suits(offered: Platform, wanted: Platform) -> bool:
    """Whether an image for `offered` runs on `wanted`."""
    return _distance(offered, wanted) is not None


def platform_name(platform: Platform) -> str:
    """`linux/arm/v7`."""
    return "/".join(part for part in (platform.os, platform.architecture, platform.variant) if part)


def check_object(raw: bytes, subject: Subject) -> None:
    """Raise DataLoss for what is no JSON object, and so no manifest of any kind."""
    _json(raw, dict[str, msgspec.Raw], subject)


def _decode(raw: bytes, served: str, subject: Subject) -> _Document:
    if served.startswith(_SCHEMA_1):
        raise _schema_1(subject)
    return _json(raw, _Document, subject)


def _json(raw: bytes, kind: type[T], subject: Subject) -> T:
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.MsgspecError, RecursionError) as error:
        why = f"what came is not a manifest ({shown(str(error))[1:-1]}): {excerpt(raw)}"
        raise wrong_content(subject, why) from None


def _media_type(document: _Document, served: str, listed_as: str, subject: Subject) -> str:
    """The one media type on which header, document, listing and structure agree."""
    if document.schema_version == 1 or document.fs_layers is not None:
        raise _schema_1(subject)
    if document.schema_version != 2:
        raise wrong_content(subject, f"its schemaVersion is {document.schema_version}, not 2")
    is_image = document.config is not None or document.layers is not None
    if is_image == (document.manifests is not None):
        both = "is both an index and a manifest" if is_image else "is neither an index nor a manifest"
        raise wrong_content(subject, f"what came {both}")
    named = {name for name in (document.media_type, listed_as) if name} | ({served} - set(_UNTYPED))
    if len(named) > 1:
        raise wrong_content(subject, f"its media type is ambiguous: {shown(', '.join(sorted(named)))}")
    media_type = named.pop() if named else (OCI_MANIFEST if is_image else OCI_INDEX)
    if media_type not in (MANIFESTS if is_image else INDEXES):
        what = "an image's manifest" if is_image else "an index"
        raise wrong_content(subject, f"what came is {what}, but called {shown(media_type)}")
    return media_type


def _manifest(document: _Document, digest: str, media_type: str, raw: bytes, subject: Subject) -> Manifest:
    if document.config is None or document.layers is None:
        raise wrong_content(subject, f"the manifest has no {'layers' if document.config else 'config'}")
    config = _descriptor(document.config, "config", subject)
    if config.media_type not in CONFIGS:
        kind = document.artifact_type or config.media_type
        raise _no_image(subject, f"it is no container image, but an artifact of type {shown(kind)}")
    if config.size > MAX_CONFIG:
        raise _too_large(subject, f"its config says {config.size} bytes, more than {MAX_CONFIG}")
    if len(document.layers) > MAX_LAYERS:
        raise _too_large(subject, f"it has {len(document.layers)} layers, more than {MAX_LAYERS}")
    layers = tuple(_descriptor(entry, f"layers[{i}]", subject) for i, entry in enumerate(document.layers))
    for layer in layers:
        if not layer.media_type.startswith(_LAYER_PREFIXES):
            kind = document.artifact_type or layer.media_type
            why = f"an artifact of type {shown(kind)}: its layer {layer.digest} is no file system, but {shown(layer.media_type)}"
            raise _no_image(subject, f"it is no container image, but {why}")
    return Manifest(digest, media_type, raw, config, layers)


def _descriptor(entry: _Descriptor, where: str, subject: Subject) -> Descriptor:
    if not is_digest(entry.digest):
        raise wrong_content(subject, f"the digest {shown(entry.digest)} in its {where} is malformed")
    if not 0 <= entry.size < 1 << 62:
        raise wrong_content(subject, f"the size {entry.size} in its {where} is impossible")
    found = entry.platform
    platform = Platform(found.os, found.architecture, found.variant) if found else None
    return Descriptor(entry.media_type, entry.digest, entry.size, platform)


def _rank(entry: Descriptor, wanted: Platform) -> int | None:
    if entry.media_type not in (*MANIFESTS, *INDEXES):
        return None
    if entry.platform is None or not entry.platform.architecture:
        return 1000
    return _distance(entry.platform, wanted)


def _distance(offered: Platform, wanted: Platform) -> int | None:
    """How many variants `offered` is behind `wanted`; None when it does not run there."""
    architecture = _ALIASES.get(wanted.architecture, wanted.architecture)
    if (offered.os, _ALIASES.get(offered.architecture, offered.architecture)) != (wanted.os, architecture):
        return None
    have = offered.variant or _BASE_VARIANT.get(architecture, "")
    want = wanted.variant or _BASE_VARIANT.get(architecture, "")
    if have == want:
        return 0
    if not (have[1:].isdigit() and want[1:].isdigit() and len(have) == len(want) == 2):
        return None
    behind = int(want[1:]) - int(have[1:])
    return behind if behind > 0 else None


def _schema_1(subject: Subject) -> Unimplemented:
    message = f"{subject}: it is a Docker image manifest of schema 1, a format given up because it cannot be verified"
    hint = "push the image again with a current tool"
    return Unimplemented(message, reason="SCHEMA_1", hint=hint, **subject.metadata())


def _no_image(subject: Subject, why: str) -> Unimplemented:
    hint = "`moorage artifact pull` fetches its files, and `moorage registry cp` copies it to another repository"
    return Unimplemented(f"{subject}: {why}", reason="NOT_AN_IMAGE", hint=hint, **subject.metadata())


def _too_large(subject: Subject, why: str) -> MoorageError:
    return ResourceExhausted(f"{subject}: {why}", reason="IMAGE_TOO_LARGE", **subject.metadata())
