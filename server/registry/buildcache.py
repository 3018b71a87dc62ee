"""A build cache in a registry: what the steps of builds made, by their keys, and the layers themselves.

The manifest is an artifact of its own (OCI image spec, manifest.md, "Guidelines for Artifact Usage"): its config is the list of steps, its
layers are the layers that they made, each once. A step says which chain it is on top of, so that a layer is fetched and unpacked only when
a build comes to its step.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from moorage.server.cancel import CancelToken
from moorage.server.errors import FailedPrecondition, ResourceExhausted
from moorage.server.model import LayerBlob
from moorage.server.registry.blob import wrong_content
from moorage.server.registry.client import Client, Repository
from moorage.server.registry.imageconfig import LayerPlan, chain_of
from moorage.server.registry.layers import LayerWork, Shared, child_of
from moorage.server.registry.manifest import MAX_CONFIG, MAX_LAYERS, OCI_MANIFEST, Descriptor, Manifest, digest_of
from moorage.server.registry.progress import PullProgress, PushProgress, PushStage, Reporter
from moorage.server.registry.push import Transfer
from moorage.server.registry.reference import Reference, is_digest
from moorage.server.registry.signatures import Signatures

CONFIG = "application/vnd.moorage.buildcache.config.v1+json"
ARTIFACT = "application/vnd.moorage.buildcache.v1"


@dataclass(frozen=True)
class CachedStep:
    """What a step made on top of the chain `parent` (empty for none): the layer `blob`, or nothing new."""

    key: str
    parent: str
    created_ns: int
    text: str
    blob: LayerBlob | None = None

    @property
    def chain_id(self) -> str:
        """The chain after the step."""
        return chain_of(self.parent, self.blob.diff_id) if self.blob else self.parent


class _Step(msgspec.Struct):
    key: str
    parent: str
    created_ns: int
    text: str = ""
    layer: str = ""
    diff_id: str = ""


class _Config(msgspec.Struct):
    steps: list[_Step] = []


class _Descriptor(msgspec.Struct):
    digest: str
    size: int
    media_type: str = msgspec.field(name="mediaType", default="")


class _Document(msgspec.Struct):
    config: _Descriptor | None = None
    layers: list[_Descriptor] = []


class RemoteCache:
    """A cache that was found in a registry. `steps` are known, their layers are fetched one by one."""

    def __init__(self, steps: dict[str, CachedStep], shared: Shared, repository: Repository) -> None:
        self.steps = steps
        self._shared = shared
        self._repository = repository

    def fetch(self, step: CachedStep, progress: Callable[[PullProgress], None], cancel: CancelToken) -> None:
        """Have a step's layer in the graph, on top of the chain it is for, which is there. Raises what a pull does. The caller holds a
        lease until something leads to the layer."""
        if step.blob is None:
            return
        blob = Descriptor(step.blob.media_type, step.blob.digest, step.blob.size)
        plan = LayerPlan(blob, step.blob.diff_id, step.chain_id, step.parent)
        with self._shared.graph.lease():
            LayerWork(self._shared, self._repository, Reporter(progress), (plan,), cancel).run()


class BuildCaches:
    """Thread-safe."""

    def __init__(self, shared: Shared, client: Client) -> None:
        self._shared, self._client = shared, client
        self._signatures = Signatures(client)

    def find(self, reference: Reference, cancel: CancelToken) -> RemoteCache | None:
        """The cache at a name; None when an image is there. Raises NotFound, PermissionDenied (the signature policy), DataLoss."""
        reference = reference.with_default_tag()
        repository = self._client.repository(reference, None, cancel)
        found = repository.get_document(reference.target)
        try:
            document = msgspec.json.decode(found.raw, type=_Document)
        except (msgspec.MsgspecError, RecursionError):
            return None
        config = document.config
        if config is None or config.media_type != CONFIG:
            return None
        self._signatures.check(reference, [found.digest], repository, None, cancel)
        if not is_digest(config.digest) or not 0 <= config.size <= MAX_CONFIG or len(document.layers) > MAX_LAYERS:
            raise wrong_content(repository.subject, "the manifest of the build cache is malformed, or too large")
        descriptor = Descriptor(config.media_type, config.digest, config.size)
        data = repository.get_config(Manifest(found.digest, found.media_type, found.raw, descriptor, ()))
        return RemoteCache(_steps(data, document.layers, repository), self._shared, repository)

    def export(
        self,
        reference: Reference,
        steps: Sequence[CachedStep],
        progress: Callable[[PushProgress], None],
        cancel: CancelToken,
    ) -> int:
        """Have a cache of these steps at a name; answers how many there were no layers of any more. Raises what a push does."""
        target = reference.with_default_tag()
        if target.digest:
            raise FailedPrecondition(f"cannot export a cache to {target}: a digest follows from what is pushed")
        report: Reporter[PushStage] = Reporter(progress)
        report("", PushStage.PREPARING)
        with self._shared.graph.lease(), child_of(cancel) as stop:
            transfer = Transfer(self._shared, self._client, target, None, report, stop)
            blobs = {step.blob.digest: step.blob for step in steps if step.blob is not None}
            if len(blobs) > MAX_LAYERS:
                raise ResourceExhausted(f"cannot export a cache to {target}: it has more than {MAX_LAYERS} layers")
            there = {digest: blob for digest, blob in blobs.items() if transfer.send_layer(_descriptor(blob))}
            kept = [step for step in steps if step.blob is None or step.blob.digest in there]
            config = json.dumps({"steps": [_told(step) for step in kept]}, separators=(",", ":")).encode()
            transfer.send_config(Descriptor(CONFIG, digest_of(config), len(config)), config)
            raw = _manifest(config, [_descriptor(blob) for blob in there.values()])
            transfer.put_manifest(raw, OCI_MANIFEST, digest_of(raw), target.target)
        report("", PushStage.DONE)
        return len(steps) - len(kept)


def _descriptor(blob: LayerBlob) -> Descriptor:
    return Descriptor(blob.media_type, blob.digest, blob.size)


def _told(step: CachedStep) -> dict[str, object]:
    layer = {"layer": step.blob.digest, "diff_id": step.blob.diff_id} if step.blob else {}
    return {"key": step.key, "parent": step.parent, "created_ns": step.created_ns, "text": step.text, **layer}


def _manifest(config: bytes, layers: Sequence[Descriptor]) -> bytes:
    listed = [Descriptor(CONFIG, digest_of(config), len(config)), *layers]
    described = [{"mediaType": each.media_type, "digest": each.digest, "size": each.size} for each in listed]
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": ARTIFACT,
        "config": described[0],
        "layers": described[1:],
    }
    return json.dumps(document, separators=(",", ":")).encode()


def _steps(data: bytes, layers: Sequence[_Descriptor], repository: Repository) -> dict[str, CachedStep]:
    """The steps that a config lists, by key; one whose digests are malformed, or whose layer is not listed, makes all of it worthless."""
    blobs = {each.digest: each for each in layers}
    try:
        listed = msgspec.json.decode(data, type=_Config).steps
    except (msgspec.MsgspecError, RecursionError):
        raise wrong_content(repository.subject, "the list of the build cache's steps is malformed") from None
    found = {}
    for step in listed:
        layer = blobs.get(step.layer)
        digests = (
            step.key,
            *([step.parent] if step.parent else ()),
            *((step.layer, step.diff_id) if step.layer else ()),
        )
        if not all(is_digest(each) and each.startswith("sha256:") for each in digests) or bool(step.layer) != bool(
            layer
        ):
            raise wrong_content(repository.subject, "the list of the build cache's steps is malformed")
        blob = LayerBlob(layer.digest, layer.media_type, layer.size, step.diff_id) if layer else None
        found[step.key] = CachedStep(step.key, step.parent, step.created_ns, step.text, blob)
    return found
