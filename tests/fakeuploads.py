"""The half of `FakeRegistry` that takes uploads and lists what it has: the distribution specification, as a registry in order keeps it."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from tests.images import OCI_INDEX, Blob

if TYPE_CHECKING:
    from tests.fakeregistry import FakeRegistry, Reply, Request


def serve(registry: FakeRegistry, request: Request) -> Reply:
    """Uploads of blobs, manifests put and deleted."""
    parts = urlsplit(request.path)
    query = {key: values[0] for key, values in parse_qs(parts.query).items()}
    path = parts.path.removeprefix("/v2/")
    if "/manifests/" in path:
        return _manifest(registry, request, path)
    repository = path.partition("/blobs/")[0]
    if request.method == "POST":
        return _begin(registry, repository, query)
    if path.partition("/blobs/")[2].startswith("sha256:"):
        return _reply(202 if registry.blobs.pop(path.rpartition("/")[2], None) is not None else 404)
    if parts.path not in registry.uploads:
        return _reply(404, body=b'{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN","message":"unknown upload"}]}')
    return _upload(registry, request, parts.path, repository, query)


def _begin(registry: FakeRegistry, repository: str, query: dict[str, str]) -> Reply:
    digest = query.get("mount", "")
    if digest in registry.blobs and query["from"] in registry.homes.get(digest, {query["from"]}):
        registry.homes.setdefault(digest, set()).add(repository)
        return _reply(201, {"Location": f"/v2/{repository}/blobs/{digest}"})
    location = f"/v2/{repository}/blobs/uploads/{secrets.token_hex(8)}"
    registry.uploads[location] = bytearray()
    return _reply(202, {"Location": location, "Range": "0-0"})


def _upload(registry: FakeRegistry, request: Request, location: str, repository: str, query: dict[str, str]) -> Reply:
    data = registry.uploads[location]
    where = {"Location": location, "Range": f"0-{max(0, len(data) - 1)}"}
    if request.method == "GET":
        return _reply(204, where)
    if request.method == "DELETE":
        del registry.uploads[location]
        return _reply(204)
    begins = request.headers.get("Content-Range", "").partition("-")[0]
    if begins and int(begins) != len(data):
        return _reply(416, where)
    data += request.body
    if request.method == "PATCH":
        return _reply(202, {**where, "Range": f"0-{len(data) - 1}"})
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    del registry.uploads[location]
    if digest != query["digest"]:
        return _reply(400, body=b'{"errors":[{"code":"DIGEST_INVALID","message":"provided digest did not match"}]}')
    registry.blobs[digest] = bytes(data)
    registry.homes.setdefault(digest, set()).add(repository)
    return _reply(201, {"Location": f"/v2/{repository}/blobs/{digest}"})


def _manifest(registry: FakeRegistry, request: Request, path: str) -> Reply:
    if request.method == "DELETE":
        return _reply(202 if registry.manifests.pop(path, None) else 404)
    blob = Blob(request.headers["Content-Type"], request.body)
    listed = json.loads(request.body)
    repository = path.partition("/manifests/")[0]
    for part in (*listed.get("layers", ()), *([listed["config"]] if "config" in listed else ())):
        if part["digest"] not in registry.blobs or repository not in registry.homes.get(part["digest"], {repository}):
            return _reply(
                400, body=b'{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN","message":"blob unknown to registry"}]}'
            )
    for name in (path, f"{repository}/manifests/{blob.digest}"):
        registry.manifests[name] = blob
    return _reply(201, {"Docker-Content-Digest": blob.digest})


def discover(registry: FakeRegistry, request: Request) -> Reply:
    """The API's root, the catalogue, tags and referrers; lists in pages as the client asks (`n`, `last`)."""
    parts = urlsplit(request.path)
    query = {key: values[0] for key, values in parse_qs(parts.query).items()}
    path = parts.path.removeprefix("/v2/")
    names = [name.partition("/manifests/") for name in registry.manifests]
    if not path:
        return _reply(200, body=b"{}")
    if path == "_catalog":
        return _page("repositories", {name for name, _, _ in names}, parts.path, query)
    if path.endswith("/tags/list"):
        repository = path.removesuffix("/tags/list")
        tags = {tag for name, _, tag in names if name == repository and ":" not in tag}
        return _page("tags", tags, parts.path, query) if tags else _reply(404)
    repository, _, digest = path.partition("/referrers/")
    entries = []
    for name, blob in registry.manifests.items():
        document = json.loads(blob.data)
        if name == f"{repository}/manifests/{blob.digest}" and document.get("subject", {}).get("digest") == digest:
            kind = document.get("artifactType") or document["config"]["mediaType"]
            extra = {"artifactType": kind, "annotations": document.get("annotations", {})}
            entries.append({**blob.descriptor(), **extra})
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
    return _reply(200, {"Content-Type": OCI_INDEX}, json.dumps(index).encode())


def _page(key: str, names: set[str], path: str, query: dict[str, str]) -> Reply:
    rest = sorted(name for name in names if name > query.get("last", ""))
    chosen = rest[: int(query.get("n", "100"))]
    more = (
        {"Link": f'<{path}?last={chosen[-1]}&n={query.get("n", "100")}>; rel="next"'} if len(chosen) < len(rest) else {}
    )
    return _reply(200, more, json.dumps({key: chosen}).encode())


def _reply(status: int, headers: Mapping[str, str] | None = None, body: bytes = b"") -> Reply:
    from tests.fakeregistry import Reply

    return Reply(status, body, headers or {})
