"""RegistryService and the push over a real gRPC server: messages to commands and back, errors as statuses, the registry in this process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from moorage.server.errors import PermissionDenied
from moorage.v1 import image_pb2, registry_pb2
from moorage.v1.image_pb2_grpc import ImageServiceStub
from moorage.v1.registry_pb2_grpc import RegistryServiceStub
from tests.api.conftest import House
from tests.fakekernel import IMAGE
from tests.fakeregistry import FakeRegistry, Reply, Request
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
