"""Images out of archives: which images an archive holds, and their way into the graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, cast

import msgspec

from moorage.server.cancel import CancelToken
from moorage.server.engine.storecommands import LoadStep
from moorage.server.errors import DataLoss, InvalidArgument
from moorage.server.graph import archive, documents
from moorage.server.graph.graph import Graph
from moorage.server.graph.layers import chain_ids
from moorage.server.graph.unarchive import Contents
from moorage.server.model import Image, LayerBlob, Platform
from moorage.server.registry import manifest as manifests
from moorage.server.registry import reference as references
from moorage.server.registry.config import RegistryConfig
from moorage.server.registry.imageconfig import plan_layers
from moorage.server.registry.layerstream import CHUNK, LayerStream, compression_of
from moorage.server.registry.manifest import Descriptor, Index
from moorage.server.registry.problems import Subject

MAX_DEPTH = 4
"""Indexes inside indexes."""


class _Archive(Subject):
    """Errors of manifests, about an archive instead of a registry."""

    def __str__(self) -> str:
        return f"cannot {self.action}"


SUBJECT = _Archive("", "", "load the archive's image")


@dataclass(frozen=True)
class Found:
    """An image of an archive: its config, its layers' blobs, its manifest as it is (none in older archives), and its names.

    `indexes` are the digests of those it was chosen from, `kept` of what they list for other platforms, as far as the archive has it.
    """

    config: bytes
    blobs: tuple[LayerBlob, ...]
    manifest: bytes | None
    names: tuple[str, ...]
    indexes: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()


class _Entry(msgspec.Struct):
    """One of Docker's manifest.json."""

    config: str = msgspec.field(name="Config")
    layers: list[str] = msgspec.field(name="Layers")
    tags: list[str] | None = msgspec.field(name="RepoTags", default=None)


class _Listed(msgspec.Struct):
    digest: str
    annotations: dict[str, str] = {}


class _Index(msgspec.Struct):
    manifests: list[_Listed]


class Archive:
    """An archive that was taken in, over the graph that it was taken into."""

    def __init__(self, graph: Graph, contents: Contents) -> None:
        self._graph, self._contents = graph, contents

    def images(self, platform: Platform) -> list[Found]:
        """The images it holds, of indexes the one for `platform`, or the first there is. Raises InvalidArgument, DataLoss for what is not
        whole."""
        held = self._contents.documents
        if "index.json" in held:
            return self._oci(held["index.json"], platform)
        if "manifest.json" in held:
            return self._docker(held["manifest.json"])
        raise InvalidArgument(
            "the archive holds no image: it has neither index.json nor manifest.json",
            reason="NOT_AN_ARCHIVE",
            hint="a root file system is imported with `moorage import`",
        )

    def _oci(self, index: bytes, platform: Platform) -> list[Found]:
        listed = _decode(index, _Index, "index.json").manifests
        names = self._docker_names()
        found: dict[str, Found] = {}
        for entry in listed:
            image = self._from_manifest(entry.digest, platform, 0)
            own = _name_of(entry.annotations)
            config_id = documents.digest_of(image.config)
            given = [*(found[config_id].names if config_id in found else ()), *own, *names.get(config_id, ())]
            found[config_id] = replace(image, names=tuple(dict.fromkeys(given)))
        return list(found.values())

    def _from_manifest(self, digest: str, platform: Platform, depth: int) -> Found:
        raw = self._blob(digest)
        document = manifests.read(raw, "", SUBJECT, digest=digest)
        if isinstance(document, Index):
            if depth == MAX_DEPTH:
                raise InvalidArgument(f"{SUBJECT}: its indexes are nested more than {MAX_DEPTH} deep")
            chosen = self._choose(document, platform)
            image = self._from_manifest(chosen.digest, platform, depth + 1)
            own = {documents.digest_of(image.config), documents.digest_of(image.manifest or b""), *image.indexes}
            own |= {blob.digest for blob in image.blobs}
            kept = self._listed(document.manifests, depth, set()) - own
            return replace(image, indexes=(digest, *image.indexes), kept=tuple(sorted(kept)))
        config = self._blob(document.config.digest)
        plans = plan_layers(document, config, None, SUBJECT)
        blobs = [LayerBlob(each.blob.digest, each.blob.media_type, each.blob.size, each.diff_id) for each in plans]
        return Found(config, tuple(blobs), raw, ())

    def _choose(self, index: Index, platform: Platform) -> Descriptor:
        """The image to make of an index: for `platform`, else the first, among those that the archive has."""
        here = [entry for entry in index.manifests if self._graph.content.exists(entry.digest)]
        found = manifests.choose(replace(index, manifests=tuple(here)), platform) or next(filter(_is_image, here), None)
        if found is None:
            raise DataLoss(f"{SUBJECT}: none of what index {index.digest} lists is in it", reason="INCOMPLETE_ARCHIVE")
        return found

    def _listed(self, entries: Iterable[Descriptor], depth: int, found: set[str]) -> set[str]:
        """Add to `found` all that an index with these entries lists, and that is here."""
        for entry in entries:
            if entry.digest not in found and self._graph.content.exists(entry.digest) and depth < MAX_DEPTH:
                found.add(entry.digest)
                listing = manifests.listing(self._blob(entry.digest), entry.media_type, SUBJECT)
                found |= {blob.digest for blob in listing.blobs if self._graph.content.exists(blob.digest)}
                self._listed(listing.manifests, depth + 1, found)
        return found

    def _blob(self, digest: str) -> bytes:
        if not self._graph.content.exists(digest):
            raise DataLoss(f"{SUBJECT}: blob {digest[:100]} is not in it", reason="INCOMPLETE_ARCHIVE")
        return self._graph.content.read(digest, documents.MAX_DOCUMENT)

    def _docker(self, listing: bytes) -> list[Found]:
        found = []
        for entry in _decode(listing, list[_Entry], "manifest.json"):
            config = self._contents.documents.get(entry.config)
            if config is None:
                raise DataLoss(
                    f"{SUBJECT}: its config {entry.config[:100]!r} is not in it", reason="INCOMPLETE_ARCHIVE"
                )
            diff_ids = documents.decode(config).get("rootfs", {}).get("diff_ids") or []
            blobs = [self._layer(name) for name in entry.layers]
            if [blob.diff_id for blob in blobs] != diff_ids:
                raise DataLoss(f"{SUBJECT}: its layers are not those that its config lists", reason="WRONG_LAYERS")
            found.append(Found(config, tuple(blobs), None, tuple(_tag(tag) for tag in entry.tags or ())))
        return found

    def _layer(self, name: str) -> LayerBlob:
        blob = self._contents.layer(name)
        if blob is None:
            raise DataLoss(f"{SUBJECT}: its layer {name[:100]!r} is not in it", reason="INCOMPLETE_ARCHIVE")
        return blob

    def _docker_names(self) -> dict[str, list[str]]:
        """What Docker's listing beside an OCI index calls the images, by their IDs."""
        listing = self._contents.documents.get("manifest.json")
        if listing is None:
            return {}
        entries = _decode(listing, list[_Entry], "manifest.json")
        return {
            f"sha256:{entry.config.rpartition('/')[2].removesuffix('.json')}": [_tag(tag) for tag in entry.tags or ()]
            for entry in entries
        }


