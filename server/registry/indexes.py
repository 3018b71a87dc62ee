"""Makes an index of images here and in registries, and pushes it with all that it lists."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

import msgspec

from moorage.server.cancel import CancelToken
from moorage.server.errors import FailedPrecondition, InvalidArgument
from moorage.server.model import Image, ImageIndex, IndexEntry, Platform
from moorage.server.registry import manifest, reference
from moorage.server.registry.blob import wrong_content
from moorage.server.registry.client import Client, Repository
from moorage.server.registry.credentials import RegistryAuth
from moorage.server.registry.layers import Shared, child_of
from moorage.server.registry.manifest import Index, Manifest, platform_name
from moorage.server.registry.origins import read_all
from moorage.server.registry.progress import PushProgress, PushStage, Reporter
from moorage.server.registry.push import Pushed, Transfer
from moorage.server.registry.reference import Reference

Member = Image | Reference
"""An image here, or one (or an index) in a registry."""


class _Platform(msgspec.Struct):
    os: str = ""
    architecture: str = ""
    variant: str = ""


class Indexer:
    """Thread-safe."""

    def __init__(self, shared: Shared, client: Client) -> None:
        self._shared, self._graph, self._client = shared, shared.graph, client

    def make(
        self,
        name: Reference,
        members: Sequence[Member],
        annotations: Mapping[str, str],
        auth: RegistryAuth | None,
        cancel: CancelToken,
    ) -> ImageIndex:
        """An index document over `members`, in their order. Raises NotFound, and InvalidArgument for two images of one platform."""
        found: list[tuple[IndexEntry, str]] = []
        for member in members:
            found += [self._here(member)] if isinstance(member, Image) else self._there(member, auth, cancel)
        _check_distinct([entry for entry, _ in found])
        docker = bool(found) and not annotations and all(kind == manifest.DOCKER_MANIFEST for _, kind in found)
        media_type = manifest.DOCKER_LIST if docker else manifest.OCI_INDEX
        document: dict[str, object] = {
            "schemaVersion": 2,
            "mediaType": media_type,
            "manifests": [_descriptor(entry, kind) for entry, kind in found],
        }
        if annotations:
            document["annotations"] = dict(annotations)
        raw = json.dumps(document, separators=(",", ":"))
        digest = manifest.digest_of(raw.encode())
        return ImageIndex(str(name), digest, media_type, raw, tuple(entry for entry, _ in found))

    def push(
        self,
        index: ImageIndex,
        target: Reference,
        auth: RegistryAuth | None,
        progress: Callable[[PushProgress], None],
        cancel: CancelToken,
    ) -> Pushed:
        """Have the index and its images in the registry under `target`; see `Pusher.push`."""
        report: Reporter[PushStage] = Reporter(progress)
        report("", PushStage.PREPARING)
        raw = index.raw.encode()
        with self._graph.lease(), child_of(cancel) as stop:
            transfer = Transfer(self._shared, self._client, target, auth, report, stop)
            images = self._by_manifest()
            for entry in index.entries:
                self._push_entry(transfer, target, entry, images.get(entry.digest), auth, stop)
            transfer.put_manifest(raw, index.media_type, index.digest, target.target)
        report("", PushStage.DONE)
        return Pushed(str(target), index.digest, len(raw), index.media_type)

    def _push_entry(
        self,
        transfer: Transfer,
        target: Reference,
        entry: IndexEntry,
        image: Image | None,
        auth: RegistryAuth | None,
        cancel: CancelToken,
    ) -> None:
        if image is not None:
            transfer.push(image, entry.digest)
        elif not transfer.has_manifest(entry.digest):
            if not entry.source:
                message = f"cannot push {target}: its image for {platform_name(entry.platform)}, {entry.digest}, is not here any more"
                raise FailedPrecondition(message, reason="IMAGE_NOT_FOUND", hint="make the index anew")
            source = reference.parse(f"{entry.source}@{entry.digest}")
            given = auth if source.domain == target.domain else None
            document = self._client.repository(source, given, cancel).get_document(entry.digest)
            listing = manifest.listing(
                document.raw, document.media_type, transfer.remote.subject(f"copy {source}", "to")
            )
            if listing.manifests:
                raise FailedPrecondition(f"cannot push {target}: {source} is an index in the index")
            transfer.copy(document, listing, source)

    def _by_manifest(self) -> dict[str, Image]:
        return {
            document.digest: image
            for image in self._graph.list()
            for document in read_all(self._graph.manifests(image))
        }

    def _here(self, image: Image) -> tuple[IndexEntry, str]:
        documents = [found for found in read_all(self._graph.manifests(image)) if found.config.digest == image.id]
        if not documents:
            message = f"the manifest of image {image.id} is not here any more"
            raise FailedPrecondition(message, reason="MANIFEST_LOST", hint="pull or build the image again")
        document = documents[0]
        sources = [reference.parse(name) for name in image.digests]
        source = next((found.repository for found in sources if found.digest == document.digest), "")
        return IndexEntry(document.digest, len(document.raw), image.platform, source), document.media_type

    def _there(self, name: Reference, auth: RegistryAuth | None, cancel: CancelToken) -> list[tuple[IndexEntry, str]]:
        repository = self._client.repository(name, auth, cancel)
        document = repository.get_manifest(name.target)
        if isinstance(document, Index):
            return [
                (IndexEntry(found.digest, found.size, found.platform, name.repository), found.media_type)
                for found in document.manifests
                if found.platform is not None and found.media_type in manifest.MANIFESTS
            ]
        platform = _platform_of(repository, document)
        return [(IndexEntry(document.digest, len(document.raw), platform, name.repository), document.media_type)]


def _platform_of(repository: Repository, document: Manifest) -> Platform:
    try:
        found = msgspec.json.decode(repository.get_config(document), type=_Platform)
    except (msgspec.MsgspecError, RecursionError):
        raise wrong_content(repository.subject, "its config is malformed") from None
    return Platform(found.os, found.architecture, found.variant)


def _descriptor(entry: IndexEntry, media_type: str) -> dict[str, object]:
    platform = {"architecture": entry.platform.architecture, "os": entry.platform.os}
    if entry.platform.variant:
        platform["variant"] = entry.platform.variant
    return {"mediaType": media_type, "digest": entry.digest, "size": entry.size, "platform": platform}


def _check_distinct(entries: Sequence[IndexEntry]) -> None:
    if not entries:
        raise InvalidArgument("an index of no image is of no use", field="images")
    seen: dict[Platform, str] = {}
    for entry in entries:
        if entry.platform in seen:
            both = f"{seen[entry.platform]} and {entry.digest}"
            raise InvalidArgument(f"two images are for {platform_name(entry.platform)}: {both}", field="images")
        seen[entry.platform] = entry.digest
