"""What a pull reads in an image's config (OCI image spec, config.md): its platform, and the layers' identities."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import msgspec

from moorage.server.errors import Unimplemented
from moorage.server.model import Platform
from moorage.server.registry.blob import wrong_content
from moorage.server.registry.manifest import Descriptor, Manifest, not_for, suits
from moorage.server.registry.problems import Subject, shown
from moorage.server.registry.reference import is_digest


@dataclass(frozen=True)
class LayerPlan:
    """A layer to have: its blob, and who it is once unpacked. `parent` is the chain ID below, empty at the base."""

    blob: Descriptor
    diff_id: str
    chain_id: str
    parent: str


class _RootFS(msgspec.Struct):
    type: str = ""
    diff_ids: list[str] = []


class _Config(msgspec.Struct):
    os: str = ""
    architecture: str = ""
    variant: str = ""
    rootfs: _RootFS = msgspec.field(default_factory=_RootFS)


def plan_layers(manifest: Manifest, config: bytes, wanted: Platform | None, subject: Subject) -> tuple[LayerPlan, ...]:
    """The layers from the base up. Raises DataLoss for a config that does not fit the manifest, NotFound for another platform than the one
    wanted (None for any)."""
    for digest in (manifest.digest, manifest.config.digest, *(blob.digest for blob in manifest.layers)):
        if not digest.startswith("sha256:"):
            message = f"{subject}: its content is named by {digest.partition(':')[0]}, where only sha256 is kept"
            raise Unimplemented(message, reason="DIGEST_ALGORITHM", **subject.metadata())
    try:
        document = msgspec.json.decode(config, type=_Config)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise wrong_content(subject, f"its config is malformed: {shown(str(error))[1:-1]}") from None
    offered = Platform(document.os, document.architecture, document.variant)
    if wanted and offered.os and offered.architecture and not suits(offered, wanted):
        raise not_for(subject, wanted, [offered])
    diff_ids = document.rootfs.diff_ids
    if len(diff_ids) != len(manifest.layers):
        raise wrong_content(subject, f"its config lists {len(diff_ids)} layers, its manifest {len(manifest.layers)}")
    return tuple(_chain(manifest, diff_ids, subject))


def _chain(manifest: Manifest, diff_ids: list[str], subject: Subject) -> list[LayerPlan]:
    plans: list[LayerPlan] = []
    parent = ""
    sizes: dict[str, int] = {}
    for blob, diff_id in zip(manifest.layers, diff_ids, strict=True):
        if not (is_digest(diff_id) and diff_id.startswith("sha256:")):
            raise wrong_content(subject, f"the diff ID {shown(diff_id)} in its config is malformed")
        if sizes.setdefault(blob.digest, blob.size) != blob.size:
            raise wrong_content(subject, f"its manifest gives layer {blob.digest} two sizes")
        chain_id = chain_of(parent, diff_id)
        plans.append(LayerPlan(blob, diff_id, chain_id, parent))
        parent = chain_id
    return plans


def chain_of(parent: str, diff_id: str) -> str:
    """The ChainID of a layer on top of `parent` (OCI image spec, config.md, "Layer ChainID")."""
    return f"sha256:{hashlib.sha256(f'{parent} {diff_id}'.encode()).hexdigest()}" if parent else diff_id