def _is_image(entry: Descriptor) -> bool:
    """Not an attestation, whose platform is `unknown/unknown`."""
    return entry.platform is None or entry.platform.os != "unknown"


def _decode(data: bytes, kind: Any, name: str) -> Any:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise InvalidArgument(f"{SUBJECT}: {name} is malformed: {error}", reason="MALFORMED_ARCHIVE") from None


def _name_of(annotations: dict[str, str]) -> list[str]:
    """The tag that an index gives a manifest: containerd's full name, or the reference where it is more than a tag."""
    full = annotations.get(archive.FULL_NAME)
    if full:
        return [_tag(full)]
    short = annotations.get(archive.REFERENCE, "")
    return [_tag(short)] if "/" in short or ":" in short else []


def _tag(text: str) -> str:
    reference = references.parse(text)
    if reference.digest:
        raise InvalidArgument(f"{SUBJECT}: {text[:100]!r} is no tag", reason="MALFORMED_ARCHIVE")
    return str(reference.with_default_tag())


def add(
    graph: Graph,
    found: Found,
    config: RegistryConfig,
    cancel: CancelToken,
    tell: Callable[[LoadStep], None],
    action: str,
) -> Image:
    """Unpack an image's layers, keep their blobs, and give it its names. What was unpacked for nothing is gone again when it fails."""
    chain = chain_ids(blob.diff_id for blob in found.blobs)
    made: list[str] = []
    try:
        parent = ""
        for blob, chain_id in zip(found.blobs, chain, strict=True):
            tell(LoadStep("unpacking", blob.digest, blob.size))
            if not graph.has_layer(chain_id):
                unpack(graph, blob, chain_id, parent, config, cancel)
                made.append(chain_id)
            graph.keep_blob(chain_id, blob)
            parent = chain_id
        if found.manifest is None:
            return graph.make_image(found.config, found.blobs, tags=found.names, action=action)
        return graph.register(
            config=found.config,
            manifest_digest=documents.digest_of(found.manifest),
            tags=found.names,
            indexes=found.indexes,
            kept=found.kept,
            action=action,
        )
    except BaseException:
        graph.discard([blob.digest for blob in found.blobs], made[::-1])
        raise


def unpack(
    graph: Graph, blob: LayerBlob, chain_id: str, parent: str, config: RegistryConfig, cancel: CancelToken
) -> None:
    """Have a layer in the graph, out of its blob of the content store."""
    if not graph.content.exists(blob.digest):
        raise DataLoss(f"{SUBJECT}: blob {blob.digest} is not in it", reason="INCOMPLETE_ARCHIVE")
    with plain(graph, blob, config) as tar:
        graph.apply_layer(chain_id, blob.diff_id, parent, tar, cancel)


@contextmanager
def plain(graph: Graph, blob: LayerBlob, config: RegistryConfig) -> Iterator[BinaryIO]:
    """The plain tar of a layer, out of its blob of the content store."""
    kind = compression_of(blob.media_type)
    with graph.content.open(blob.digest) as file:
        stream = LayerStream(Stored(file), blob.digest, blob.size, kind, config.max_layer_size, config.max_ratio)
        yield cast(BinaryIO, stream)


class Stored:
    """A blob of the content store as the source of a layer; it was verified when it got its name."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def chunk(self) -> bytes:
        return self._file.read(CHUNK)

    def finish(self) -> None:
        """Nothing is left to verify."""

    def discard(self) -> None:
        """The caller decides what stays."""
