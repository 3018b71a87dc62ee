"""What a registry can be asked beside images: whether it takes credentials, its tags, repositories and referrers, a search, a deletion.

OCI distribution spec, "Content Discovery" and "Content Management"; Docker Registry API v1, "Search".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeVar
from urllib.parse import parse_qsl, quote, urlencode, urljoin, urlsplit

import msgspec

from moorage.server.cancel import CancelToken
from moorage.server.errors import FailedPrecondition, InvalidArgument, ResourceExhausted
from moorage.server.registry import manifest
from moorage.server.registry.blob import wrong_content
from moorage.server.registry.client import Client
from moorage.server.registry.credentials import RegistryAuth
from moorage.server.registry.problems import Subject, shown
from moorage.server.registry.reference import DEFAULT_DOMAIN, Reference, is_digest
from moorage.server.registry.remote import Remote
from moorage.server.registry.transport import Answer

T = TypeVar("T")

MAX_LIST = 4 << 20
"""Bytes of one page of a list."""
_MAX_PAGES = 100
_PAGE = 1000
_SEARCH_HOSTS = {DEFAULT_DOMAIN: "index.docker.io"}
"""Where a registry's search is served, if not by itself."""
_NAME = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._/:@-]{0,254}", re.ASCII)
_NEXT = re.compile(r'<([^>]*)>\s*;\s*rel="?next"?', re.IGNORECASE)


@dataclass(frozen=True)
class Page:
    """Names, and the query that asks for the next page; empty on the last."""

    names: tuple[str, ...]
    next: str


@dataclass(frozen=True)
class Found:
    """One repository of a search."""

    name: str
    description: str = ""
    stars: int = 0
    official: bool = False


@dataclass(frozen=True)
class Referrer:
    """A manifest that refers to another (OCI distribution spec, "Listing Referrers")."""

    digest: str
    media_type: str
    artifact_type: str
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict)


class _Tags(msgspec.Struct):
    tags: list[str] | None = None


class _Catalog(msgspec.Struct):
    repositories: list[str] | None = None


class _Result(msgspec.Struct):
    name: str = ""
    description: str | None = None
    star_count: int = 0
    is_official: bool = False


class _Results(msgspec.Struct):
    results: list[_Result] = []


class _Entry(msgspec.Struct):
    digest: str
    size: int = 0
    media_type: str = msgspec.field(name="mediaType", default="")
    artifact_type: str = msgspec.field(name="artifactType", default="")
    annotations: dict[str, str] | None = None


class _Index(msgspec.Struct):
    manifests: list[_Entry] = []


