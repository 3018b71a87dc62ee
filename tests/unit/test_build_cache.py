"""The build cache over the graph, and the taking in of a context's contents."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from moorage.server.builder.cache import BuildCache, key_of
from moorage.server.builder.context import BuildContext, ContextEntry
from moorage.server.builder.stage import inline_cache, of_image
from moorage.server.cancel import CancelToken
from moorage.server.engine.builds import Receiver
from moorage.server.errors import DataLoss, InvalidArgument
from moorage.server.graph.content import ContentStore
from moorage.server.graph.packing import MadeLayer
from moorage.server.model import Platform
from moorage.server.registry.buildcache import CachedStep
from tests.graphhouse import House

KEY = key_of("", {"run": ["x"]})


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.db.close()


def made(house: House, changes: bytes = b"changes") -> MadeLayer:
    house.driver.create("c1", "")
    house.driver.changes["c1"] = changes
    layer = house.graph.commit_layer("c1", CancelToken())
    house.driver.remove("c1")
    return layer


def test_a_key_is_of_all_that_it_is_made_of() -> None:
    keys = [
        key_of("", {"run": ["x"]}),
        key_of("sha256:1", {"run": ["x"]}),
        key_of("", {"run": ["y"]}),
        key_of("", {"run": ["x"], "env": []}),
    ]
    assert len(set(keys)) == 4
    assert key_of("", {"a": 1, "b": 2}) == key_of("", {"b": 2, "a": 1})


def test_an_entry_holds_its_layer_until_it_is_pruned(house: House) -> None:
    cache, layer = BuildCache(house.db, house.graph), made(house)
    cache.add(KEY, layer.layer.chain_id, layer.blob, text="RUN x", created_ns=1)
    house.graph.collect(set())
    found = cache.find(KEY)
    assert found is not None
    assert (found.chain_id, found.blob) == (layer.layer.chain_id, layer.blob)
    pruned = cache.prune(2**62)
    assert (pruned.entries, house.graph.has_layer(layer.layer.chain_id)) == (1, False)
    assert pruned.reclaimed > 0
    assert cache.find(KEY) is None
    assert house.content.digests() == set()


def test_only_what_was_long_unused_is_pruned(house: House) -> None:
    cache, layer = BuildCache(house.db, house.graph), made(house)
    entry = cache.add(KEY, layer.layer.chain_id, layer.blob, text="", created_ns=1)
    assert cache.prune(entry.used_ns).entries == 0
    assert cache.find(KEY) is not None


def test_a_later_result_takes_the_place_of_an_earlier(house: House) -> None:
    cache = BuildCache(house.db, house.graph)
    first, second = made(house, b"1"), made(house, b"2")
    cache.add(KEY, first.layer.chain_id, first.blob, text="", created_ns=1)
    cache.add(KEY, second.layer.chain_id, second.blob, text="", created_ns=1)
    house.graph.collect(set())
    found = cache.find(KEY)
    assert found is not None
    assert found.chain_id == second.layer.chain_id
    assert not house.graph.has_layer(first.layer.chain_id)


def test_an_entry_without_its_layer_is_none(house: House) -> None:
    cache = BuildCache(house.db, house.graph)
    cache.add(KEY, "sha256:" + "0" * 64, None, text="", created_ns=1)
    assert cache.find(KEY) is None
    cache.add(KEY, "", None, text="", created_ns=1)
    assert cache.find(KEY) is not None


def test_what_was_not_safe_on_the_disk_is_not_believed_after_another_boot(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boot = tmp_path / "boot_id"
    monkeypatch.setattr("moorage.server.builder.cache.BOOT_ID", boot)
    boot.write_text("one\n")
    cache = BuildCache(house.db, house.graph)
    other = key_of("", {})
    for key in (KEY, other):
        cache.add(key, "", None, text="", created_ns=1)
    cache.settle([other])
    assert cache.drop_unsafe() == 0
    boot.write_text("two\n")
    again = BuildCache(house.db, house.graph)
    assert again.drop_unsafe() == 1
    assert [entry.key for entry in again.all()] == [other]


def test_an_image_tells_only_of_its_own_layers(house: House) -> None:
    layer, base = made(house), made(house, b"base")
    document = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [base.blob.diff_id]}}
    state = of_image(house.graph, house.graph.make_image(json.dumps(document).encode(), [base.blob]), "base")
    state.steps = [
        CachedStep(KEY, "", 0, "not in the image", layer.blob),
        CachedStep(key_of("", {}), "", 0, "base", base.blob),
        CachedStep("no key", "", 0, "base", base.blob),
        CachedStep(KEY, "", 0, "nothing new"),
    ]
    config = json.loads(state.config(Platform(), inline_cache=True))
    assert len(config["moorage.cache.v1"]) == 3
    image = house.graph.make_image(state.config(Platform(), inline_cache=True), state.blobs)
    assert [(key, chain) for key, chain, _ in inline_cache(house.graph, image)] == [(key_of("", {}), state.chain_id)]
    plain = house.graph.make_image(state.config(Platform(), inline_cache=False), state.blobs)
    assert inline_cache(house.graph, plain) == []


# --- contents ---------------------------------------------------------------------------------------------------------


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def receiver(root: Path, *contents: bytes) -> Receiver:
    entries = [ContextEntry(f"f{n}", "file", 0o644, len(data), 0, digest(data)) for n, data in enumerate(contents)]
    return Receiver(ContentStore(root), [BuildContext(entries)])


def test_contents_come_in_pieces_and_are_asked_for_once(tmp_path: Path) -> None:
    with receiver(tmp_path, b"one", b"two", b"") as taking:
        assert set(taking.begin()) == {digest(b"one"), digest(b"two")}
        taking.take(((digest(b"one"), b"o"), (digest(b"one"), b"ne"), (digest(b"two"), b"two")))
        assert taking.lacking == set()
    again = receiver(tmp_path, b"one", b"two", b"")
    assert again.begin() == []
    assert ContentStore(tmp_path).read(digest(b""), 10) == b""


@pytest.mark.parametrize(
    ("pieces", "error"),
    [
        ([(digest(b"three"), b"three")], InvalidArgument),
        ([(digest(b"one"), b"o"), (digest(b"two"), b"two")], InvalidArgument),
        ([(digest(b"one"), b"eno")], DataLoss),
        ([(digest(b"one"), b"oneone")], DataLoss),
        ([(digest(b"one"), b"one"), (digest(b"one"), b"one")], InvalidArgument),
        ([("sha256:../../x", b"x")], InvalidArgument),
    ],
)
def test_what_a_client_may_not_send(tmp_path: Path, pieces: list[tuple[str, bytes]], error: type[Exception]) -> None:
    with receiver(tmp_path, b"one", b"two") as taking:
        taking.begin()
        with pytest.raises(error):
            taking.take(tuple(pieces))
    assert list((tmp_path / "drafts").iterdir()) == []
