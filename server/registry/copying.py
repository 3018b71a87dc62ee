"""Copies what a repository has into another one, as it is: images, indexes with all their platforms, artifacts; and what refers to them.

Blobs are relayed, mounted or skipped as in a push. Nothing of it is kept here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from moorage.server.cancel import CancelToken
from moorage.server.errors import InvalidArgument, NotFound
from moorage.server.model import Image
from moorage.server.registry import manifest as manifests
from moorage.server.registry.blob import wrong_content
from moorage.server.registry.client import Client, Document, Repository
from moorage.server.registry.credentials import RegistryAuth
from moorage.server.registry.discover import Discovery
from moorage.server.registry.layers import Shared, child_of
from moorage.server.registry.manifest import Listing
from moorage.server.registry.progress import PushProgress, PushStage, Reporter
from moorage.server.registry.push import Pushed, Transfer
from moorage.server.registry.putting import list_referrer
from moorage.server.registry.reference import Reference
from moorage.server.registry.reference import parse as parse_reference
from moorage.server.registry.store import ContentStore
from moorage.server.registry.wholes import MAX_DEPTH, kept_index

COSIGN = (".sig", ".att", ".sbom")
"""The ends of the tags `sha256-<hex>.sig` that cosign keeps what belongs to an image under."""


class Copier:
    """Thread-safe."""

    def __init__(self, shared: Shared, client: Client) -> None:
        self._shared, self._client = shared, client

    def push_index(
        self,
        image: Image,
        target: Reference,
        auth: RegistryAuth | None,
        progress: Callable[[PushProgress], None],
        cancel: CancelToken,
    ) -> Pushed:
        """Push the index that an image was pulled by, with all that it lists. Raises FailedPrecondition when it was not pulled by one."""
        graph = self._shared.graph
        raw, source = kept_index(graph.manifests(image), image)
        # What was loaded with it is here: what is not could only be there already.
        source = source or Reference(target.domain, target.path, digest=manifests.digest_of(raw))
        pushed = self.copy(source, target, {target.domain: auth}, progress, cancel)
        graph.add_digest(image.id, f"{target.repository}@{pushed.digest}")
        return pushed

    def copy(
        self,
        source: Reference,
        target: Reference,
        credentials: Mapping[str, RegistryAuth | None],
        progress: Callable[[PushProgress], None],
        cancel: CancelToken,
        *,
        referrers: bool = False,
    ) -> Pushed:
        """Have what `source` names under `target`, a tag.

        `credentials` by domain. With `referrers` signatures, attestations and other artifacts that refer to it come along. The tag moves
        last. Raises what a push does, and NotFound when the source lacks a part.
        """
        if target.digest:
            raise InvalidArgument(f"cannot copy to {target}: a digest follows from what is copied", field="destination")
        report: Reporter[PushStage] = Reporter(progress)
        report("", PushStage.PREPARING)
        with self._shared.graph.lease(), child_of(cancel) as stop:
            auth = credentials.get(target.domain)
            transfer = Transfer(self._shared, self._client, target, auth, report, stop, credentials)
            repository = self._client.repository(source, credentials.get(source.domain), stop)
            work = _Copy(source, repository, transfer, self._shared.graph.content, stop)
            document = work.document(source.target)
            if referrers:
                discovery = Discovery(self._client)
                work.referrers(discovery, document.digest, credentials.get(source.domain))
            media_type = work.listing(document).media_type
            transfer.put_manifest(document.raw, media_type, document.digest, target.target)
        report("", PushStage.DONE)
        return Pushed(str(target), document.digest, len(document.raw), media_type)


@dataclass
class _Copy:
    """One copy under way."""

    source: Reference
    repository: Repository
    transfer: Transfer
    content: ContentStore
    cancel: CancelToken
    _done: set[str] = field(default_factory=set)

    def document(self, name: str, depth: int = 0) -> Document:
        """Copy a document by tag or digest, what it lists first."""
        document = self._document(name)
        listing = self.listing(document)
        if depth == MAX_DEPTH:
            raise wrong_content(self.repository.subject, f"its documents are nested more than {MAX_DEPTH} deep")
        for entry in listing.manifests:
            if entry.digest not in self._done and not self.transfer.has_manifest(entry.digest):
                self.document(entry.digest, depth + 1)
        self._done.add(document.digest)
        noted = self.transfer.copy(document, listing, self.source)
        if listing.subject and not noted:
            list_referrer(self.transfer.remote, document, listing, self.cancel)
        return document

    def referrers(self, discovery: Discovery, digest: str, auth: RegistryAuth | None, depth: int = 1) -> None:
        """Copy what refers to a manifest that is copied, and what refers to that."""
        subject = parse_reference(f"{self.source.repository}@{digest}")
        _, found = discovery.referrers(subject, "", auth, self.cancel)
        for referrer in found:
            if referrer.digest not in self._done and depth < MAX_DEPTH:
                self.document(referrer.digest, depth)
                self.referrers(discovery, referrer.digest, auth, depth + 1)
        for end in COSIGN:
            tag = f"{digest.replace(':', '-')}{end}"
            try:
                document = self.document(tag, depth)
            except NotFound:
                continue
            media_type = self.listing(document).media_type
            self.transfer.put_manifest(document.raw, media_type, document.digest, tag)

    def listing(self, document: Document) -> Listing:
        return manifests.listing(document.raw, document.media_type, self.repository.subject)

    def _document(self, name: str) -> Document:
        """A document that is kept here needs no registry."""
        if ":" not in name or not self.content.exists(name):
            return self.repository.get_document(name)
        with self.content.open(name) as file:
            raw = file.read()
        return Document(raw, manifests.listing(raw, "", self.repository.subject).media_type, name)
