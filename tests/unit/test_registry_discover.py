"""Tags, catalogue, search, referrers, deletions, logins: at a registry in this process that misbehaves as told."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from moorage.server.cancel import CancelToken
from moorage.server.errors import (
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
)
from moorage.server.registry import discover, remote
from moorage.server.registry.client import Client
from moorage.server.registry.config import RegistryConfig
from moorage.server.registry.credentials import RegistryAuth
from moorage.server.registry.discover import Discovery, Found, Page
from moorage.server.registry.reference import Reference, parse
from tests.fakeregistry import FakeRegistry, Reply, Request, sha256
from tests.images import OCI_MANIFEST, Blob, build_image, tar_layer

IMAGE = build_image([tar_layer({"a": b"a"})])
AUTH = RegistryAuth("me", "s3cret")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_FIRST_PAUSE", 0.001)


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as server:
        for name in ("team/app", "team/other", "base"):
            server.add(name, "latest", IMAGE)
        for tag in ("1.0", "1.1", "2.0"):
            server.add("team/app", tag, IMAGE)
        yield server


@pytest.fixture
def discovery() -> Iterator[Discovery]:
    client = Client(RegistryConfig(docker_config="/nonexistent/config.json", retries=2))
    yield Discovery(client)
    client.close()


def app(registry: FakeRegistry, suffix: str = "") -> Reference:
    return parse(f"{registry.host}/team/app{suffix}")


def test_tags_in_pages(discovery: Discovery, registry: FakeRegistry) -> None:
    page = discovery.tags(app(registry), "", 3, None, CancelToken())
    assert page.names == ("1.0", "1.1", "2.0")
    rest = discovery.tags(app(registry), page.next, 3, None, CancelToken())
    assert rest == Page(("latest",), "")


def test_a_link_that_leads_elsewhere_is_not_followed(discovery: Discovery, registry: FakeRegistry) -> None:
    """Of a Link only the query is believed."""
    registry.intercept = lambda request: Reply(
        200, b'{"tags":["a"]}', {"Link": '<http://elsewhere.example/v2/x/tags/list?last=a&n=1>; rel="next"'}
    )
    page = discovery.tags(app(registry), "", 1, None, CancelToken())
    assert page.next == "last=a&n=1"
    discovery.tags(app(registry), page.next, 1, None, CancelToken())
    assert registry.requests[-1].path == "/v2/team/app/tags/list?last=a&n=1"


@pytest.mark.parametrize("body", [b"[]", b'{"tags":"x"}', b'{"tags":["\\u001b[2J"]}', b'{"tags":["a b"]}', b"{"])
def test_lists_that_are_none(discovery: Discovery, registry: FakeRegistry, body: bytes) -> None:
    registry.intercept = lambda request: Reply(200, body)
    with pytest.raises(DataLoss, match="cannot list the tags of team/app from registry 127"):
        discovery.tags(app(registry), "", 10, None, CancelToken())


def test_a_list_without_end(discovery: Discovery, registry: FakeRegistry) -> None:
    registry.intercept = lambda request: Reply(200, b'{"tags":[', pad=discover.MAX_LIST + (1 << 16))
    with pytest.raises(ResourceExhausted, match="sends more than"):
        discovery.tags(app(registry), "", 10, None, CancelToken())


def test_the_catalogue(discovery: Discovery, registry: FakeRegistry) -> None:
    page = discovery.repositories(registry.host, "", 2, None, CancelToken())
    assert page.names == ("base", "team/app")
    assert discovery.repositories(registry.host, page.next, 2, None, CancelToken()).names == ("team/other",)


def test_a_registry_without_a_catalogue(discovery: Discovery, registry: FakeRegistry) -> None:
    registry.intercept = lambda request: Reply(404)
    with pytest.raises(NotFound, match="cannot list the repositories from registry 127"):
        discovery.repositories(registry.host, "", 2, None, CancelToken())


def test_search_falls_back_to_the_catalogue(discovery: Discovery, registry: FakeRegistry) -> None:
    found = discovery.search(registry.host, "team", 25, None, CancelToken())
    assert found == [Found(f"{registry.host}/team/app"), Found(f"{registry.host}/team/other")]
    assert len(discovery.search(registry.host, "team", 1, None, CancelToken())) == 1
    assert registry.asked("/v1/search")[0].path == "/v1/search?q=team&n=25"


def test_search_speaks_the_first_api(
    discovery: Discovery, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(discover._SEARCH_HOSTS, "docker.io", registry.host)
    results = [
        {"name": "nginx", "description": "A server", "star_count": 9, "is_official": True, "is_automated": False}
    ]
    answer = json.dumps({"num_results": 1, "query": "nginx", "results": results}).encode()
    registry.intercept = lambda request: Reply(200, answer) if request.path.startswith("/v1/search") else None
    assert discovery.search("docker.io", "nginx", 25, None, CancelToken()) == [Found("nginx", "A server", 9, True)]


def test_a_hub_without_search_has_no_catalogue_either(
    discovery: Discovery, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(discover._SEARCH_HOSTS, "docker.io", registry.host)
    with pytest.raises(FailedPrecondition, match="its search answers 404"):
        discovery.search("docker.io", "nginx", 25, None, CancelToken())


def artifact(annotations: dict[str, str]) -> Blob:
    empty = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": sha256(b"{}"), "size": 2}
    subject = {"mediaType": OCI_MANIFEST, "digest": IMAGE.manifest.digest, "size": len(IMAGE.manifest.data)}
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": "application/x.sbom", "config": empty}
    return Blob(
        OCI_MANIFEST, json.dumps({**document, "layers": [], "subject": subject, "annotations": annotations}).encode()
    )


def test_referrers(discovery: Discovery, registry: FakeRegistry) -> None:
    note = artifact({"made": "here"})
    registry.manifests[f"team/app/manifests/{note.digest}"] = note
    subject, found = discovery.referrers(app(registry), "", None, CancelToken())
    assert subject == IMAGE.manifest.digest
    assert [(entry.digest, entry.artifact_type, entry.size) for entry in found] == [
        (note.digest, "application/x.sbom", len(note.data))
    ]
    assert found[0].annotations == {"made": "here"}
    assert discovery.referrers(app(registry), "application/x.other", None, CancelToken())[1] == []


def test_referrers_by_tag_where_the_registry_has_no_such_api(discovery: Discovery, registry: FakeRegistry) -> None:
    registry.intercept = lambda request: Reply(404) if "/referrers/" in request.path else None
    assert discovery.referrers(app(registry), "", None, CancelToken())[1] == []
    entry = {**artifact({}).descriptor(), "artifactType": "application/x.sbom"}
    index = Blob("application/vnd.oci.image.index.v1+json", json.dumps({"manifests": [entry]}).encode())
    registry.manifests[f"team/app/manifests/{IMAGE.manifest.digest.replace(':', '-')}"] = index
    _, found = discovery.referrers(app(registry), "", None, CancelToken())
    assert [entry.digest for entry in found] == [artifact({}).digest]


def test_a_referrer_whose_digest_is_none(discovery: Discovery, registry: FakeRegistry) -> None:
    answer = json.dumps({"manifests": [{"digest": "sha256:../../x", "size": 1}]}).encode()
    registry.intercept = lambda request: Reply(200, answer) if "/referrers/" in request.path else None
    with pytest.raises(DataLoss, match="is not a digest"):
        discovery.referrers(app(registry), "", None, CancelToken())


def test_delete(discovery: Discovery, registry: FakeRegistry) -> None:
    assert discovery.delete(app(registry, ":1.0"), None, CancelToken()) == IMAGE.manifest.digest
    assert "team/app/manifests/1.0" not in registry.manifests
    digest = IMAGE.manifest.digest
    assert discovery.delete(app(registry, f"@{digest}"), None, CancelToken()) == digest
    with pytest.raises(NotFound):
        discovery.delete(app(registry, f"@{digest}"), None, CancelToken())
    with pytest.raises(InvalidArgument, match="neither tag nor digest"):
        discovery.delete(app(registry), None, CancelToken())


def test_a_tag_is_not_deleted_with_all_others_by_mistake(discovery: Discovery, registry: FakeRegistry) -> None:
    registry.intercept = lambda request: Reply(405) if request.method == "DELETE" else None
    with pytest.raises(FailedPrecondition, match="does not delete a tag alone") as refusal:
        discovery.delete(app(registry, ":1.0"), None, CancelToken())
    assert f"team/app@{IMAGE.manifest.digest}" in refusal.value.hint
    with pytest.raises(FailedPrecondition, match="it answers 405"):
        discovery.delete(app(registry, f"@{IMAGE.manifest.digest}"), None, CancelToken())


def guarded(registry: FakeRegistry, asked: list[Request]) -> None:
    """Have the registry want a token, which its service gives to `me` only."""

    def intercept(request: Request) -> Reply | None:
        if request.path.startswith("/token"):
            asked.append(request)
            right = request.headers.get("Authorization") == AUTH.basic()
            return Reply(200, b'{"token":"t0ken"}') if right else Reply(401)
        if request.headers.get("Authorization") != "Bearer t0ken":
            return Reply(401, headers={"WWW-Authenticate": f'Bearer realm="{registry.url}/token",service="s"'})
        return None

    registry.intercept = intercept


def test_a_login_is_tried(discovery: Discovery, registry: FakeRegistry) -> None:
    assert not discovery.authenticate(registry.host, AUTH, CancelToken()), "it did not ask"
    asked: list[Request] = []
    guarded(registry, asked)
    assert discovery.authenticate(registry.host, AUTH, CancelToken())
    assert "scope" not in asked[0].path
    with pytest.raises(Unauthenticated, match="token service answers 401"):
        discovery.authenticate(registry.host, RegistryAuth("me", "wrong"), CancelToken())


def test_the_scopes_of_tokens(discovery: Discovery, registry: FakeRegistry) -> None:
    asked: list[Request] = []
    guarded(registry, asked)
    discovery.tags(app(registry), "", 9, AUTH, CancelToken())
    discovery.repositories(registry.host, "", 9, AUTH, CancelToken())
    discovery.delete(app(registry, f"@{IMAGE.manifest.digest}"), AUTH, CancelToken())
    scopes = [request.path.partition("scope=")[2] for request in asked]
    assert scopes == [
        "repository%3Ateam%2Fapp%3Apull",
        "registry%3Acatalog%3A%2A",
        "repository%3Ateam%2Fapp%3Apull%2Cdelete",
    ]


def test_a_refusal_is_told_as_it_is(discovery: Discovery, registry: FakeRegistry) -> None:
    registry.intercept = lambda request: Reply(403, b'{"errors":[{"code":"DENIED","message":"not you"}]}')
    with pytest.raises(PermissionDenied, match="DENIED: not you"):
        discovery.tags(app(registry), "", 9, None, CancelToken())
