"""RegistryService and the push over a real gRPC server: messages to commands and back, errors as statuses, the registry in this process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import pytest

from moorage.client.main import main
from moorage.server.errors import PermissionDenied
from moorage.v1 import image_pb2, registry_pb2
from moorage.v1.image_pb2_grpc import ImageServiceStub
from moorage.v1.registry_pb2_grpc import RegistryServiceStub
from tests.api.conftest import House
from tests.fakekernel import IMAGE
from tests.fakeregistry import FakeRegistry, Reply, Request, sha256
from tests.images import build_image, tar_layer

AMD64 = build_image([tar_layer({"a": b"a"})])
ARM64 = build_image([tar_layer({"b": b"b"})], architecture="arm64", variant="v8")


@pytest.fixture
def registries(grpc_channel: Any) -> RegistryServiceStub:
    stub: RegistryServiceStub = RegistryServiceStub(grpc_channel)
    return stub


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as server:
        server.add("team/app", "amd64", AMD64)
        server.add("team/app", "arm64", ARM64)
        server.add("team/other", "1", AMD64)
        yield server


def code(failure: pytest.ExceptionInfo[grpc.RpcError]) -> grpc.StatusCode:
    answer: grpc.StatusCode = failure.value.code()
    return answer


def test_push(house: House, images: ImageServiceStub) -> None:
    pusher = house.daemon.rooms.pusher
    name = IMAGE.tags[0]
    request = image_pb2.PushImageRequest(reference=name, auth=image_pb2.RegistryAuth(username="me", password="pw"))
    steps = list(images.PushImage(request))
    assert [step.stage for step in steps] == [
        image_pb2.PUSH_STAGE_PREPARING,
        image_pb2.PUSH_STAGE_UPLOADING,
        image_pb2.PUSH_STAGE_DONE,
    ]
    assert (steps[1].current_bytes, steps[1].total_bytes) == (5, 10)
    assert steps[-1].pushed.reference == name
    assert pusher.asked[-1][2].username == "me"  # type: ignore[attr-defined]
    list(images.PushImage(image_pb2.PushImageRequest(reference=IMAGE.id, destination="registry.example/new")))
    assert pusher.asked[-1] == ("registry.example/new:latest", IMAGE, None)  # type: ignore[attr-defined]


def test_credentials_for_another_registry_are_not_shown(house: House, images: ImageServiceStub) -> None:
    auth = image_pb2.RegistryAuth(username="me", password="pw", registry="other.example")
    request = image_pb2.PushImageRequest(reference=IMAGE.id, destination="registry.example/new", auth=auth)
    list(images.PushImage(request))
    assert house.daemon.rooms.pusher.asked[-1][2] is None  # type: ignore[attr-defined]
    list(images.PullImage(image_pb2.PullImageRequest(reference="registry.example/new", auth=auth)))
    assert house.puller.asked[-1][2] is None


def test_a_push_that_fails(house: House, images: ImageServiceStub) -> None:
    house.daemon.rooms.pusher.fail = PermissionDenied("not you")  # type: ignore[attr-defined]
    try:
        with pytest.raises(grpc.RpcError) as failure:
            list(images.PushImage(image_pb2.PushImageRequest(reference=IMAGE.tags[0])))
    finally:
        house.daemon.rooms.pusher.fail = None  # type: ignore[attr-defined]
    assert code(failure) == grpc.StatusCode.PERMISSION_DENIED
    with pytest.raises(grpc.RpcError) as failure:
        list(images.PushImage(image_pb2.PushImageRequest(reference="registry.example/none")))
    assert code(failure) == grpc.StatusCode.NOT_FOUND


def test_pull_policies(house: House, images: ImageServiceStub) -> None:
    asked = len(house.puller.asked)
    for policy in (image_pb2.PULL_POLICY_MISSING, image_pb2.PULL_POLICY_NEVER):
        (step,) = images.PullImage(image_pb2.PullImageRequest(reference=IMAGE.tags[0], policy=policy))
        assert step.image.id == IMAGE.id
    assert len(house.puller.asked) == asked
    elsewhere = image_pb2.Platform(os="linux", architecture="s390x")
    never = image_pb2.PULL_POLICY_NEVER
    for reference, platform in (("registry.example/none", None), (IMAGE.tags[0], elsewhere)):
        with pytest.raises(grpc.RpcError) as failure:
            list(images.PullImage(image_pb2.PullImageRequest(reference=reference, platform=platform, policy=never)))
        assert code(failure) == grpc.StatusCode.NOT_FOUND
    missing = image_pb2.PULL_POLICY_MISSING
    list(images.PullImage(image_pb2.PullImageRequest(reference=IMAGE.tags[0], platform=elsewhere, policy=missing)))
    assert len(house.puller.asked) == asked + 1


def test_authenticate(registries: RegistryServiceStub, registry: FakeRegistry) -> None:
    auth = image_pb2.RegistryAuth(username="me", password="pw")
    request = registry_pb2.AuthenticateRequest(registry=registry.host, auth=auth)
    assert not registries.Authenticate(request).asked
    registry.intercept = lambda request: (
        None if "Authorization" in request.headers else Reply(401, headers={"WWW-Authenticate": "Basic"})
    )
    assert registries.Authenticate(request).asked
    registry.intercept = lambda request: Reply(401, headers={"WWW-Authenticate": "Basic"})
    with pytest.raises(grpc.RpcError) as failure:
        registries.Authenticate(request)
    assert code(failure) == grpc.StatusCode.UNAUTHENTICATED


def test_search(registries: RegistryServiceStub, registry: FakeRegistry) -> None:
    found = registries.SearchRegistry(registry_pb2.SearchRegistryRequest(term=f"{registry.host}/team")).results
    assert [entry.name for entry in found] == [f"{registry.host}/team/app", f"{registry.host}/team/other"]
    request = registry_pb2.SearchRegistryRequest(term=f"{registry.host}/team", min_stars=1)
    assert not registries.SearchRegistry(request).results
    for wrong in (registry_pb2.SearchRegistryRequest(), registry_pb2.SearchRegistryRequest(term="x", limit=1000)):
        with pytest.raises(grpc.RpcError) as failure:
            registries.SearchRegistry(wrong)
        assert code(failure) == grpc.StatusCode.INVALID_ARGUMENT


def test_lists_in_pages(registries: RegistryServiceStub, registry: FakeRegistry) -> None:
    request = registry_pb2.ListTagsRequest(repository=f"{registry.host}/team/app", page_size=1)
    first = registries.ListTags(request)
    request.page_token = first.next_page_token
    second = registries.ListTags(request)
    assert (list(first.tags), list(second.tags), second.next_page_token) == (["amd64"], ["arm64"], "")
    answer = registries.ListRepositories(registry_pb2.ListRepositoriesRequest(registry=registry.host))
    assert list(answer.repositories) == ["team/app", "team/other"]
    for token in ("%%%", "I2ZyYWdtZW50", "P3E="):  # not base64, "#fragment", "?q"
        request.page_token = token
        with pytest.raises(grpc.RpcError) as failure:
            registries.ListTags(request)
        assert code(failure) == grpc.StatusCode.INVALID_ARGUMENT


def test_manifests_referrers_and_deletion(registries: RegistryServiceStub, registry: FakeRegistry) -> None:
    name = f"{registry.host}/team/app:amd64"
    found = registries.GetManifest(registry_pb2.GetManifestRequest(reference=name))
    assert (found.raw, found.digest, found.local) == (AMD64.manifest.data, AMD64.manifest.digest, False)
    referrers = registries.ListReferrers(registry_pb2.ListReferrersRequest(reference=name))
    assert (referrers.subject, len(referrers.referrers)) == (AMD64.manifest.digest, 0)
    deleted = registries.DeleteManifest(registry_pb2.DeleteManifestRequest(reference=name))
    assert deleted.digest == AMD64.manifest.digest
    with pytest.raises(grpc.RpcError) as failure:
        registries.GetManifest(registry_pb2.GetManifestRequest(reference=name))
    assert code(failure) == grpc.StatusCode.NOT_FOUND


def test_blobs(registries: RegistryServiceStub, registry: FakeRegistry) -> None:
    layer = AMD64.layers[0]

    def blob(digest: str = layer.digest, size: int = len(layer.data)) -> bytes:
        request = registry_pb2.GetBlobRequest(reference=f"{registry.host}/team/app", digest=digest, size_bytes=size)
        return b"".join(piece.data for piece in registries.GetBlob(request))

    assert blob() == layer.data
    registry.blobs[layer.digest] = layer.data[:-1] + b"?"
    for wanted, why in (
        ({}, grpc.StatusCode.DATA_LOSS),
        ({"size": 5}, grpc.StatusCode.DATA_LOSS),
        ({"digest": f"sha256:{'0' * 64}"}, grpc.StatusCode.NOT_FOUND),
        ({"digest": "../../etc/passwd"}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"size": -1}, grpc.StatusCode.INVALID_ARGUMENT),
    ):
        with pytest.raises(grpc.RpcError) as failure:
            blob(**wanted)
        assert code(failure) == why


@pytest.mark.parametrize("body", [b"<html>log in</html>", b"[]", b'"x"', b""])
def test_what_is_no_manifest_is_not_handed_on(
    registries: RegistryServiceStub, registry: FakeRegistry, body: bytes
) -> None:
    """As from a proxy that wants a login."""
    registry.intercept = lambda request: Reply(200, body, {"Content-Type": "text/html"})
    with pytest.raises(grpc.RpcError) as failure:
        registries.GetManifest(registry_pb2.GetManifestRequest(reference=f"{registry.host}/team/app:amd64"))
    assert code(failure) == grpc.StatusCode.DATA_LOSS and "what came is not a manifest" in str(failure.value)


def put_blob(registries: RegistryServiceStub, reference: str, digest: str, data: bytes, size: int = -1) -> list[Any]:
    """Send a blob as a client does that sends what it is asked for, and ends there; answers the steps."""
    wanted: SimpleQueue[int] = SimpleQueue()
    opening = registry_pb2.PutBlobRequest.Open(
        reference=reference, digest=digest, size_bytes=len(data) if size < 0 else size
    )

    def requests() -> Iterator[registry_pb2.PutBlobRequest]:
        yield registry_pb2.PutBlobRequest(open=opening)
        offset = wanted.get()
        piece = registry_pb2.PutBlobRequest.Piece(offset=offset, data=data[offset:])
        yield registry_pb2.PutBlobRequest(piece=piece)

    steps = []
    try:
        for step in registries.PutBlob(requests()):
            steps.append(step)
            if step.HasField("send_from"):
                wanted.put(step.send_from)
    finally:
        wanted.put(0)
    return steps


def test_blobs_put(registries: RegistryServiceStub, registry: FakeRegistry) -> None:
    name, data = f"{registry.host}/team/files", b"what was found"
    digest = sha256(data)
    steps = put_blob(registries, name, digest, data)
    assert registry.blobs[digest] == data
    assert [step.send_from for step in steps if step.HasField("send_from")] == [0]
    assert (steps[-1].stage, steps[-1].current_bytes, steps[-1].total_bytes) == (image_pb2.PUSH_STAGE_DONE, 14, 14)
    (again,) = put_blob(registries, name, digest, data)
    assert again.stage == image_pb2.PUSH_STAGE_EXISTS, "what is there is not asked for"
    put_blob(registries, name, sha256(b""), b"")
    assert registry.blobs[sha256(b"")] == b""
    uploads = len(registry.uploads)
    for digest, sent, size, why in (
        (sha256(b"else"), b"what", 4, "is not blob"),
        (sha256(b"else"), b"longer", 4, "is not blob"),
        (sha256(b"longer"), b"long", 6, "ended after 4 of 6 bytes"),
        ("sha256:short", b"", 0, "is no blob"),
    ):
        with pytest.raises(grpc.RpcError) as failure:
            put_blob(registries, name, digest, sent, size)
        assert code(failure) == grpc.StatusCode.INVALID_ARGUMENT and why in str(failure.value)
        assert digest not in registry.blobs
    assert len(registry.uploads) <= uploads + 3
    with pytest.raises(grpc.RpcError) as failure:
        list(registries.PutBlob(iter([registry_pb2.PutBlobRequest()])))
    assert code(failure) == grpc.StatusCode.INVALID_ARGUMENT


def test_manifests_put(registries: RegistryServiceStub, registry: FakeRegistry) -> None:
    def put(reference: str, raw: bytes) -> image_pb2.Pushed:
        name = f"{registry.host}/team/app{reference}"
        return registries.PutManifest(registry_pb2.PutManifestRequest(reference=name, raw=raw))

    raw = AMD64.manifest.data
    pushed = put(":new", raw)
    assert (pushed.reference, pushed.digest) == (f"{registry.host}/team/app:new", AMD64.manifest.digest)
    assert registry.manifests["team/app/manifests/new"].data == raw
    assert put(f"@{AMD64.manifest.digest}", raw).digest == AMD64.manifest.digest
    for reference, document, why in (
        (f"@{ARM64.manifest.digest}", raw, "the manifest has the digest"),
        (":bad", b"<html>", "is not a manifest"),
        (":bad", b" " * (5 << 20), "at most"),
    ):
        with pytest.raises(grpc.RpcError) as failure:
            put(reference, document)
        assert code(failure) == grpc.StatusCode.INVALID_ARGUMENT and why in str(failure.value)
    assert "team/app/manifests/bad" not in registry.manifests


@pytest.mark.parametrize("notes", [False, True], ids=["tag", "list"])
def test_artifact_push(
    grpc_addr: str, registry: FakeRegistry, tmp_path: Path, capsys: pytest.CaptureFixture[str], notes: bool
) -> None:
    """`moorage artifact push`, with registries that keep lists of referrers and such that do not."""

    def noted(request: Request) -> Reply | None:
        if notes and request.method == "PUT" and "/manifests/" in request.path:
            answer = registry.serve(request)
            return Reply(answer.status, answer.body, {**answer.headers, "OCI-Subject": AMD64.manifest.digest})
        return None

    def run(*arguments: str) -> str:
        assert main(["-H", grpc_addr, "artifact", *arguments]) == 0
        return capsys.readouterr().out.strip()

    registry.intercept = noted
    (tmp_path / "report.txt").write_text("all is well")
    (tmp_path / "large.bin").write_bytes(bytes(range(256)) * (3 << 12))
    files = [f"{tmp_path}/report.txt:text/plain", f"{tmp_path}/large.bin"]
    name = f"{registry.host}/team/app"
    digest = run("push", "-q", "--artifact-type", "text/report", "-a", "by=hand", f"{name}:report", *files)
    manifest = registry.manifests["team/app/manifests/report"]
    assert manifest.digest == digest
    document = json.loads(manifest.data)
    assert (document["artifactType"], document["annotations"]) == ("text/report", {"by": "hand"})
    assert [layer["mediaType"] for layer in document["layers"]] == ["text/plain", "application/octet-stream"]
    run("pull", f"{name}:report", str(tmp_path / "out"))
    for file in ("report.txt", "large.bin"):
        assert (tmp_path / "out" / file).read_bytes() == (tmp_path / file).read_bytes()
    sent = len(registry.asked("/blobs/uploads/"))
    owned = run("push", "-q", "--subject", f"{name}:amd64", "--artifact-type", "text/report", name, *files)
    assert len(registry.asked("/blobs/uploads/")) == sent, "no blob is sent twice"
    assert "team/app/manifests/latest" not in registry.manifests
    stands_in = f"team/app/manifests/{AMD64.manifest.digest.replace(':', '-')}"
    assert (stands_in in registry.manifests) is not notes
    assert (
        main(["-H", grpc_addr, "registry", "referrers", "-q", "--artifact-type", "text/report", f"{name}:amd64"]) == 0
    )
    assert capsys.readouterr().out.split() == [owned]


def test_an_index_from_making_to_removal(registries: RegistryServiceStub, registry: FakeRegistry) -> None:
    name = f"{registry.host}/team/multi:1"
    parts = [f"{registry.host}/team/app:{tag}" for tag in ("amd64", "arm64")]
    made = registries.CreateIndex(registry_pb2.CreateIndexRequest(name=name, images=parts))
    assert [entry.digest for entry in made.entries] == [AMD64.manifest.digest, ARM64.manifest.digest]
    assert (made.entries[1].platform.architecture, made.entries[1].platform.variant) == ("arm64", "v8")
    assert made.entries[0].source == f"{registry.host}/team/app"
    assert list(registries.ListIndexes(registry_pb2.ListIndexesRequest()).indexes) == [made]
    local = registries.GetManifest(registry_pb2.GetManifestRequest(reference=name))
    assert local.local and local.digest == made.digest

    steps = list(registries.PushIndex(registry_pb2.PushIndexRequest(name=name)))
    assert steps[-1].pushed.digest == made.digest
    assert registry.manifests["team/multi/manifests/1"].data == local.raw
    assert registry.manifests[f"team/multi/manifests/{ARM64.manifest.digest}"].data == ARM64.manifest.data
    with FakeRegistry() as elsewhere:
        request = registry_pb2.PushIndexRequest(name=name, destination=f"{elsewhere.host}/copy")
        list(registries.PushIndex(request))
        assert elsewhere.manifests["copy/manifests/latest"].data == local.raw
        assert set(elsewhere.blobs) == {
            blob.digest for image in (AMD64, ARM64) for blob in (image.config, *image.layers)
        }

    registries.RemoveIndex(registry_pb2.RemoveIndexRequest(name=name))
    for call in (
        lambda: registries.RemoveIndex(registry_pb2.RemoveIndexRequest(name=name)),
        lambda: list(registries.PushIndex(registry_pb2.PushIndexRequest(name=name))),
    ):
        with pytest.raises(grpc.RpcError) as failure:
            call()
        assert code(failure) == grpc.StatusCode.NOT_FOUND


def test_an_index_takes_another_apart(registries: RegistryServiceStub, registry: FakeRegistry) -> None:
    parts = [f"{registry.host}/team/app:{tag}" for tag in ("amd64", "arm64")]
    name = f"{registry.host}/team/first:1"
    first = registries.CreateIndex(registry_pb2.CreateIndexRequest(name=name, images=parts))
    list(registries.PushIndex(registry_pb2.PushIndexRequest(name=name)))
    request = registry_pb2.CreateIndexRequest(name=f"{registry.host}/x", images=[name], annotations={"k": "v"})
    second = registries.CreateIndex(request)
    assert [entry.digest for entry in second.entries] == [entry.digest for entry in first.entries]
    raw = registries.GetManifest(registry_pb2.GetManifestRequest(reference=second.name)).raw
    assert json.loads(raw)["annotations"] == {"k": "v"}
    for made in (first, second):
        registries.RemoveIndex(registry_pb2.RemoveIndexRequest(name=made.name))


def test_indexes_that_make_no_sense(registries: RegistryServiceStub, registry: FakeRegistry) -> None:
    same = [f"{registry.host}/team/app:amd64", f"{registry.host}/team/other:1"]
    for name, images in (("x", same), ("x", []), (f"x@{AMD64.manifest.digest}", same[:1])):
        with pytest.raises(grpc.RpcError) as failure:
            registries.CreateIndex(registry_pb2.CreateIndexRequest(name=name, images=images))
        assert code(failure) == grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(grpc.RpcError) as failure:
        registries.CreateIndex(registry_pb2.CreateIndexRequest(name="x", images=[f"{registry.host}/team/none"]))
    assert code(failure) == grpc.StatusCode.NOT_FOUND


def test_an_index_whose_images_are_gone_is_not_pushed(registries: RegistryServiceStub, registry: FakeRegistry) -> None:
    name = f"{registry.host}/team/lost:1"
    parts = [f"{registry.host}/team/app:arm64"]
    registries.CreateIndex(registry_pb2.CreateIndexRequest(name=name, images=parts))

    def gone(request: Request) -> Reply | None:
        return Reply(404) if ARM64.layers[0].digest in request.path and request.method == "GET" else None

    registry.intercept = gone
    with FakeRegistry() as elsewhere:
        request = registry_pb2.PushIndexRequest(name=name, destination=f"{elsewhere.host}/copy:1")
        with pytest.raises(grpc.RpcError) as failure:
            list(registries.PushIndex(request))
        assert not elsewhere.manifests
    assert code(failure) == grpc.StatusCode.NOT_FOUND
    registries.RemoveIndex(registry_pb2.RemoveIndexRequest(name=name))
