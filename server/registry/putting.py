"""Puts single blobs and documents into a repository, and lists referrers where a registry does not do so itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import msgspec

from moorage.server.cancel import CancelToken
from moorage.server.errors import DataLoss, InvalidArgument
from moorage.server.registry import manifest as manifests
from moorage.server.registry.blob import wrong_content
from moorage.server.registry.client import Client, Document
from moorage.server.registry.credentials import RegistryAuth
from moorage.server.registry.discover import MAX_LIST
from moorage.server.registry.manifest import Descriptor, Listing
from moorage.server.registry.problems import Subject
from moorage.server.registry.push import Pushed
from moorage.server.registry.reference import Reference
from moorage.server.registry.remote import Remote
from moorage.server.registry.upload import Readable, Sent, Uploader, put_document


class _Index(msgspec.Struct):
    manifests: list[dict[str, Any]]


def put_blob(
    client: Client,
    reference: Reference,
    blob: Descriptor,
    auth: RegistryAuth | None,
    content: Readable,
    moved: Callable[[int], None],
    cancel: CancelToken,
) -> Sent:
    """Have a blob in the repository of `reference`; `content` is read from only when it is not there. Raises what a push does."""
    remote = _writable(client, reference, auth)
    uploader = Uploader(remote, client.config.upload_chunk, client.uploads, cancel)
    return uploader.put(blob, lambda: nullcontext(content), moved=moved)


def put_manifest(
    client: Client, reference: Reference, raw: bytes, media_type: str, auth: RegistryAuth | None, cancel: CancelToken
) -> Pushed:
    """Have a document under `reference`, a tag or its digest, and in the list of what refers to its subject.

    Raises InvalidArgument when it is none or has another digest; what the registry says of its parts otherwise.
    """
    if len(raw) > manifests.MAX_MANIFEST:
        raise InvalidArgument(f"a manifest has at most {manifests.MAX_MANIFEST} bytes, not {len(raw)}", field="raw")
    try:
        listing = manifests.listing(
            raw, media_type, Subject(reference.domain, reference.path, "put the manifest", "to")
        )
    except DataLoss as error:
        raise InvalidArgument(error.message, reason="NO_MANIFEST", field="raw") from None
    algorithm = reference.digest.partition(":")[0] or "sha256"
    digest = manifests.digest_of(raw, algorithm)
    if reference.digest not in ("", digest):
        raise InvalidArgument(f"cannot put {reference}: the manifest has the digest {digest}", field="reference")
    remote = _writable(client, reference, auth)
    document = Document(raw, listing.media_type, digest)
    noted = put_document(remote, raw, listing.media_type, digest, reference.target, cancel)
    if listing.subject and not noted:
        list_referrer(remote, document, listing, cancel)
    return Pushed(str(reference), digest, len(raw), listing.media_type)


def list_referrer(remote: Remote, document: Document, listing: Listing, cancel: CancelToken) -> None:
    """List a referrer under the tag that stands in for a registry's list (OCI distribution spec, "Referrers Tag Schema")."""
    tag = listing.subject.replace(":", "-")
    subject = remote.subject(f"list the referrers of {listing.subject}")
    headers = {"Accept": manifests.OCI_INDEX}
    with remote.send("GET", f"manifests/{tag}", headers, subject, cancel, expect=(200, 404)) as answer:
        body = answer.body(MAX_LIST) if answer.status == 200 else b'{"manifests":[]}'
    try:
        entries = msgspec.json.decode(body, type=_Index).manifests
    except (msgspec.MsgspecError, RecursionError):
        raise wrong_content(subject, f"what is under the tag {tag} is no index") from None
    if any(entry.get("digest") == document.digest for entry in entries):
        return
    entry = {"mediaType": listing.media_type, "digest": document.digest, "size": len(document.raw)}
    entry |= {"artifactType": listing.artifact_type, "annotations": dict(listing.annotations)}
    index = {"schemaVersion": 2, "mediaType": manifests.OCI_INDEX, "manifests": [*entries, entry]}
    raw = json.dumps(index, separators=(",", ":")).encode()
    put_document(remote, raw, manifests.OCI_INDEX, manifests.digest_of(raw), tag, cancel)


def _writable(client: Client, reference: Reference, auth: RegistryAuth | None) -> Remote:
    scopes = (f"repository:{reference.path}:pull,push",)
    return client.remote(reference.domain, reference.path, auth, scopes)
