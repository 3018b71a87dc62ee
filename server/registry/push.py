"""Pushes an image: the blobs that the repository lacks, several at once, then the manifest under its name.

The manifest goes out as it came in, byte for byte, so that digests stay. A layer whose blob is not kept is mounted from, or relayed
from, a repository that is known to have it; only when there is none is it packed again, under a digest of its own, and manifest
and config are written anew.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from moorage.server.cancel import CancelToken
from moorage.server.errors import FailedPrecondition, InvalidArgument, NotFound
from moorage.server.model import Image, LayerBlob
from moorage.server.registry import manifest as manifests
from moorage.server.registry.blob import BlobReader
from moorage.server.registry.client import Client, Document
from moorage.server.registry.credentials import RegistryAuth
from moorage.server.registry.layers import Shared, child_of
from moorage.server.registry.manifest import FOREIGN, Descriptor, Listing, Manifest
from moorage.server.registry.origins import Origins, read_all
from moorage.server.registry.progress import PushProgress, PushStage, Reporter
from moorage.server.registry.reference import Reference
from moorage.server.registry.relay import Damaged, Relay, Unobtainable
from moorage.server.registry.remote import Remote
from moorage.server.registry.upload import Readable, Sent, Uploader, put_document

T = TypeVar("T")

_FETCH_RETRIES = 2
"""More patience than that is not due to a registry that was asked only because it had a blob once."""
_STAGES = {Sent.EXISTS: PushStage.EXISTS, Sent.MOUNTED: PushStage.MOUNTED, Sent.UPLOADED: PushStage.DONE}


@dataclass(frozen=True)
class Pushed:
    """What is in the registry now. `rewritten` says that the manifest is not the one the image came with."""

    reference: str
    digest: str
    size: int
    media_type: str
    rewritten: bool = False


class Pusher:
    """Pushes from one graph; shares connections, tokens and downloads with its puller. Thread-safe."""

    def __init__(self, shared: Shared, client: Client) -> None:
        self._shared, self._graph, self._client = shared, shared.graph, client

    def push(
        self,
        reference: Reference,
        image: Image,
        auth: RegistryAuth | None,
        progress: Callable[[PushProgress], None],
        cancel: CancelToken,
    ) -> Pushed:
        """Have the image in the registry under `reference` (its tag, `latest` by default); block until it is.

        `progress` is called from this push's threads, one call at a time. Raises what the API says of PushImage; the tag then points
        to what it did before, and the blobs that got through are skipped by the next push.
        """
        if reference.digest:
            raise InvalidArgument(
                f"cannot push to {reference}: a digest follows from what is pushed", field="reference"
            )
        report: Reporter[PushStage] = Reporter(progress)
        report("", PushStage.PREPARING)
        with self._graph.lease(), child_of(cancel) as stop:
            work = Transfer(self._shared, self._client, reference, auth, report, stop)
            pushed = work.push(image, reference.target)
            cancel.check()
            if not pushed.rewritten:
                self._graph.add_digest(image.id, f"{reference.repository}@{pushed.digest}")
        report("", PushStage.DONE)
        return pushed


class Transfer:
    """Sends images and other documents into one repository. `credentials`, by domain, are for other registries that blobs may come from."""

    def __init__(
        self,
        shared: Shared,
        client: Client,
        reference: Reference,
        auth: RegistryAuth | None,
        report: Reporter[PushStage],
        cancel: CancelToken,
        credentials: Mapping[str, RegistryAuth | None] | None = None,
    ) -> None:
        self._shared, self._graph, self._client = shared, shared.graph, client
        self._credentials = {**(credentials or {}), reference.domain: auth}
        self._reference, self._report, self._cancel = reference, report, cancel
        self._origins = Origins(self._graph)
        self.remote = self._open(())
        self._uploader = self._uploader_to(self.remote)

    def push(self, image: Image, target: str) -> Pushed:
        """Have an image there as `target`, a tag or the digest of its manifest. Raises FailedPrecondition without a manifest."""
        document = self._choose(image, target)
        layers = [blob for blob in document.layers if not any(word in blob.media_type for word in FOREIGN)]
        self._widen(document.layers)
        config = self._graph.document(image.id)
        packed = self._blobs(image, document, layers, config)
        rewritten = bool(packed)
        if rewritten and ":" in target:
            message = f"cannot push {self._reference.repository}@{target}: the blob of its layer {next(iter(packed))} is not to be had"
            hint = "another blob gives another digest: push the image by a tag, or pull it again with keep_blobs of [registry]"
            raise FailedPrecondition(message, reason="BLOB_LOST", hint=hint)
        if packed:
            document, config = _rewritten(document, config, packed)
            self.send_config(document.config, config)
        self.put_manifest(document.raw, document.media_type, document.digest, target)
        name = f"{self._reference.repository}{'@' if ':' in target else ':'}{target}"
        return Pushed(name, document.digest, len(document.raw), document.media_type, rewritten)

    def copy(self, document: Document, listing: Listing, origin: Reference) -> bool:
        """Have a document there, by digest, with its blobs, that another repository has; answers whether the registry has noted what it
        refers to. Raises NotFound when that repository lacks one of its blobs."""
        blobs = [blob for blob in listing.blobs if not any(word in blob.media_type for word in FOREIGN)]
        self._origins.add(blobs, [origin])
        self._widen(blobs)

        def send(blob: Descriptor) -> None:
            try:
                self._put(blob, blob.digest, self._sources(blob))
            except Unobtainable:
                message = f"cannot copy {origin}: its blob {blob.digest} is not to be had"
                raise NotFound(message, reason="REGISTRY_NOT_FOUND") from None

        self._each(blobs, send)
        return self.put_manifest(document.raw, listing.media_type, document.digest, document.digest)

    def send_layer(self, blob: Descriptor) -> bool:
        """Have a layer's blob there; False when it is not to be had."""
        try:
            self._put(blob, blob.digest, self._sources(blob))
        except Unobtainable:
            return False
        return True

    def put_manifest(self, raw: bytes, media_type: str, digest: str, target: str) -> bool:
        """As `put_document`, with progress."""
        self._report(digest, PushStage.UPLOADING, 0, len(raw))
        noted = put_document(self.remote, raw, media_type, digest, target, self._cancel)
        self._report(digest, PushStage.DONE, len(raw), len(raw))
        return noted

    def has_manifest(self, digest: str) -> bool:
        return self._uploader.exists(digest, "manifests")

    def _choose(self, image: Image, target: str) -> Manifest:
        """The manifest to send: the one asked for, else one that is there already, else the one most of whose blobs are here."""
        found = [document for document in read_all(self._graph.manifests(image)) if document.config.digest == image.id]
        if ":" in target:
            found = [document for document in found if document.digest == target]
        if not found:
            message = f"cannot push {self._reference}: the manifest of image {image.id} is not here any more"
            raise FailedPrecondition(message, reason="MANIFEST_LOST", hint="pull or build the image again")
        known = {name.rpartition("@")[2] for name in image.digests if name.startswith(f"{self._reference.repository}@")}
        return min(found, key=lambda document: document.digest not in known)

    def _widen(self, blobs: Iterable[Descriptor]) -> None:
        """Ask for access that covers the repositories to mount from: a token is for the scopes it was asked for."""
        sources = {path for blob in blobs for path in self._sources(blob)}
        if sources:
            self.remote = self._open(tuple(sorted(sources))[:8])
            self._uploader = self._uploader_to(self.remote)

    def _open(self, sources: tuple[str, ...]) -> Remote:
        path = self._reference.path
        scopes = (f"repository:{path}:pull,push", *(f"repository:{source}:pull" for source in sources))
        return self._client.remote(self._reference.domain, path, self._credentials[self._reference.domain], scopes)

    def _uploader_to(self, remote: Remote) -> Uploader:
        return Uploader(remote, self._client.config.upload_chunk, self._client.uploads, self._cancel)

    def _blobs(self, image: Image, document: Manifest, layers: list[Descriptor], config: bytes) -> dict[str, LayerBlob]:
        """Send the layers and the config; answers the blobs that stand in for layers that could not be had, by the digests they were listed
        as."""
        chains = {blob.digest: layer.chain_id for blob, layer in zip(document.layers, image.layers, strict=True)}

        def send(blob: Descriptor) -> LayerBlob | None:
            if blob.digest in chains:
                return self._layer(blob, chains[blob.digest])
            self.send_config(blob, config)
            return None

        done = self._each((*layers, document.config), send)
        return {digest: packed for digest, packed in done.items() if packed is not None}

    def _each(self, blobs: Iterable[Descriptor], send: Callable[[Descriptor], T]) -> dict[str, T]:
        """Send several blobs at once; answers what came of each digest. When one fails the others are stopped, and its error is raised."""
        distinct = {blob.digest: blob for blob in blobs}
        for blob in distinct.values():
            self._report(blob.digest, PushStage.WAITING, 0, blob.size)
        failures: list[BaseException] = []

        def guarded(blob: Descriptor) -> T:
            try:
                return send(blob)
            except BaseException as error:
                failures.append(error)
                self._cancel.cancel("another blob failed")
                raise

        with ThreadPoolExecutor(self._client.config.layers_at_once, "moorage-push") as pool:
            done = {digest: pool.submit(guarded, blob) for digest, blob in distinct.items()}
        if failures:
            raise failures[0]
        return {digest: future.result() for digest, future in done.items()}

    def _layer(self, blob: Descriptor, chain_id: str) -> LayerBlob | None:
        """Send one layer; answers the blob that was packed in its place, if it had to be."""
        try:
            self._put(blob, blob.digest, self._sources(blob))
        except Unobtainable:
            return self._stand_in(blob, chain_id)
        return None

    def _stand_in(self, blob: Descriptor, chain_id: str) -> LayerBlob:
        """Send another blob of the same layer: one that is kept with it, else one made for this push."""
        content = self._graph.content
        kept = next((kept for kept in self._graph.layer_blobs(chain_id) if content.exists(kept.digest)), None)
        if kept is not None:
            self._put(Descriptor(kept.media_type, kept.digest, kept.size), blob.digest, [])
            return kept
        self._report(blob.digest, PushStage.PACKING, 0, blob.size)
        packed = self._graph.pack_layer(chain_id, self._cancel)
        with self._shared.wanted.held([packed.digest]) as used:
            self._put(Descriptor(packed.media_type, packed.digest, packed.size), blob.digest, [])
            used(packed.digest)
        return packed

    def _sources(self, blob: Descriptor) -> list[str]:
        """The repositories of the same registry that may have a blob."""
        return self._origins.repositories(blob.digest, self._reference.domain, self._reference.path)

    def _put(self, blob: Descriptor, shown: str, sources: list[str]) -> None:
        """Send a blob. Raises Unobtainable when nobody has it."""

        def moved(count: int) -> None:
            self._report(shown, PushStage.UPLOADING, count, blob.size)

        origins = self._elsewhere(blob.digest)
        while True:
            try:
                sent = self._uploader.put(blob, partial(self._content, blob, origins), sources, moved)
                break
            except Damaged as damaged:
                origins = [found for found in origins if found[0] not in damaged.origins]
        self._report(shown, _STAGES[sent], blob.size, blob.size)

    @contextmanager
    def _content(self, blob: Descriptor, origins: list[tuple[Reference, Descriptor]]) -> Iterator[Readable]:
        """A blob's bytes: from the content store, else out of the first of `origins` that answers at once, or after some patience."""
        content = self._graph.content
        if content.exists(blob.digest):
            with content.open(blob.digest) as file:
                yield file
            return
        self._report(blob.digest, PushStage.FETCHING, 0, blob.size)
        patience = (0, min(_FETCH_RETRIES, self._client.config.retries))
        ways = [(found[0], partial(self._open_at, *found, retries)) for retries in patience for found in origins]
        with Relay(blob, ways, self._cancel) as relay:
            yield relay

    def _elsewhere(self, digest: str) -> list[tuple[Reference, Descriptor]]:
        """The repositories, but for the one that is pushed to, that may have a blob."""
        return [found for found in self._origins.of(digest) if found[0].repository != self._reference.repository]

    def _open_at(self, origin: Reference, listed: Descriptor, retries: int, offset: int) -> BlobReader:
        auth = self._credentials.get(origin.domain)
        repository = self._client.repository(origin, auth, self._cancel, retries=retries)
        return repository.open_blob(listed, offset, self._cancel)

    def send_config(self, blob: Descriptor, config: bytes) -> None:
        """Have a small document there as a blob."""
        self._report(blob.digest, PushStage.WAITING, 0, blob.size)
        sent = self._uploader.put(blob, lambda: io.BytesIO(config), self._sources(blob))
        self._report(blob.digest, _STAGES[sent], blob.size, blob.size)


def _rewritten(document: Manifest, config: bytes, packed: dict[str, LayerBlob]) -> tuple[Manifest, bytes]:
    """The manifest with other blobs for some layers, and the config with their diff IDs; all else stays."""
    fields = json.loads(config)
    listed = json.loads(document.raw)
    docker = document.media_type == manifests.DOCKER_MANIFEST
    for index, blob in enumerate(document.layers):
        stand_in = packed.get(blob.digest)
        if stand_in is not None:
            media_type = manifests.DOCKER_LAYER if docker else stand_in.media_type
            listed["layers"][index] = {"mediaType": media_type, "digest": stand_in.digest, "size": stand_in.size}
            fields["rootfs"]["diff_ids"][index] = stand_in.diff_id
    diff_ids = json.loads(config)["rootfs"]["diff_ids"]
    if fields["rootfs"]["diff_ids"] != diff_ids:
        config = json.dumps(fields, separators=(",", ":")).encode()
    listed["config"] = {**listed["config"], "digest": manifests.digest_of(config), "size": len(config)}
    raw = json.dumps(listed, separators=(",", ":")).encode()
    return read_all([raw])[0], config
