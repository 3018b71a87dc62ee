"""Build caches in a registry in this process: what is left there, found, fetched and refused."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from moorage.server.cancel import CancelToken
from moorage.server.errors import DataLoss, FailedPrecondition, MoorageError, NotFound, PermissionDenied
from moorage.server.model import LayerBlob
from moorage.server.registry import remote
from moorage.server.registry.buildcache import ARTIFACT, BuildCaches, CachedStep, RemoteCache
from moorage.server.registry.client import Client
from moorage.server.registry.config import RegistryConfig, SignatureRule
from moorage.server.registry.pull import Puller
from moorage.server.registry.reference import parse
from tests.fakeregistry import FakeRegistry
from tests.images import build_image, tar_layer
from tests.memorygraph import MemoryGraph

GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
TARS = [tar_layer({"one": b"1"}), tar_layer({"two": b"2"})]


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_FIRST_PAUSE", 0.001)


class Side:
    """A daemon's side: a graph, and its way to the registry."""

    def __init__(self, registry: FakeRegistry, config: RegistryConfig | None = None) -> None:
        self.graph = MemoryGraph()
        self.name = parse(f"{registry.host}/team/cache:1")
        client = Client(config or RegistryConfig())
        self.caches = BuildCaches(Puller(self.graph, client).shared, client)

    def find(self) -> RemoteCache | None:
        return self.caches.find(self.name, CancelToken())

    def found(self) -> RemoteCache:
        cache = self.find()
        assert cache is not None
        return cache

    def fetch(self, step: CachedStep) -> None:
        self.found().fetch(step, lambda _: None, CancelToken())

    def export(self, steps: list[CachedStep]) -> int:
        return self.caches.export(self.name, steps, lambda _: None, CancelToken())


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as registry:
        yield registry


def steps(side: Side) -> list[CachedStep]:
    """Two layers, one on top of the other, and a step that made nothing new; the blobs are in the graph's content store."""
    found: list[CachedStep] = []
    for number, tar in enumerate(TARS):
        data = gzip.compress(tar, mtime=0)
        blob = LayerBlob(sha256(data), GZIP, len(data), sha256(tar))
        side.graph.content.blobs[blob.digest] = data
        parent = found[-1].chain_id if found else ""
        found.append(CachedStep(sha256(b"key %d" % number), parent, 7 + number, f"RUN {number}", blob))
    return [*found, CachedStep(sha256(b"nothing"), found[-1].chain_id, 9, "WORKDIR /")]


def test_what_one_leaves_another_finds_and_fetches_step_by_step(registry: FakeRegistry) -> None:
    one, other = Side(registry), Side(registry)
    left = steps(one)
    assert one.export(left) == 0
    document = json.loads(registry.manifests["team/cache/manifests/1"].data)
    assert (document["artifactType"], len(document["layers"])) == (ARTIFACT, 2)
    assert other.found().steps == {step.key: step for step in left}
    assert not other.graph.has_layer(left[0].chain_id)
    for step in left:
        other.fetch(step)
        assert other.graph.has_layer(step.chain_id)
    assert [len(registry.asked(step.blob.digest)) > 0 for step in left if step.blob] == [True, True]
    assert not other.graph.leases


def test_a_step_whose_layer_nobody_has_is_left_out(registry: FakeRegistry) -> None:
    side = Side(registry)
    left = steps(side)
    assert left[0].blob is not None
    del side.graph.content.blobs[left[0].blob.digest]
    assert side.export(left) == 1
    assert set(Side(registry).found().steps) == {left[1].key, left[2].key}


def test_an_image_is_no_cache_and_nothing_is_neither(registry: FakeRegistry) -> None:
    with pytest.raises(NotFound):
        Side(registry).find()
    registry.add("team/cache", "1", build_image(TARS))
    assert Side(registry).find() is None


def test_a_digest_is_no_name_for_a_cache(registry: FakeRegistry) -> None:
    side = Side(registry)
    side.name = parse(f"{registry.host}/team/cache@{sha256(b'x')}")
    with pytest.raises(FailedPrecondition, match="a digest follows from what is pushed"):
        side.export(steps(side))


def test_the_signature_policy_counts(registry: FakeRegistry) -> None:
    Side(registry).export(steps(Side(registry)))
    strict = Side(registry, RegistryConfig(signatures=(SignatureRule("", "reject"),)))
    with pytest.raises(PermissionDenied):
        strict.find()


Change = Callable[[dict[str, Any]], None]


def changed(registry: FakeRegistry, change: Change) -> None:
    """Have the list of steps say something else, under digests that are right."""
    manifest = registry.manifests["team/cache/manifests/1"]
    document = json.loads(manifest.data)
    config = json.loads(registry.blobs[document["config"]["digest"]])
    change(config)
    data = json.dumps(config).encode()
    registry.blobs[sha256(data)] = data
    document["config"].update(digest=sha256(data), size=len(data))
    registry.manifests["team/cache/manifests/1"] = type(manifest)(manifest.media_type, json.dumps(document).encode())


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config["steps"][0].update(key="sha256:../x"),
        lambda config: config["steps"][0].update(parent="x"),
        lambda config: config["steps"][0].update(diff_id=""),
        lambda config: config["steps"][0].update(layer=sha256(b"not listed")),
        lambda config: config["steps"][0].pop("created_ns"),
        lambda config: config.update(steps="x"),
    ],
)
def test_a_malformed_list_is_refused(registry: FakeRegistry, change: Change) -> None:
    side = Side(registry)
    side.export(steps(side))
    changed(registry, change)
    with pytest.raises(DataLoss, match="the list of the build cache's steps is malformed"):
        side.find()


def test_a_layer_that_is_not_what_the_list_says_is_not_kept(registry: FakeRegistry) -> None:
    side = Side(registry)
    (first, second, _) = steps(side)
    side.export([first, second])
    assert first.blob is not None and second.blob is not None
    # The other layer's identity: the blob is whole, and unpacks to something else.
    wrong = second.blob.diff_id
    changed(registry, lambda config: config["steps"][0].update(diff_id=wrong))
    other = Side(registry)
    with pytest.raises(MoorageError):
        other.fetch(other.found().steps[first.key])
    assert not other.graph.has_layer(other.found().steps[first.key].chain_id)
    # The list of steps itself is not what its digest says.
    document = json.loads(registry.manifests["team/cache/manifests/1"].data)
    registry.blobs[document["config"]["digest"]] = b" " * document["config"]["size"]
    with pytest.raises(DataLoss):
        other.find()
