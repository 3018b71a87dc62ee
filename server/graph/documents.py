"""The documents of an image made or kept here: its config and its manifests (OCI image spec, config.md and manifest.md)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec

from moorage.server.errors import DataLoss
from moorage.server.model import LayerBlob

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
MAX_DOCUMENT = 4 << 20


class _Descriptor(msgspec.Struct):
    digest: str
    size: int
    media_type: str = msgspec.field(name="mediaType", default="")


class _Manifest(msgspec.Struct):
    layers: list[_Descriptor]
    media_type: str = msgspec.field(name="mediaType", default=MANIFEST_TYPE)


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def encode(document: dict[str, Any]) -> bytes:
    """A document as bytes, in the order of its members; `created` and the like are the caller's to make reproducible."""
    return msgspec.json.encode(document)


def encode_list(entries: Sequence[dict[str, Any]]) -> bytes:
    """A list of documents as bytes."""
    return msgspec.json.encode(entries)


def decode(config: bytes) -> dict[str, Any]:
    """A config whole, with what we know nothing of. Raises DataLoss for what is no JSON object."""
    try:
        document: dict[str, Any] = msgspec.json.decode(config, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise DataLoss(f"image config is damaged: {error}") from None
    return document


def make_manifest(config: bytes, blobs: Sequence[LayerBlob]) -> bytes:
    """The manifest of an image with these layers, from the base up."""
    return encode(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": {"mediaType": CONFIG_TYPE, "digest": digest_of(config), "size": len(config)},
            "layers": [{"mediaType": each.media_type, "digest": each.digest, "size": each.size} for each in blobs],
        }
    )


def layer_blobs(manifest: bytes, diff_ids: Sequence[str]) -> tuple[LayerBlob, ...] | None:
    """The blobs that a manifest lists, with the layers they are; None when it is no manifest of an image with these layers."""
    try:
        layers = msgspec.json.decode(manifest, type=_Manifest).layers
    except (msgspec.MsgspecError, RecursionError):
        return None
    if len(layers) != len(diff_ids):
        return None
    return tuple(
        LayerBlob(each.digest, each.media_type, each.size, diff_id)
        for each, diff_id in zip(layers, diff_ids, strict=True)
    )


def layer_digests(manifest: bytes) -> list[str] | None:
    """The digests of the layers that a manifest lists; None when it is no image's manifest."""
    try:
        return [layer.digest for layer in msgspec.json.decode(manifest, type=_Manifest).layers]
    except (msgspec.MsgspecError, RecursionError):
        return None


def media_type_of(manifest: bytes) -> str:
    """A manifest's media type."""
    return msgspec.json.decode(manifest, type=_Manifest).media_type
