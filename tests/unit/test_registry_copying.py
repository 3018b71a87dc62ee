"""Copies between registries in this process: images, indexes, artifacts, and what refers to them; digests stay."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from moorage.server.cancel import CancelToken
from moorage.server.errors import DataLoss, FailedPrecondition, InvalidArgument, NotFound, Unimplemented
from moorage.server.model import Image, Platform
from moorage.server.registry import remote
from moorage.server.registry.client import Client
from moorage.server.registry.config import HostConfig, RegistryConfig
from moorage.server.registry.copying import Copier
from moorage.server.registry.credentials import RegistryAuth
from moorage.server.registry.discover import Discovery
from moorage.server.registry.pull import Puller
from moorage.server.registry.push import Pushed
from moorage.server.registry.reference import parse
from moorage.server.registry.wholes import Gatherer
from tests.fakeregistry import FakeRegistry, Reply, Request
from tests.images import OCI_MANIFEST, Blob, build_image, build_index, tar_layer
from tests.memorygraph import MemoryGraph

AMD64 = build_image([tar_layer({"a": b"amd64"})])
ARM64 = build_image([tar_layer({"a": b"arm64"})], architecture="arm64")
INDEX = build_index(AMD64, ARM64)
EMPTY = Blob("application/vnd.oci.empty.v1+json", b"{}")
REPORT = Blob("text/plain", b"what was found")


def artifact(kind: str, content: Blob = REPORT, subject: Blob | None = None) -> Blob:
    """The manifest of one file, as `oras push` and `oras attach` make it."""
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": kind,
        "config": EMPTY.descriptor(),
        "layers": [{**content.descriptor(), "annotations": {"org.opencontainers.image.title": "report.txt"}}],
        "annotations": {"by": "test"},
        **({"subject": subject.descriptor()} if subject else {}),
    }
    return Blob(OCI_MANIFEST, json.dumps(document).encode())


class World:
    def __init__(self, origin: FakeRegistry, target: FakeRegistry, directory: Path) -> None:
        self.origin, self.target = origin, target
        hosts = tuple(HostConfig(each.host, plain_http=True) for each in (origin, target))
        self.graph = MemoryGraph()
        self.client = Client(RegistryConfig(hosts=hosts, docker_config=str(directory / "none.json"), retries=1))
        self.puller = Puller(self.graph, self.client)
        self.copier = Copier(self.puller.shared, self.client)

    def add(self, manifest: Blob, *blobs: Blob, tag: str = "") -> Blob:
        """Have the origin serve a document in team/app."""
        self.origin.blobs |= {blob.digest: blob.data for blob in blobs}
        for name in filter(None, (tag, manifest.digest)):
            self.origin.manifests[f"team/app/manifests/{name}"] = manifest
        return manifest

    def copy(self, source: str = "team/app:1", target: str = "mine/app:2", *, referrers: bool = False) -> Pushed:
        origin, goal = parse(f"{self.origin.host}/{source}"), parse(f"{self.target.host}/{target}")
        credentials = {self.origin.host: RegistryAuth("from", "there"), self.target.host: RegistryAuth("to", "here")}
        return self.copier.copy(origin, goal, credentials, lambda _: None, CancelToken(), referrers=referrers)

    def pull(self, tag: str = "1") -> Image:
        return self.puller.pull(
            parse(f"{self.origin.host}/team/app:{tag}"), Platform(), None, lambda _: None, CancelToken()
        )


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(remote, "_FIRST_PAUSE", 0.001)
    with FakeRegistry() as origin, FakeRegistry() as target:
        made = World(origin, target, tmp_path)
        yield made
        made.client.close()


def test_an_artifact(world: World) -> None:
    manifest = world.add(artifact("text/report"), EMPTY, REPORT, tag="1")
    copied = world.copy()
    assert copied == Pushed(f"{world.target.host}/mine/app:2", manifest.digest, len(manifest.data), OCI_MANIFEST)
    for name in ("2", manifest.digest):
        assert world.target.manifests[f"mine/app/manifests/{name}"].data == manifest.data
    assert world.target.blobs == {blob.digest: blob.data for blob in (EMPTY, REPORT)}
    assert not world.graph.content.blobs and not world.graph.leases


def test_a_pull_of_one_says_what_it_is(world: World) -> None:
    world.add(artifact("text/report"), EMPTY, REPORT, tag="1")
    with pytest.raises(Unimplemented, match="no container image, but an artifact of type 'text/report'") as refusal:
        world.pull()
    assert "moorage registry cp" in refusal.value.hint


def test_an_index_with_all_that_it_lists(world: World) -> None:
    world.origin.add("team/app", "1", INDEX)
    assert world.copy().digest == INDEX.manifest.digest
    for member in (INDEX, AMD64, ARM64):
        assert world.target.manifests[f"mine/app/manifests/{member.manifest.digest}"].data == member.manifest.data
    before = len(world.origin.asked("/blobs/"))
    world.copy(target="mine/app:3")
    assert len(world.origin.asked("/blobs/")) == before, "what is there is not fetched"


def test_what_refers_to_it(world: World) -> None:
    """To a registry that keeps no list of referrers: they are listed under the tag that stands in for it."""
    world.origin.add("team/app", "1", AMD64)
    report = world.add(artifact("text/report", subject=AMD64.manifest), EMPTY, REPORT)
    signature = world.add(artifact("text/signature", Blob("text/plain", b"s"), report), Blob("text/plain", b"s"))
    tag = f"{AMD64.manifest.digest.replace(':', '-')}.sig"
    cosign = world.add(artifact("text/cosign"), tag=tag)
    world.copy()
    assert not [name for name in world.target.manifests if report.digest in name]
    world.copy(referrers=True)
    for manifest in (report, signature, cosign):
        assert world.target.manifests[f"mine/app/manifests/{manifest.digest}"].data == manifest.data
    assert world.target.manifests[f"mine/app/manifests/{tag}"].digest == cosign.digest
    listed = json.loads(world.target.manifests[f"mine/app/manifests/{AMD64.manifest.digest.replace(':', '-')}"].data)
    assert listed["manifests"] == [
        {**report.descriptor(), "artifactType": "text/report", "annotations": {"by": "test"}}
    ]
    # A registry without the API for it: the tag is what is asked, and copied once more nothing is listed twice.
    world.target.intercept = lambda request: Reply(404) if "/referrers/" in request.path else None
    world.copy(referrers=True)
    name = parse(f"{world.target.host}/mine/app@{AMD64.manifest.digest}")
    _, found = Discovery(world.client).referrers(name, "", None, CancelToken())
    assert [(each.digest, each.artifact_type) for each in found] == [(report.digest, "text/report")]


def test_a_registry_that_notes_referrers_itself(world: World) -> None:
    world.origin.add("team/app", "1", AMD64)
    world.add(artifact("text/report", subject=AMD64.manifest), EMPTY, REPORT)

    def intercept(request: Request) -> Reply | None:
        if request.method != "PUT" or b'"subject"' not in request.body:
            return None
        answer = world.target.serve(request)
        return Reply(answer.status, answer.body, {**answer.headers, "OCI-Subject": AMD64.manifest.digest})

    world.target.intercept = intercept
    world.copy(referrers=True)
    assert f"mine/app/manifests/{AMD64.manifest.digest.replace(':', '-')}" not in world.target.manifests


def test_each_registry_sees_its_own_credentials(world: World) -> None:
    world.add(artifact("text/report"), EMPTY, REPORT, tag="1")
    challenge = Reply(401, headers={"WWW-Authenticate": "Basic"})
    for registry in (world.origin, world.target):
        registry.intercept = lambda request: None if "Authorization" in request.headers else challenge
    world.copy()
    for registry in (world.origin, world.target):
        shown = {
            request.headers["Authorization"] for request in registry.requests if "Authorization" in request.headers
        }
        assert len(shown) == 1
    assert world.target.manifests


def test_what_is_lacking_or_wrong(world: World) -> None:
    manifest = world.add(artifact("text/report"), EMPTY, tag="1")
    with pytest.raises(NotFound, match=f"its blob {REPORT.digest} is not to be had"):
        world.copy()
    assert not world.target.manifests, "the tag moves last"
    with pytest.raises(InvalidArgument, match="a digest follows from what is copied"):
        world.copy(target=f"mine/app@{manifest.digest}")
    with pytest.raises(NotFound):
        world.copy("team/app:none")
    loop: dict[str, object] = {"schemaVersion": 2, "manifests": []}
    for _ in range(6):
        inner = world.add(Blob(INDEX.manifest.media_type, json.dumps(loop).encode()))
        loop = {"schemaVersion": 2, "manifests": [inner.descriptor()]}
    with pytest.raises(DataLoss, match="nested more than"):
        world.copy(f"team/app@{inner.digest}")


def test_the_index_that_an_image_was_pulled_by(world: World) -> None:
    world.origin.add("team/app", "1", INDEX)
    world.origin.add("team/app", "single", ARM64)
    image = world.pull()
    target = parse(f"{world.target.host}/mine/app:1")
    pushed = world.copier.push_index(image, target, None, lambda _: None, CancelToken())
    assert pushed.digest == INDEX.manifest.digest
    assert f"mine/app/manifests/{ARM64.manifest.digest}" in world.target.manifests
    assert f"{world.target.host}/mine/app@{INDEX.manifest.digest}" in world.graph.images[-1].digests
    world.graph.indexes.clear()
    with pytest.raises(FailedPrecondition, match="it was not pulled by an index"):
        world.copier.push_index(image, target, None, lambda _: None, CancelToken())


def test_an_index_with_all_that_it_lists_for_an_archive(world: World) -> None:
    """What is not here comes from where the image was pulled; when that is gone too, it is said."""
    world.origin.add("team/app", "1", INDEX)
    gatherer = Gatherer(world.graph, world.client, CancelToken())
    whole = gatherer.of_image(world.pull())
    assert whole.digest == INDEX.manifest.digest and whole.media_type == INDEX.manifest.media_type
    assert whole.documents == {each.manifest.digest: each.manifest.data for each in (INDEX, AMD64, ARM64)}
    blobs = {blob.digest: blob.data for image in (AMD64, ARM64) for blob in (image.config, *image.layers)}
    assert {digest: b"".join(gatherer.open(blob)) for digest, blob in whole.blobs.items()} == blobs
    assert ARM64.layers[0].digest not in world.graph.content.blobs, "it was for the archive only"
    world.origin.blobs[ARM64.layers[0].digest] = b"?" * len(ARM64.layers[0].data)
    with pytest.raises(FailedPrecondition, match="is not kept here, and no registry is known that has it"):
        list(gatherer.open(whole.blobs[ARM64.layers[0].digest]))
    world.graph.images[-1] = replace(world.graph.images[-1], digests=())
    with pytest.raises(FailedPrecondition, match=f"its manifest {ARM64.manifest.digest} is not kept here"):
        Gatherer(world.graph, world.client, CancelToken()).of_image(world.graph.images[-1])


def test_an_index_that_is_here_whole_needs_no_registry(world: World) -> None:
    """As after a load: nothing is known of where it came from."""
    world.origin.add("team/app", "1", INDEX)
    image = replace(world.pull(), digests=())
    for member in (AMD64, ARM64):
        for blob in (member.manifest, member.config, *member.layers):
            world.graph.content.blobs[blob.digest] = blob.data
    asked = len(world.origin.requests)
    target = parse(f"{world.target.host}/mine/app:1")
    assert world.copier.push_index(image, target, None, lambda _: None, CancelToken()).digest == INDEX.manifest.digest
    assert world.target.manifests["mine/app/manifests/1"].data == INDEX.manifest.data
    assert len(world.origin.requests) == asked
