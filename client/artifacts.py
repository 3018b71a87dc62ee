"""Artifacts made of local files: OCI manifests of version 1.1 whose layers are files (image spec, manifest.md)."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

TITLE = "org.opencontainers.image.title"
"""Annotation of a blob: the name of its file (OCI image spec, annotations.md)."""
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
UNKNOWN = "application/vnd.unknown.artifact.v1"
"""Artifact type of what is given none, as oras and podman have it."""
FILE = "application/octet-stream"
EMPTY = b"{}"
"""The config of an artifact that has none (OCI image spec, "Guidance for an Empty Descriptor")."""

_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][\w!#$&^.+-]{0,126}/[A-Za-z0-9][\w!#$&^.+-]{0,126}", re.ASCII)
"""RFC 6838, section 4.2."""


@dataclass(frozen=True)
class Part:
    """A file of an artifact: where it is, the name it has there, its media type."""

    path: Path
    title: str
    media_type: str


def media_type(text: str) -> str:
    """`type/subtype`. Raises ValueError."""
    if not _MEDIA_TYPE.fullmatch(text):
        raise ValueError(f"{text!r} is no media type: want type/subtype, like text/plain")
    return text


def part(text: str) -> Part:
    """`FILE` or `FILE:TYPE`. Its name in the artifact is FILE as given; of one outside the present directory the last part.

    Raises ValueError for what is not a file that can be read, and for a bad media type.
    """
    name, colon, kind = text.rpartition(":")
    if not colon or os.path.lexists(text):
        name, kind = text, FILE
    try:
        mode = os.stat(name).st_mode
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"cannot read {name!r}: {cause.lower()}") from None
    if stat.S_ISDIR(mode):
        raise ValueError(f"{name!r} is a directory: name the files in it, or make an archive of it first")
    if not stat.S_ISREG(mode):
        raise ValueError(f"{name!r} is not a regular file")
    path = Path(name)
    title = path.name if path.is_absolute() or ".." in path.parts else path.as_posix()
    return Part(path, title, media_type(kind))


def parts(texts: Sequence[str]) -> list[Part]:
    """Several files. Raises ValueError, also for two of one name: one would replace the other when they are fetched."""
    found = [part(text) for text in texts]
    titles = [each.title for each in found]
    twice = next((title for title in titles if titles.count(title) > 1), None)
    if twice is not None:
        raise ValueError(f"two files would have the name {twice!r}")
    return found


def descriptor(file: BinaryIO, media_type: str) -> dict[str, Any]:
    """What a manifest says of a file, from its beginning to its end."""
    digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # a file that is open for reading will do
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": file.seek(0, os.SEEK_END)}


def manifest(
    layers: Sequence[Mapping[str, Any]],
    artifact_type: str,
    annotations: Mapping[str, str],
    subject: Mapping[str, Any] | None = None,
) -> bytes:
    """The artifact's manifest. The same parts give the same bytes."""
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": artifact_type,
        "config": {**empty(), "data": "e30="},
        "layers": list(layers),
    }
    if subject:
        document["subject"] = subject
    if annotations:
        document["annotations"] = dict(annotations)
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def empty() -> dict[str, Any]:
    """The descriptor of EMPTY."""
    return descriptor(io.BytesIO(EMPTY), "application/vnd.oci.empty.v1+json")
