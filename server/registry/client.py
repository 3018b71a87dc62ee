"""The client of OCI and Docker registries (distribution API): a reference to a manifest, and blobs as streams.

client = Client(RegistryConfig())
repository = client.repository(parse("127.0.0.1:5000/team/app"), auth=None, cancel=cancel)
manifest = repository.resolve("latest", Platform())
with repository.open_blob(manifest.layers[0]) as blob:
    while data := blob.chunk(): ...
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from moorage.server.cancel import CancelToken
from moorage.server.errors import MoorageError, ResourceExhausted
from moorage.server.model import Platform
from moorage.server.registry import credentials, manifest
from moorage.server.registry.auth import Authorizer, CredentialSource, RegistryAuth, TokenCache
from moorage.server.registry.blob import BlobReader, wrong_content
from moorage.server.registry.config import RegistryConfig, is_loopback
from moorage.server.registry.manifest import Descriptor, Index, Manifest
from moorage.server.registry.problems import TryAgain, of_all, shown
from moorage.server.registry.reference import DEFAULT_DOMAIN, Reference, is_digest
from moorage.server.registry.remote import Attempts, Remote
from moorage.server.registry.throttle import Throttle
from moorage.server.registry.transport import Answer, Transport

T = TypeVar("T")

_HUB_HOST = "registry-1.docker.io"
_MIRROR_RETRIES = 1
_MAX_DEPTH = 3


@dataclass(frozen=True)
class Document:
    """A manifest, index or artifact as it came; `digest` is that of `raw`, `media_type` what it was served as."""

    raw: bytes
    media_type: str
    digest: str


@dataclass(frozen=True)
class Resolved:
    """An image found: the digest its name points to (an index's, where there is one), its manifest, and the way there."""

    digest: str
    manifest: Manifest
    documents: tuple[Manifest | Index, ...]

    @property
    def digests(self) -> tuple[str, ...]:
        """Those of the documents, the manifest's last."""
        return tuple(document.digest for document in self.documents)


class Client:
    """Connections and tokens, shared by all pulls of the daemon. Thread-safe."""

    def __init__(self, config: RegistryConfig) -> None:
        self.config = config
        self._transport = Transport(config)
        self._tokens = TokenCache()
        self._downloads = Throttle(config.download_limit)
        self.uploads = Throttle(config.upload_limit)

    def repository(
        self, reference: Reference, auth: RegistryAuth | None, cancel: CancelToken, *, retries: int | None = None
    ) -> Repository:
        """The repository of `reference`: at the mirrors of its domain, in order, then at the domain itself."""
        patience = self.config.retries if retries is None else retries
        source = self._credentials(reference.domain, auth)
        remotes = [
            self._remote(base, urlsplit(base).netloc, reference.path, source, min(_MIRROR_RETRIES, patience))
            for base in self.config.mirrors_of(reference.domain)
        ]
        upstream = self._base_of(reference.domain)
        remotes.append(self._remote(upstream, reference.domain, reference.path, source, patience))
        return Repository(remotes, cancel, self._downloads)

    def remote(self, domain: str, repository: str, auth: RegistryAuth | None, scopes: tuple[str, ...]) -> Remote:
        """The registry `domain` itself, past its mirrors, for what `scopes` (of the token specification) say; `repository` may be empty."""
        source = self._credentials(domain, auth)
        return self._remote(self._base_of(domain), domain, repository, source, self.config.retries, scopes)

    def close(self) -> None:
        self._transport.close()

    def _credentials(self, domain: str, auth: RegistryAuth | None) -> CredentialSource:
        path = Path(self.config.docker_config) if self.config.docker_config else credentials.default_path()
        return CredentialSource(path, domain, auth)

    def _remote(
        self,
        base: str,
        host: str,
        repository: str,
        source: CredentialSource,
        retries: int,
        scopes: tuple[str, ...] | None = None,
    ) -> Remote:
        authorizer = Authorizer(self._transport, self._tokens, source, self.config.host, base, host, repository, scopes)
        return Remote(self._transport, authorizer, base, host, repository, retries)

    def _base_of(self, domain: str) -> str:
        host = _HUB_HOST if domain == DEFAULT_DOMAIN else domain
        plain = self.config.host(domain).plain_http or (is_loopback(host) and not self._transport.speaks_tls(host))
        return f"{'http' if plain else 'https'}://{host}"


class Repository:
    """One repository, wherever it is served. Thread-safe."""

    def __init__(self, remotes: list[Remote], cancel: CancelToken, throttle: Throttle | None = None) -> None:
        self._remotes = remotes
        self._cancel = cancel
        self._throttle = throttle
        self.subject = remotes[-1].subject("get the image")

    def resolve(self, target: str, platform: Platform) -> Resolved:
        """What a tag or digest points to; of an index, the entry for `platform`. Raises NotFound with what there is."""
        documents = [self.get_manifest(target)]
        while isinstance(document := documents[-1], Index):
            if len(documents) > _MAX_DEPTH:
                raise wrong_content(self.subject, f"its indexes are nested more than {_MAX_DEPTH} deep")
            entry = manifest.choose(document, platform)
            if entry is None:
                offered = [found.platform for found in document.manifests if found.platform is not None]
                raise manifest.not_for(self.subject, platform, offered)
            documents.append(self.get_manifest(entry.digest, entry.media_type))
        return Resolved(documents[0].digest, document, tuple(documents))

    def get_manifest(self, target: str, listed_as: str = "") -> Manifest | Index:
        """The document at a tag or digest, from the first endpoint that has it. `listed_as`: the media type its index gives it."""

        def parse(answer: Answer, remote: Remote) -> Manifest | Index:
            document = _read(answer, remote, target)
            subject, asked = remote.subject(f"get manifest {target}"), target if ":" in target else ""
            return manifest.read(document.raw, document.media_type, subject, digest=asked, listed_as=listed_as)

        return self._first(target, parse)

    def get_document(self, target: str) -> Document:
        """As `get_manifest`, for whatever kind of document it is. Raises DataLoss for what is no JSON object."""

        def read(answer: Answer, remote: Remote) -> Document:
            document = _read(answer, remote, target)
            manifest.check_object(document.raw, remote.subject(f"get manifest {target}"))
            return document

        return self._first(target, read)

    def get_config(self, image: Manifest) -> bytes:
        """The image's config, verified."""
        with self.open_blob(image.config) as blob:
            parts = []
            while part := blob.chunk():
                parts.append(part)
        data = b"".join(parts)
        actual = manifest.digest_of(data, image.config.digest.partition(":")[0])
        if actual != image.config.digest:
            raise wrong_content(self.subject, f"its config has the digest {actual}, not {image.config.digest}")
        return data

    def read_blob(self, blob: Descriptor, cancel: CancelToken) -> Iterator[bytes]:
        """The blob's bytes, piece by piece; the last one only when the digest is right. Raises DataLoss otherwise."""
        algorithm = blob.digest.partition(":")[0]
        found = hashlib.new(algorithm)
        with self.open_blob(blob, 0, cancel) as reader:
            while data := reader.chunk():
                found.update(data)
                if reader.offset == blob.size and f"{algorithm}:{found.hexdigest()}" != blob.digest:
                    actual = f"{algorithm}:{found.hexdigest()}"
                    raise wrong_content(self.subject, f"blob {blob.digest} came with the digest {actual}")
                yield data

    def open_blob(self, blob: Descriptor, offset: int = 0, cancel: CancelToken | None = None) -> BlobReader:
        """The blob's bytes from `offset` on."""
        return BlobReader(self._remotes, blob.digest, blob.size, offset, cancel or self._cancel, self._throttle)

    def _first(self, target: str, read: Callable[[Answer, Remote], T]) -> T:
        """What the first endpoint gives that has something usable."""
        failures: list[tuple[str, MoorageError]] = []
        for remote in self._remotes:
            try:
                return self._from(remote, target, read)
            except MoorageError as error:
                self._cancel.check()
                failures.append((remote.host, error))
        raise of_all(failures)

    def _from(self, remote: Remote, target: str, read: Callable[[Answer, Remote], T]) -> T:
        subject = remote.subject(f"get manifest {target}")
        attempts = Attempts(remote.retries, self._cancel)
        while True:
            try:
                with remote.get_once(
                    f"manifests/{target}", {"Accept": manifest.ACCEPT}, subject, self._cancel
                ) as answer:
                    return read(answer, remote)
            except TryAgain as trouble:
                attempts.again(trouble)


def _read(answer: Answer, remote: Remote, target: str) -> Document:
    subject = remote.subject(f"get manifest {target}")
    body = b"" if (answer.length or 0) > manifest.MAX_MANIFEST else answer.body(manifest.MAX_MANIFEST)
    if max(answer.length or 0, len(body)) > manifest.MAX_MANIFEST:
        message = f"{subject}: it sends more than the {manifest.MAX_MANIFEST} bytes that a manifest may have"
        raise ResourceExhausted(message, reason="IMAGE_TOO_LARGE", **subject.metadata())
    claimed = answer.headers.get("Docker-Content-Digest", "")
    if claimed and not is_digest(claimed):
        raise wrong_content(subject, f"its Docker-Content-Digest is {shown(claimed)}")
    digest = manifest.digest_of(body, target.partition(":")[0] if ":" in target else "sha256")
    if ":" in target and digest != target:
        raise wrong_content(subject, f"what came has the digest {digest}, not {target}")
    if claimed and claimed != manifest.digest_of(body, claimed.partition(":")[0]):
        raise wrong_content(subject, f"what came does not have the digest {claimed} of its own Docker-Content-Digest")
    return Document(body, answer.headers.get("Content-Type", "").partition(";")[0].strip().lower(), digest)