class Discovery:
    """Thread-safe. Every method raises what `problems` makes of a registry's refusals."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def authenticate(self, domain: str, auth: RegistryAuth | None, cancel: CancelToken) -> bool:
        """Try credentials; answer whether the registry asked for any. Raises Unauthenticated when it does not take them."""
        remote = self._client.remote(domain, "", auth, ())
        subject = remote.subject("log in", "to")
        with remote.send("GET", "/v2/", {}, subject, cancel, expect=(200,)) as answer:
            answer.body(MAX_LIST)
        return remote.presented

    def tags(self, reference: Reference, query: str, size: int, auth: RegistryAuth | None, cancel: CancelToken) -> Page:
        """A page of a repository's tags."""
        remote = self._repository(reference, auth)
        answer, page = self._page(remote, "tags/list", "list the tags", query, size, _Tags, cancel)
        return Page(_names(answer.tags, remote.subject("list the tags")), page)

    def repositories(self, domain: str, query: str, size: int, auth: RegistryAuth | None, cancel: CancelToken) -> Page:
        """A page of a registry's catalogue."""
        remote = self._client.remote(domain, "", auth, ("registry:catalog:*",))
        answer, page = self._page(remote, "/v2/_catalog", "list the repositories", query, size, _Catalog, cancel)
        return Page(_names(answer.repositories, remote.subject("list the repositories")), page)

    def search(self, domain: str, term: str, limit: int, auth: RegistryAuth | None, cancel: CancelToken) -> list[Found]:
        """Repositories whose name has `term` in it; on Docker Hub, those that its own search finds."""
        prefix = "" if domain == DEFAULT_DOMAIN else f"{domain}/"
        remote = self._client.remote(_SEARCH_HOSTS.get(domain, domain), "", auth, ())
        subject = remote.subject(f"search for {shown(term)}", "in")
        path = f"/v1/search?{urlencode({'q': term, 'n': limit})}"
        with remote.send("GET", path, {}, subject, cancel, expect=(200, 301, 302, 400, 401, 403, 404, 405)) as answer:
            if answer.status == 200:
                found = _decode(answer, _Results, subject).results[:limit]
                _names([entry.name for entry in found], subject)
                return [Found(prefix + e.name, e.description or "", e.star_count, e.is_official) for e in found]
        if domain == DEFAULT_DOMAIN:
            raise FailedPrecondition(f"{subject}: its search answers {answer.status}", **subject.metadata())
        matching = (Found(prefix + name) for name in self._catalogue(domain, auth, cancel) if term.lower() in name)
        return list(islice(matching, limit))

    def referrers(
        self, reference: Reference, artifact_type: str, auth: RegistryAuth | None, cancel: CancelToken
    ) -> tuple[str, list[Referrer]]:
        """The digest a reference means, and what refers to it: by the referrers API, or by the tag that stands in for it."""
        digest = (
            reference.digest or self._client.repository(reference, auth, cancel).get_document(reference.target).digest
        )
        remote = self._repository(reference, auth)
        entries = self._referrers(remote, digest, artifact_type, cancel)
        if entries is None:
            entries = self._by_tag(remote, digest, cancel)
        found = [_referrer(entry, remote.subject(f"list the referrers of {digest}")) for entry in entries]
        return digest, [entry for entry in found if artifact_type in ("", entry.artifact_type)]

    def delete(self, reference: Reference, auth: RegistryAuth | None, cancel: CancelToken) -> str:
        """Delete a tag, or a manifest by its digest; answers the digest that it was. Raises FailedPrecondition when the registry cannot."""
        if not (reference.tag or reference.digest):
            raise InvalidArgument(f"{reference} has neither tag nor digest: say which to delete", field="reference")
        path = reference.path
        remote = self._client.remote(reference.domain, path, auth, (f"repository:{path}:pull,delete",))
        digest = reference.digest or self._client.repository(reference, auth, cancel).get_document(reference.tag).digest
        subject = remote.subject(f"delete {reference.target}")
        expect = (200, 202, 204) if reference.digest else (200, 202, 204, 400, 405)
        with remote.send("DELETE", f"manifests/{reference.target}", {}, subject, cancel, expect=expect) as answer:
            if answer.status in (400, 405):
                message = f"{subject}: the registry does not delete a tag alone"
                hint = f"every tag of a manifest goes with it: to have that, name {reference.repository}@{digest}"
                raise FailedPrecondition(message, reason="REGISTRY_UNSUPPORTED", hint=hint, **subject.metadata())
        return digest

    def _repository(self, reference: Reference, auth: RegistryAuth | None) -> Remote:
        return self._client.remote(reference.domain, reference.path, auth, (f"repository:{reference.path}:pull",))

    def _page(
        self, remote: Remote, path: str, action: str, query: str, size: int, kind: type[T], cancel: CancelToken
    ) -> tuple[T, str]:
        """One page, and the query of the next: the registry names it in a Link header, of which only the query is believed."""
        subject = remote.subject(action)
        url = f"{path}?{query or urlencode({'n': size})}"
        with remote.send("GET", url, {}, subject, cancel, expect=(200,)) as answer:
            following = _NEXT.search(answer.headers.get("Link", ""))
            page = _decode(answer, kind, subject)
        return page, urlencode(parse_qsl(urlsplit(urljoin("/", following[1])).query)) if following else ""

    def _catalogue(self, domain: str, auth: RegistryAuth | None, cancel: CancelToken) -> Iterator[str]:
        query = ""
        for _ in range(_MAX_PAGES):
            page = self.repositories(domain, query, _PAGE, auth, cancel)
            yield from page.names
            if not page.next or page.next == query:
                return
            query = page.next

    def _referrers(self, remote: Remote, digest: str, artifact_type: str, cancel: CancelToken) -> list[_Entry] | None:
        """None when the registry does not know the question."""
        action = f"list the referrers of {digest}"
        query = urlencode({"artifactType": artifact_type}) if artifact_type else ""
        entries: list[_Entry] = []
        for _ in range(_MAX_PAGES):
            url = f"referrers/{digest}" + (f"?{query}" if query else "")
            subject = remote.subject(action)
            with remote.send("GET", url, {}, subject, cancel, expect=(200, 400, 404, 405)) as answer:
                if answer.status != 200:
                    return None
                following = _NEXT.search(answer.headers.get("Link", ""))
                entries += _decode(answer, _Index, subject).manifests
            if following is None:
                break
            query = urlencode(parse_qsl(urlsplit(following[1]).query))
        return entries

    def _by_tag(self, remote: Remote, digest: str, cancel: CancelToken) -> list[_Entry]:
        tag = digest.replace(":", "-")
        subject = remote.subject(f"list the referrers of {digest}")
        with remote.send(
            "GET", f"manifests/{quote(tag)}", {"Accept": manifest.OCI_INDEX}, subject, cancel, expect=(200, 404)
        ) as answer:
            return _decode(answer, _Index, subject).manifests if answer.status == 200 else []


def _decode(answer: Answer, kind: type[T], subject: Subject) -> T:
    body = answer.body(MAX_LIST)
    if len(body) > MAX_LIST:
        raise ResourceExhausted(f"{subject}: it sends more than {MAX_LIST} bytes", **subject.metadata())
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise wrong_content(subject, f"it answers something else: {shown(str(error))[1:-1]}") from None


def _names(names: list[str] | None, subject: Subject) -> tuple[str, ...]:
    for name in names or ():
        if not _NAME.fullmatch(name):
            raise wrong_content(subject, f"{shown(name)} is not a name")
    return tuple(names or ())


def _referrer(entry: _Entry, subject: Subject) -> Referrer:
    if not is_digest(entry.digest) or entry.size < 0:
        raise wrong_content(subject, f"{shown(entry.digest)} is not a digest, or its size {entry.size} is none")
    return Referrer(entry.digest, entry.media_type, entry.artifact_type, entry.size, entry.annotations or {})
