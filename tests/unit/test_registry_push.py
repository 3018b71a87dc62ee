"""Pushes from a graph in memory to a registry in this process: what is sent, skipped, mounted, resumed, packed again and refused."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from moorage.server.cancel import CancelToken
from moorage.server.errors import (
    Cancelled,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    MoorageError,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)
from moorage.server.model import Image, LayerBlob, Platform
from moorage.server.registry import remote
from moorage.server.registry.client import Client
from moorage.server.registry.config import HostConfig, RegistryConfig
from moorage.server.registry.credentials import RegistryAuth
from moorage.server.registry.progress import PushProgress, PushStage
from moorage.server.registry.pull import Puller
from moorage.server.registry.push import Pushed, Pusher
from moorage.server.registry.reference import parse
from tests.fakeregistry import FakeRegistry, Reply, Request, sha256
from tests.images import build_image, tar_layer
from tests.memorygraph import MemoryGraph

BIG = tar_layer({"big": random.Random(3).randbytes(3 << 20)})
IMAGE = build_image((tar_layer({"base": b"1"}), BIG, tar_layer({"top": b"3"})), compression=("none", "gzip", "zstd"))
LAYER = IMAGE.layers[1]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_FIRST_PAUSE", 0.001)


class World:
    """Two registries, and a graph that has pulled IMAGE from the first."""

    def __init__(self, origin: FakeRegistry, registry: FakeRegistry, config: RegistryConfig) -> None:
        self.origin, self.registry = origin, registry
        self.graph = MemoryGraph()
        self.clients: list[Client] = []
        self.steps: list[PushProgress] = []
        self.configure(config)
        origin.add("team/app", "latest", IMAGE)

    def configure(self, config: RegistryConfig) -> None:
        self.config = config
        self.clients.append(Client(config))
        self.puller = Puller(self.graph, self.clients[-1])
        self.pusher = Pusher(self.puller.shared, self.clients[-1])

    def pull(self) -> Image:
        reference = parse(f"{self.origin.host}/team/app")
        return self.puller.pull(reference, Platform(), None, lambda _: None, CancelToken())

    def push(
        self, name: str = "mine/app:1", *, auth: RegistryAuth | None = None, cancel: CancelToken | None = None
    ) -> Pushed:
        reference = parse(name if name.startswith("127.") else f"{self.registry.host}/{name}")
        return self.pusher.push(reference, self.graph.images[-1], auth, self.steps.append, cancel or CancelToken())

    def stages(self, digest: str) -> list[PushStage]:
        return [step.stage for step in self.steps if step.digest == digest]

    def sent(self, method: str) -> list[Request]:
        return [request for request in self.registry.requests if request.method == method and "/blobs/" in request.path]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with FakeRegistry() as origin, FakeRegistry() as registry:
        hosts = (HostConfig(origin.host, plain_http=True), HostConfig(registry.host, plain_http=True))
        config = RegistryConfig(hosts=hosts, docker_config=str(tmp_path / "none.json"), retries=3, keep_blobs=True)
        made = World(origin, registry, config)
        made.pull()
        yield made
        for client in made.clients:
            client.close()


def test_an_image_goes_whole_and_unchanged(world: World) -> None:
    pushed = world.push()
    name = f"{world.registry.host}/mine/app"
    assert pushed == Pushed(f"{name}:1", IMAGE.manifest.digest, len(IMAGE.manifest.data), IMAGE.manifest.media_type)
    for target in ("1", IMAGE.manifest.digest):
        assert world.registry.manifests[f"mine/app/manifests/{target}"].data == IMAGE.manifest.data
    assert world.registry.blobs == {blob.digest: blob.data for blob in (IMAGE.config, *IMAGE.layers)}
    assert not world.registry.uploads
    assert f"{name}@{IMAGE.manifest.digest}" in world.graph.images[-1].digests
    assert {request.method for request in world.sent("PATCH")} == set(), "each blob went in one request"
    assert not world.graph.leases


def test_its_progress(world: World) -> None:
    world.push()
    assert world.steps[0] == PushProgress("", PushStage.PREPARING)
    assert world.steps[-1] == PushProgress("", PushStage.DONE)
    assert world.stages(LAYER.digest)[0] == PushStage.WAITING
    assert PushProgress(LAYER.digest, PushStage.DONE, len(LAYER.data), len(LAYER.data)) in world.steps


def test_what_is_there_is_not_sent(world: World) -> None:
    world.push()
    world.registry.requests.clear()
    world.steps.clear()
    world.push("mine/app:2")
    assert not world.sent("POST") and not world.sent("PUT")
    assert world.stages(LAYER.digest)[-1] == PushStage.EXISTS


def test_blobs_of_a_sister_repository_are_mounted(world: World) -> None:
    world.push()
    world.registry.requests.clear()
    world.steps.clear()
    world.push("mine/other:1")
    assert not world.sent("PUT") and not world.sent("PATCH")
    assert all("mount=sha256:" in request.path and "from=mine/app" in request.path for request in world.sent("POST"))
    assert world.stages(LAYER.digest)[-1] == PushStage.MOUNTED


def test_a_registry_that_does_not_mount_gets_the_bytes(world: World) -> None:
    world.push()
    world.registry.homes.clear()
    world.registry.blobs.clear()
    world.push("mine/other:1")
    assert world.registry.manifests["mine/other/manifests/1"].data == IMAGE.manifest.data
    assert not world.registry.uploads


def test_chunks(world: World) -> None:
    world.configure(replace(world.config, upload_chunk=1 << 20))
    world.push()
    ranges = [request.headers["Content-Range"] for request in world.sent("PATCH")]
    size = len(LAYER.data)
    assert ranges == ["0-1048575", "1048576-2097151", "2097152-3145727", f"3145728-{size - 1}"]
    assert world.registry.blobs[LAYER.digest] == LAYER.data


def test_the_registry_says_the_least_chunk(world: World) -> None:
    def intercept(request: Request) -> Reply | None:
        if request.method != "POST":
            return None
        answer = world.registry.serve(request)
        return replace(answer, headers={**answer.headers, "OCI-Chunk-Min-Length": "2000000"})

    world.configure(replace(world.config, upload_chunk=1000))
    world.registry.intercept = intercept
    world.push()
    assert len(world.sent("PATCH")) == 2


@pytest.mark.parametrize("chunk", [0, 1 << 20])
def test_a_broken_upload_goes_on_where_it_broke(world: World, chunk: int) -> None:
    kept = 500_000
    broken: list[str] = []

    def intercept(request: Request) -> Reply | None:
        if request.method not in ("PUT", "PATCH") or len(request.body) < kept or broken:
            return None
        broken.append(request.path)
        world.registry.uploads[request.path.partition("?")[0]] += request.body[:kept]
        return Reply(drop=True)

    world.configure(replace(world.config, upload_chunk=chunk))
    world.registry.intercept = intercept
    world.push()
    assert world.registry.blobs[LAYER.digest] == LAYER.data
    assert world.sent("PATCH")[-1 if not chunk else 1].headers["Content-Range"].startswith(f"{kept}-")


def test_an_upload_the_registry_has_forgotten_begins_anew(world: World) -> None:
    broken: list[str] = []

    def intercept(request: Request) -> Reply | None:
        if request.method != "PUT" or len(request.body) < 1 << 20 or broken:
            return None
        broken.append(request.path)
        del world.registry.uploads[request.path.partition("?")[0]]
        return Reply(drop=True)

    world.registry.intercept = intercept
    world.push()
    assert world.registry.blobs[LAYER.digest] == LAYER.data


@pytest.mark.parametrize("status", [429, 500, 503])
def test_patience(world: World, status: int) -> None:
    """The first request of each method is refused."""
    refused: set[str] = set()

    def intercept(request: Request) -> Reply | None:
        if request.method in refused:
            return None
        refused.add(request.method)
        return Reply(status, headers={"Retry-After": "0"})

    world.registry.intercept = intercept
    world.push()
    assert refused >= {"HEAD", "POST", "PUT", "GET"}
    assert world.registry.manifests["mine/app/manifests/1"].data == IMAGE.manifest.data


def test_patience_ends(world: World) -> None:
    world.registry.intercept = lambda request: Reply(503)
    with pytest.raises(Unavailable, match="it answers 503"):
        world.push()


def test_a_registry_that_asks_for_too_much_patience(world: World) -> None:
    world.registry.intercept = lambda request: Reply(429, headers={"Retry-After": "3600"})
    with pytest.raises(ResourceExhausted) as refusal:
        world.push()
    assert "asks to wait 3600 s" in refusal.value.hint


def test_refusals_leave_the_tag_alone(world: World) -> None:
    denied = Reply(403, b'{"errors":[{"code":"DENIED","message":"read only"}]}')
    world.registry.intercept = lambda request: denied if request.method == "POST" else None
    with pytest.raises(PermissionDenied, match=r"of mine/app to registry 127.*DENIED: read only"):
        world.push()
    assert not world.registry.manifests
    assert len(world.graph.images[-1].digests) == 1


def test_a_registry_that_has_something_else(world: World) -> None:
    lie = Reply(201, headers={"Docker-Content-Digest": sha256(b"else")})
    world.registry.intercept = lambda request: (
        lie if "/manifests/" in request.path and request.method == "PUT" else None
    )
    with pytest.raises(Internal, match="it says that it has"):
        world.push()


def test_a_registry_that_claims_more_than_it_got(world: World) -> None:
    world.configure(replace(world.config, upload_chunk=1 << 20))
    lie = Reply(202, headers={"Range": "0-99999999"})
    world.registry.intercept = lambda request: lie if request.method == "PATCH" else None
    with pytest.raises(Internal, match="bytes after 1048576 were sent"):
        world.push()


@pytest.mark.parametrize("location", ["", "ftp://elsewhere/x", "http://me:secret@127.0.0.1/x", "http://[/"])
def test_a_location_that_is_none(world: World, location: str) -> None:
    world.registry.intercept = lambda request: (
        Reply(202, headers={"Location": location}) if request.method == "POST" else None
    )
    with pytest.raises(MoorageError, match="which is refused"):
        world.push()


def test_credentials_stay_with_the_registry(world: World) -> None:
    """An upload that the registry sends elsewhere goes there without the credentials."""

    def intercept(request: Request) -> Reply | None:
        if "Authorization" not in request.headers:
            return Reply(401, headers={"WWW-Authenticate": "Basic"})
        if request.method == "POST":
            location = world.registry.serve(request).headers["Location"]
            world.origin.uploads[location] = world.registry.uploads[location]
            return Reply(202, headers={"Location": f"{world.origin.url}{location}"})
        return None

    world.registry.intercept = intercept
    world.origin.requests.clear()
    with pytest.raises(MoorageError):
        world.push(auth=RegistryAuth("me", "s3cret"))
    assert world.origin.requests
    assert not [request for request in world.origin.requests if "Authorization" in request.headers]


def test_a_token_is_asked_for_what_a_push_needs(world: World) -> None:
    world.push()
    asked: list[str] = []

    def intercept(request: Request) -> Reply | None:
        if request.path.startswith("/token"):
            asked.append(request.path)
            return Reply(200, b'{"token":"t0ken"}')
        if request.headers.get("Authorization") != "Bearer t0ken":
            realm = f'Bearer realm="{world.registry.url}/token",service="s"'
            return Reply(401, headers={"WWW-Authenticate": realm})
        return None

    world.registry.intercept = intercept
    world.push("mine/other:1", auth=RegistryAuth("me", "s3cret"))
    assert len(set(asked)) == 1
    assert "scope=repository%3Amine%2Fother%3Apull%2Cpush&scope=repository%3Amine%2Fapp%3Apull" in asked[0]


def test_a_token_that_expires_on_the_way(world: World) -> None:
    """The 401 comes when the body has gone out already: it is sent again."""
    expired: list[str] = []

    def intercept(request: Request) -> Reply | None:
        if request.path.startswith("/token"):
            return Reply(200, json.dumps({"token": "two" if expired else "one"}).encode())
        authorization = request.headers.get("Authorization")
        if authorization == "Bearer one" and request.method == "PUT" and len(request.body) > 1 << 20:
            expired.append("one")
        # What is sent beside the layer may have either token.
        elif authorization in ("Bearer one", "Bearer two"):
            return None
        return Reply(401, headers={"WWW-Authenticate": f'Bearer realm="{world.registry.url}/token"'})

    world.registry.intercept = intercept
    world.push()
    assert expired == ["one"]
    assert world.registry.blobs[LAYER.digest] == LAYER.data


def test_a_dropped_blob_is_fetched_from_where_it_came(world: World) -> None:
    world.configure(replace(world.config, keep_blobs=False))
    world.graph.content.delete(LAYER.digest)
    world.graph.kept.clear()
    pushed = world.push()
    assert pushed.digest == IMAGE.manifest.digest and not pushed.rewritten
    assert PushStage.FETCHING in world.stages(LAYER.digest)
    assert LAYER.digest not in world.graph.content.blobs, "only for the push"


def test_a_relayed_upload_goes_on_where_it_broke(world: World) -> None:
    kept = 700_000
    broken: list[str] = []

    def intercept(request: Request) -> Reply | None:
        if request.method != "PUT" or len(request.body) < kept or broken:
            return None
        broken.append(request.path)
        world.registry.uploads[request.path.partition("?")[0]] += request.body[:kept]
        return Reply(drop=True)

    world.graph.content.delete(LAYER.digest)
    world.registry.intercept = intercept
    assert not world.push().rewritten
    assert world.registry.blobs[LAYER.digest] == LAYER.data
    assert [request.headers["Range"] for request in world.origin.requests if "Range" in request.headers] == [
        f"bytes={kept}-"
    ]


@pytest.mark.parametrize("another", [True, False], ids=["another origin", "no other origin"])
def test_what_comes_damaged_is_not_sent_whole(world: World, another: bool) -> None:
    """It comes from the next repository that has it, else another blob is packed."""
    spoilt = LAYER.data[:-1] + b"?"
    world.graph.content.delete(LAYER.digest)
    world.origin.blobs[LAYER.digest] = spoilt
    data = gzip.compress(BIG, 1, mtime=0)
    world.graph.content.blobs[sha256(data)] = data
    chain_id = world.graph.images[-1].layers[1].chain_id
    world.graph.packable[chain_id] = LayerBlob(
        sha256(data), "application/vnd.oci.image.layer.v1.tar+gzip", len(data), sha256(BIG)
    )
    with FakeRegistry() as second:
        world.configure(replace(world.config, hosts=(*world.config.hosts, HostConfig(second.host, plain_http=True))))
        if another:
            second.add("team/app", "latest", IMAGE)
            world.puller.pull(parse(f"{second.host}/team/app"), Platform(), None, lambda _: None, CancelToken())
            world.graph.content.delete(LAYER.digest)
        assert world.push().rewritten != another
    assert spoilt not in [request.body for request in world.sent("PUT")]
    assert (world.registry.blobs.get(LAYER.digest) == LAYER.data) == another


def test_a_dropped_blob_that_the_registry_has_is_not_fetched(world: World) -> None:
    world.push()
    for blob in IMAGE.layers:
        world.graph.content.delete(blob.digest)
    world.origin.requests.clear()
    world.push("mine/other:1")
    assert not world.origin.requests


@pytest.mark.parametrize("same", [True, False], ids=["the same tar", "another tar"])
def test_a_dropped_blob_that_nobody_has_is_packed_again(world: World, same: bool) -> None:
    tar = BIG if same else tar_layer({"big": b"packed again"})
    data = gzip.compress(tar, 1, mtime=0)
    world.origin.blobs.pop(LAYER.digest)
    world.graph.content.delete(LAYER.digest)
    world.graph.content.blobs[sha256(data)] = data
    chain_id = world.graph.images[-1].layers[1].chain_id
    media_type = "application/vnd.oci.image.layer.v1.tar+gzip"
    world.graph.packable[chain_id] = LayerBlob(sha256(data), media_type, len(data), sha256(tar))
    pushed = world.push()
    assert pushed.rewritten and PushStage.PACKING in world.stages(LAYER.digest)
    document = json.loads(world.registry.manifests["mine/app/manifests/1"].data)
    assert pushed.digest == world.registry.manifests["mine/app/manifests/1"].digest
    assert document["layers"][1] == {"mediaType": media_type, "digest": sha256(data), "size": len(data)}
    assert document["layers"][0]["digest"] == IMAGE.layers[0].digest
    config = json.loads(world.registry.blobs[document["config"]["digest"]])
    assert config["rootfs"]["diff_ids"] == [IMAGE.diff_ids[0], sha256(tar), IMAGE.diff_ids[2]]
    assert (document["config"]["digest"] == IMAGE.id) == same


def test_without_its_manifest(world: World) -> None:
    world.graph.content.delete(IMAGE.manifest.digest)
    with pytest.raises(FailedPrecondition, match="the manifest of image"):
        world.push()


def test_a_digest_is_no_name_to_push_to(world: World) -> None:
    with pytest.raises(InvalidArgument, match="a digest follows from what is pushed"):
        world.push(f"mine/app@{IMAGE.manifest.digest}")


def test_cancelled_in_the_middle(world: World) -> None:
    cancel = CancelToken()

    def intercept(request: Request) -> Reply | None:
        if request.method == "PUT":
            cancel.cancel("enough")
            return Reply(201, stall=True, length=10)
        return None

    world.registry.intercept = intercept
    with pytest.raises(Cancelled, match="enough"):
        world.push(cancel=cancel)
    assert not world.registry.manifests and not world.graph.leases


def test_one_layer_that_fails_stops_the_others(world: World) -> None:
    def intercept(request: Request) -> Reply | None:
        if request.method == "PUT" and len(request.body) > 1 << 20:
            return Reply(400, b'{"errors":[{"code":"DIGEST_INVALID","message":"no"}]}')
        return None

    world.registry.intercept = intercept
    with pytest.raises(MoorageError, match="DIGEST_INVALID"):
        world.push()
    assert not world.registry.manifests


def test_a_bound_on_bytes_per_second(world: World) -> None:
    """Counted on a clock of the test's own: what was waited is what the rate asks for."""
    from moorage.server.registry.throttle import Throttle

    waited: list[float] = []

    class Patient(CancelToken):
        def wait(self, seconds: float) -> None:
            waited.append(seconds)

    throttle = Throttle(1000, clock=lambda: 50.0)
    for _ in range(4):
        throttle.take(500, Patient())
    assert waited == [0.5, 1.0, 1.5]
