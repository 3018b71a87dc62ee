"""Pulls into a graph in memory, from a registry in this process: what is fetched, kept, resumed and refused."""

from __future__ import annotations

import gzip
import json
import random
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from moorage.server.cancel import CancelToken
from moorage.server.errors import (
    Cancelled,
    DataLoss,
    DeadlineExceeded,
    MoorageError,
    NotFound,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
)
from moorage.server.model import Image, Platform
from moorage.server.registry import remote
from moorage.server.registry.client import Client
from moorage.server.registry.config import HostConfig, Mirror, RegistryConfig
from moorage.server.registry.flights import Flights, Wanted
from moorage.server.registry.layers import child_of
from moorage.server.registry.progress import PullProgress, PullStage, Reporter
from moorage.server.registry.pull import Puller
from moorage.server.registry.reference import parse
from tests.fakeregistry import FakeRegistry, Reply, Request, sha256
from tests.images import Blob, BuiltImage, build_image, build_index, tar_layer
from tests.memorygraph import MemoryGraph

BIG = tar_layer({"big": random.Random(3).randbytes(4 << 20)})
TARS = (tar_layer({"base": b"1"}), BIG, tar_layer({"top": b"3"}), tar_layer({"zstd": b"4"}))
AMD64 = Platform()
IMAGE = build_image(TARS, compression=("none", "gzip", "gzip", "zstd"))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_FIRST_PAUSE", 0.001)


class World:
    """A registry, a graph, a puller."""

    def __init__(self, registry: FakeRegistry, config: RegistryConfig, independent_layers: bool) -> None:
        self.registry = registry
        self.graph = MemoryGraph(independent_layers=independent_layers)
        self.content = self.graph.content
        self.clients: list[Client] = []
        self.configure(config)
        self.steps: list[PullProgress] = []
        registry.add("team/app", "latest", IMAGE)

    def configure(self, config: RegistryConfig) -> None:
        self.config = config
        self.clients.append(Client(config))
        self.puller = Puller(self.graph, self.clients[-1])

    def pull(self, name: str = "team/app", platform: Platform = AMD64, cancel: CancelToken | None = None) -> Image:
        reference = parse(f"{self.registry.host}/{name}")
        return self.puller.pull(reference, platform, None, self.steps.append, cancel or CancelToken())

    def stages(self, digest: str) -> list[PullStage]:
        return [step.stage for step in self.steps if step.digest == digest]

    def nothing_named(self) -> bool:
        return not self.graph.images and not self.content.writing and not self.graph.leases


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as server:
        yield server


@pytest.fixture(params=[True, False], ids=["any order", "chain order"])
def world(request: pytest.FixtureRequest, registry: FakeRegistry, tmp_path: Path) -> Iterator[World]:
    hosts = (HostConfig(registry.host, plain_http=True),)
    config = RegistryConfig(hosts=hosts, docker_config=str(tmp_path / "none.json"), retries=1)
    made = World(registry, config, request.param)
    yield made
    for client in made.clients:
        client.close()


def fetched(registry: FakeRegistry) -> Counter[str]:
    return Counter(request.path.rpartition("/")[2] for request in registry.asked("/blobs/"))


def test_an_image_comes_whole(world: World) -> None:
    image = world.pull()
    assert image.id == IMAGE.id
    assert image.tags == (f"{world.registry.host}/team/app:latest",)
    assert image.digests == (f"{world.registry.host}/team/app@{IMAGE.manifest.digest}",)
    assert tuple(layer.diff_id for layer in image.layers) == IMAGE.diff_ids
    assert [world.graph.tars[layer.chain_id] for layer in image.layers] == list(TARS)
    assert set(world.content.blobs) == {IMAGE.manifest.digest, IMAGE.config.digest}
    assert not world.content.ingests
    assert set(fetched(world.registry).values()) == {1}


def test_its_progress(world: World) -> None:
    world.pull()
    layer = IMAGE.layers[1]
    assert world.steps[0] == PullProgress("", PullStage.RESOLVING)
    assert world.steps[-1] == PullProgress("", PullStage.DONE)
    assert world.stages(layer.digest) == sorted(world.stages(layer.digest))
    assert {PullStage.WAITING, PullStage.DOWNLOADING, PullStage.DONE} <= set(world.stages(layer.digest))
    assert PullProgress(layer.digest, PullStage.DONE, len(layer.data), len(layer.data)) in world.steps


