"""Indexes with all that they list: documents and blobs out of the content store or, where they are not kept here, out of a registry."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

from moorage.server.cancel import CancelToken
from moorage.server.errors import FailedPrecondition
from moorage.server.model import Image, ImageIndex
from moorage.server.registry import manifest as manifests
from moorage.server.registry.blob import BlobReader, wrong_content
from moorage.server.registry.client import Client
from moorage.server.registry.manifest import FOREIGN, Descriptor
from moorage.server.registry.origins import Origins
from moorage.server.registry.problems import Subject
from moorage.server.registry.reference import Reference, parse
from moorage.server.registry.relay import Damaged, Relay, Unobtainable
from moorage.server.registry.store import Graph
from moorage.server.registry.transport import CHUNK

MAX_DEPTH = 4
"""Indexes inside indexes."""


@dataclass
class Whole:
    """An index and what it lists, each once: documents by digest, the index itself among them, and blobs."""

    digest: str
    media_type: str
    documents: dict[str, bytes] = field(default_factory=dict)
    blobs: dict[str, Descriptor] = field(default_factory=dict)


def kept_index(documents: Iterable[bytes], image: Image) -> tuple[bytes, Reference | None]:
    """The index that an image was chosen from, by the documents that the graph has of the image, and where it is; None when no registry is
    known to have it. Raises FailedPrecondition when there is none."""
    found: dict[str, bytes] = {}
    inner: set[str] = set()
    for raw in documents:
        listed = manifests.listing(raw, "", Subject("", "", "read its index")).manifests
        if listed:
            found[manifests.digest_of(raw)] = raw
            inner |= {entry.digest for entry in listed}
    for name in map(parse, image.digests):
        if name.digest in found:
            return found[name.digest], name
    outer = next((raw for digest, raw in found.items() if digest not in inner), None)
    if outer is None:
        message = f"image {image.id[7:19]} has no other platforms: it was not pulled by an index"
        raise FailedPrecondition(message, reason="NO_INDEX", hint="make one with `moorage manifest create`")
    return outer, None


class Gatherer:
    """Finds what indexes list, for one archive."""

    def __init__(self, graph: Graph, client: Client, cancel: CancelToken) -> None:
        self._graph, self._client, self._cancel = graph, client, cancel
        self._origins = Origins(graph)

    def of_image(self, image: Image) -> Whole:
        """The index that an image was chosen from. Raises FailedPrecondition when there is none, or when a part is not to be had."""
        raw, origin = kept_index(self._graph.manifests(image), image)
        return self._gather(raw, origin, {})

    def of_index(self, index: ImageIndex) -> Whole:
        """An index that was made here."""
        sources = {entry.digest: parse(entry.source) for entry in index.entries if entry.source}
        return self._gather(index.raw.encode(), None, sources)

    def open(self, blob: Descriptor) -> Iterator[bytes]:
        """A blob's bytes, as they come; the last only when the digest is right. Raises FailedPrecondition when nobody has it."""
        content = self._graph.content
        if content.exists(blob.digest):
            with content.open(blob.digest) as file:
                while data := file.read(CHUNK):
                    yield data
            return
        ways = [(found, partial(self._open_at, found, listed)) for found, listed in self._origins.of(blob.digest)]
        try:
            with Relay(blob, ways, self._cancel) as relay:
                while data := relay.read(CHUNK):
                    yield data
        except (Unobtainable, Damaged):
            raise _lost(f"blob {blob.digest}") from None

    def _gather(self, raw: bytes, origin: Reference | None, sources: Mapping[str, Reference]) -> Whole:
        listing = manifests.listing(raw, "", _SUBJECT)
        whole = Whole(manifests.digest_of(raw), listing.media_type, {manifests.digest_of(raw): raw})
        self._walk(raw, origin, sources, whole, 0)
        return whole

    def _walk(
        self, raw: bytes, origin: Reference | None, sources: Mapping[str, Reference], whole: Whole, depth: int
    ) -> None:
        if depth > MAX_DEPTH:
            raise wrong_content(_SUBJECT, f"its documents are nested more than {MAX_DEPTH} deep")
        listing = manifests.listing(raw, "", _SUBJECT)
        for entry in listing.manifests:
            if entry.digest not in whole.documents:
                place = sources.get(entry.digest, origin)
                whole.documents[entry.digest] = document = self._document(entry, place)
                self._walk(document, place, sources, whole, depth + 1)
        blobs = {blob.digest: blob for blob in listing.blobs if not any(word in blob.media_type for word in FOREIGN)}
        whole.blobs |= blobs
        if origin is not None:
            self._origins.add(blobs.values(), [origin])

    def _document(self, entry: Descriptor, origin: Reference | None) -> bytes:
        if self._graph.content.exists(entry.digest):
            with self._graph.content.open(entry.digest) as file:
                return file.read()
        if origin is None:
            raise _lost(f"manifest {entry.digest}")
        return self._client.repository(origin, None, self._cancel).get_document(entry.digest).raw

    def _open_at(self, origin: Reference, listed: Descriptor, offset: int) -> BlobReader:
        return self._client.repository(origin, None, self._cancel).open_blob(listed, offset, self._cancel)


class _Here(Subject):
    def __str__(self) -> str:
        return f"cannot {self.action}"


_SUBJECT = _Here("", "", "save the index")


def _lost(what: str) -> FailedPrecondition:
    message = f"{_SUBJECT}: its {what} is not kept here, and no registry is known that has it"
    hint = "pull the image again, or save it without --all-platforms"
    return FailedPrecondition(message, reason="BLOB_NOT_KEPT", hint=hint)