def test_what_is_here_is_not_fetched(world: World) -> None:
    world.pull()
    requests = len(world.registry.asked("/blobs/"))
    world.steps.clear()
    assert world.pull().id == IMAGE.id
    assert len(world.registry.asked("/blobs/")) == requests + 1, "the config alone"
    assert {world.stages(layer.digest)[0] for layer in IMAGE.layers} == {PullStage.EXISTS}


def test_images_share_layers(world: World) -> None:
    other = build_image((*TARS[:2], tar_layer({"other": b""})), compression=("none", "gzip", "gzip"))
    world.registry.add("team/other", "1", other)
    world.pull()
    world.pull("team/other:1")
    assert fetched(world.registry)[IMAGE.layers[1].digest] == 1


def test_compressed_layers_are_kept_when_told(world: World) -> None:
    world.configure(replace(world.config, keep_blobs=True))
    world.pull()
    assert {layer.digest for layer in IMAGE.layers} <= set(world.content.blobs)


def test_a_layer_that_occurs_twice_is_fetched_once(world: World) -> None:
    tars = (TARS[0], BIG, TARS[0], BIG, BIG)
    world.registry.add("team/app", "latest", build_image(tars))
    image = world.pull()
    assert [world.graph.tars[layer.chain_id] for layer in image.layers] == list(tars)
    assert set(fetched(world.registry).values()) == {1}
    assert len(world.content.blobs) == 2


def test_an_image_without_layers(world: World) -> None:
    world.registry.add("team/app", "latest", build_image(()))
    assert world.pull().layers == ()


def test_concurrent_pulls_share_downloads(world: World) -> None:
    other = build_image((*TARS, tar_layer({"other": b""})), compression=("none", "gzip", "gzip", "zstd", "gzip"))
    world.registry.add("team/other", "latest", other)
    with ThreadPoolExecutor(4) as pool:
        pulls = [pool.submit(world.pull, name) for name in ("team/app", "team/other") * 2]
        assert {pull.result().id for pull in pulls} == {IMAGE.id, other.id}
    layers = {layer.digest for layer in (*IMAGE.layers, *other.layers)}
    assert {fetched(world.registry)[digest] for digest in layers} == {1}
    assert not layers & set(world.content.blobs)


def test_an_index_by_tag_and_by_digest(world: World) -> None:
    arm = build_image((TARS[2],), architecture="arm64", variant="v8")
    index = build_index(arm, IMAGE)
    world.registry.add("team/app", "latest", index)
    image = world.pull()
    assert image.id == IMAGE.id
    assert image.digests == (f"{world.registry.host}/team/app@{index.manifest.digest}",)
    pinned = world.pull(f"team/app:1@{index.manifest.digest}", Platform("linux", "arm64"))
    assert (pinned.id, pinned.tags) == (arm.id, ())


def test_an_image_for_another_platform(world: World) -> None:
    with pytest.raises(NotFound, match="none for linux/arm64, only for linux/amd64"):
        world.pull(platform=Platform("linux", "arm64"))
    assert world.nothing_named()
    assert not world.graph.applied


# What goes wrong


def refusing(digest: str, reply: Reply, registry: FakeRegistry) -> None:
    registry.intercept = lambda request: reply if request.path.endswith(digest) else None


def test_a_layer_that_is_gone(world: World) -> None:
    refusing(IMAGE.layers[3].digest, Reply(404), world.registry)
    with pytest.raises(NotFound, match=IMAGE.layers[3].digest):
        world.pull()
    assert world.nothing_named()
    world.registry.intercept = lambda request: None
    assert world.pull().id == IMAGE.id


def test_a_registry_that_dies_in_the_middle_of_a_layer(world: World) -> None:
    layer = IMAGE.layers[1]
    half = len(layer.data) // 2
    world.configure(replace(world.config, retries=0))
    refusing(layer.digest, Reply(200, layer.data, cut=half), world.registry)
    with pytest.raises(Unavailable, match=f"ended after {half} bytes"):
        world.pull()
    assert world.nothing_named()
    assert len(world.content.ingests[layer.digest]) == half
    world.registry.intercept = lambda request: None
    assert world.pull().id == IMAGE.id
    assert [request.headers.get("Range") for request in world.registry.asked(layer.digest)] == [None, f"bytes={half}-"]
    assert not world.content.ingests


@pytest.mark.parametrize("flip", ["in the middle", "everywhere", "at the end"])
def test_flipped_bytes(world: World, flip: str) -> None:
    layer = IMAGE.layers[1]
    data = bytearray(layer.data)
    where = {"in the middle": [len(data) // 2], "everywhere": range(len(data)), "at the end": [len(data) - 1]}
    for i in where[flip]:
        data[i] ^= 0xFF
    refusing(layer.digest, Reply(200, bytes(data)), world.registry)
    with pytest.raises(DataLoss, match=f"blob {layer.digest} has the digest {sha256(bytes(data))}"):
        world.pull()
    assert world.nothing_named()
    assert layer.digest not in world.content.ingests
    assert layer.digest not in world.content.blobs
    world.registry.intercept = lambda request: None
    assert world.pull().id == IMAGE.id


def changed(image: BuiltImage, **changes: object) -> BuiltImage:
    """The image with another config, and a manifest that fits it."""
    config = replace(image.config, data=json.dumps({**json.loads(image.config.data), **changes}).encode())
    document = {**json.loads(image.manifest.data), "config": config.descriptor()}
    manifest = replace(image.manifest, data=json.dumps(document).encode())
    return replace(image, config=config, manifest=manifest)


def with_layer(data: bytes, media_type: str, tar: bytes = b"") -> BuiltImage:
    """An image of one layer whose blob is `data`."""
    image = build_image((tar,))
    layer = Blob(media_type, data)
    document = {**json.loads(image.manifest.data), "layers": [layer.descriptor()]}
    manifest = replace(image.manifest, data=json.dumps(document).encode())
    return replace(image, layers=(layer,), manifest=manifest)


GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"


@pytest.mark.parametrize(
    ("image", "kind", "text"),
    [
        (changed(IMAGE, rootfs={"type": "layers", "diff_ids": [sha256(b"")] * 4}), DataLoss, "diff"),
        (
            changed(IMAGE, rootfs={"type": "layers", "diff_ids": []}),
            DataLoss,
            "its config lists 0 layers, its manifest 4",
        ),
        (changed(IMAGE, rootfs={"type": "layers", "diff_ids": ["sha256:../x"] * 4}), DataLoss, "malformed"),
        (changed(IMAGE, rootfs=5), DataLoss, "its config is malformed"),
        (changed(IMAGE, architecture="s390x"), NotFound, "only for linux/s390x"),
        (with_layer(b"no gzip at all", GZIP), DataLoss, "begins like a plain tar"),
        (with_layer(gzip.compress(b"x")[:-8], GZIP), DataLoss, "ends early"),
        (with_layer(gzip.compress(bytes(200 << 20)), GZIP, bytes(200 << 20)), ResourceExhausted, "unpacks to more"),
        (with_layer(b"", f"{GZIP}+encrypted"), Unimplemented, "encrypted"),
    ],
)
def test_an_image_that_does_not_add_up(world: World, image: BuiltImage, kind: type[MoorageError], text: str) -> None:
    world.registry.add("team/bad", "latest", image)
    with pytest.raises(kind, match=text):
        world.pull("team/bad")
    assert world.nothing_named()
    assert not {layer.digest for layer in image.layers} & {*world.content.ingests, *world.content.blobs} - {
        layer.digest for layer in IMAGE.layers
    }


def test_a_layer_with_two_sizes(world: World) -> None:
    image = build_image((BIG, BIG))
    document = json.loads(image.manifest.data)
    document["layers"][1]["size"] += 1
    manifest = replace(image.manifest, data=json.dumps(document).encode())
    world.registry.add("team/bad", "latest", replace(image, manifest=manifest))
    with pytest.raises(DataLoss, match="two sizes"):
        world.pull("team/bad")


def test_the_first_failure_stops_the_others(world: World) -> None:
    stopped = threading.Event()

    def intercept(request: Request) -> Reply | None:
        if request.path.endswith(IMAGE.layers[0].digest):
            return Reply(403)
        if request.path.endswith(IMAGE.layers[1].digest):
            stopped.wait(30)
        return None

    world.registry.intercept = intercept
    try:
        with pytest.raises(MoorageError, match="403"):
            world.pull()
    finally:
        stopped.set()
    assert world.nothing_named()


# Cancelling


def test_cancelling_in_the_middle_keeps_what_came(world: World) -> None:
    layer = IMAGE.layers[1]
    cancel = CancelToken()
    came = threading.Event()

    def tell(step: PullProgress) -> None:
        if step.digest == layer.digest and step.stage is PullStage.DOWNLOADING and step.current > 1000:
            came.set()

    def stalling(request: Request) -> Reply | None:
        if not request.path.endswith(layer.digest):
            return None
        return Reply(200, layer.data[:100_000], length=len(layer.data), stall=True)

    world.registry.intercept = stalling
    with ThreadPoolExecutor(1) as pool:
        reference = parse(f"{world.registry.host}/team/app")
        pull = pool.submit(world.puller.pull, reference, Platform(), None, tell, cancel)
        assert came.wait(30)
        cancel.cancel("the caller hung up")
        with pytest.raises(Cancelled, match="the caller hung up"):
            pull.result()
    assert world.nothing_named()
    kept = len(world.content.ingests[layer.digest])
    assert kept
    world.registry.intercept = lambda request: None
    assert world.pull().id == IMAGE.id
    assert world.registry.asked(layer.digest)[-1].headers["Range"] == f"bytes={kept}-"


def test_a_deadline(world: World) -> None:
    cancel = CancelToken()

    def intercept(request: Request) -> Reply | None:
        if "/blobs/" in request.path:
            cancel.cancel("took too long", deadline=True)
        return None

    world.registry.intercept = intercept
    with pytest.raises(DeadlineExceeded, match="took too long"):
        world.pull(cancel=cancel)
    assert world.nothing_named()


def test_one_of_two_that_wait_for_a_layer_can_leave(world: World) -> None:
    layer = IMAGE.layers[1]
    begun, go_on = threading.Event(), threading.Event()

    def intercept(request: Request) -> Reply | None:
        if request.path.endswith(layer.digest):
            begun.set()
            go_on.wait(30)
        return None

    world.registry.intercept = intercept
    cancel = CancelToken()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(world.pull)
        assert begun.wait(30)
        second = pool.submit(world.pull, cancel=cancel)
        cancel.cancel("not interested any more")
        with pytest.raises(Cancelled):
            second.result()
        go_on.set()
        assert first.result().id == IMAGE.id
    assert fetched(world.registry)[layer.digest] == 1


def test_a_mirror_keeps_the_name(world: World) -> None:
    with FakeRegistry() as mirror:
        mirror.add("team/app", "latest", IMAGE)
        world.configure(replace(world.config, mirrors=(Mirror(world.registry.host, (mirror.url,)),)))
        image = world.pull()
    assert image.tags == (f"{world.registry.host}/team/app:latest",)
    assert not world.registry.requests


# The parts


def test_counts_of_bytes_are_told_ten_times_a_second() -> None:
    now = [0.0]
    steps: list[PullProgress] = []
    report = Reporter(steps.append, lambda: now[0])
    for i in range(1000):
        now[0] = i / 1000
        report("a", PullStage.DOWNLOADING, i, 1000)
        report("b", PullStage.DOWNLOADING, i, 1000)
    assert Counter(step.digest for step in steps) == {"a": 10, "b": 10}
    report("a", PullStage.DONE, 1000, 1000)
    report("a", PullStage.DONE, 1000, 1000)
    assert [step.stage for step in steps[20:]] == [PullStage.DONE]


def test_flights_of_one_key_do_not_overlap() -> None:
    flights = Flights()
    inside: Counter[str] = Counter()
    overlaps = []

    def fly(key: str) -> None:
        for _ in range(200):
            with flights.alone(key, CancelToken()):
                inside[key] += 1
                overlaps.append(inside[key])
                inside[key] -= 1

    with ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(fly, key) for key in "aaabbb"]:
            done.result()
    assert set(overlaps) == {1}


def test_a_flight_after_a_failure_goes() -> None:
    flights = Flights()
    with pytest.raises(ValueError), flights.alone("a", CancelToken()):
        raise ValueError
    with flights.alone("a", CancelToken()) as ready:
        assert ready is None


def test_the_last_who_wants_a_blob_deletes_it() -> None:
    deleted: list[str] = []
    wanted = Wanted(deleted.append)
    with wanted.held(["a", "b"]) as first, wanted.held(["a"]) as second:
        first("a")
        assert deleted == []
        second("a")
        assert deleted == ["a"]
    assert deleted == ["a"], "what was not used up stays"


def test_a_child_is_cancelled_with_its_parent_and_alone() -> None:
    parent = CancelToken()
    with child_of(parent) as child:
        child.cancel("a sibling failed")
    assert not parent.cancelled
    with child_of(parent) as child:
        parent.cancel("too late", deadline=True)
        with pytest.raises(DeadlineExceeded, match="too late"):
            child.check()
