"""A container's changes as a layer of the graph."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from moorage.server.cancel import CancelToken
from moorage.server.errors import Cancelled
from moorage.server.graph.compression import Compression
from moorage.server.graph.layers import chain_id_on
from tests.graphhouse import House, digest

CHANGES = b"what has changed, over and over " * 1000


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.db.close()


def container(house: House, changes: bytes = CHANGES, *layers: bytes) -> str:
    house.graph.create_rootfs("c1", house.image(*(layers or (b"base",))).id)
    house.driver.changes["c1"] = changes
    return "c1"


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_changes_become_a_layer_and_a_blob(house: House, compression: Compression) -> None:
    made = house.graph.commit_layer(container(house), CancelToken(), compression=compression)
    assert made.layer.diff_id == made.blob.diff_id == digest(CHANGES)
    assert made.layer.parent == digest(b"base")
    assert (made.layer.size, made.entries) == (len(CHANGES), 1)
    assert house.graph.has_layer(made.layer.chain_id)
    assert house.driver.stored[made.layer.chain_id] == CHANGES
    with house.content.open(made.blob.digest) as file:
        data = file.read()
    assert (digest(data), len(data)) == (made.blob.digest, made.blob.size)
    match compression:
        case "gzip":
            assert gzip.decompress(data) == CHANGES
        case "zstd":
            assert zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)).read() == CHANGES
        case "none":
            assert data == CHANGES
    assert house.graph.layer_blobs(made.layer.chain_id) == [made.blob]


def test_the_same_changes_are_the_same_layer(house: House) -> None:
    first = house.graph.commit_layer(container(house), CancelToken())
    again = house.graph.commit_layer("c1", CancelToken())
    other = house.graph.commit_layer("c1", CancelToken(), compression="zstd")
    assert again == first
    assert other.layer == first.layer
    assert {blob.digest for blob in house.graph.layer_blobs(first.layer.chain_id)} == {
        first.blob.digest,
        other.blob.digest,
    }


def test_changes_become_a_layer_on_another_chain(house: House) -> None:
    other = house.image(b"other").layers[-1].chain_id
    made = house.graph.commit_changes(container(house), CancelToken(), onto=other)
    assert made is not None
    assert (made.layer.parent, made.layer.diff_id) == (other, digest(CHANGES))
    assert made.layer.chain_id == chain_id_on(other, made.blob.diff_id)
    assert house.driver.stored[made.layer.chain_id] == CHANGES
    third = house.image(b"third").layers[-1].chain_id
    moved = house.graph.apply_blob(made.blob, third, CancelToken())
    assert (moved.parent, moved.diff_id) == (third, made.blob.diff_id)
    assert house.graph.layer_blobs(moved.chain_id) == house.graph.layer_blobs(made.layer.chain_id) == [made.blob]


def test_a_layer_of_no_image_goes_with_its_blob_at_the_next_start(house: House) -> None:
    made = house.graph.commit_layer(container(house), CancelToken())
    house.reopen()
    assert house.graph.layer_blobs(made.layer.chain_id) == [made.blob]
    collected = house.graph.collect({"c1"})
    assert (collected.layers, collected.blobs) == (1, 1)
    assert not house.graph.has_layer(made.layer.chain_id)
    assert not house.content.exists(made.blob.digest)
    assert house.graph.layer_blobs(made.layer.chain_id) == []


def test_a_cancelled_commit_leaves_nothing(house: House, tmp_path: Path) -> None:
    name = container(house)
    cancel = CancelToken()
    cancel.cancel("the caller hung up")
    before = house.content.digests()
    with pytest.raises(Cancelled):
        house.graph.commit_layer(name, cancel)
    assert house.content.digests() == before
    assert list((tmp_path / "content" / "drafts").iterdir()) == []
    assert len(house.driver.layers()) == 1


def test_a_layer_whose_blob_is_gone_is_packed_again(house: House) -> None:
    layer = house.graph.get(house.image(b"base").id).layers[0]
    blob = house.graph.pack_layer(layer.chain_id, CancelToken())
    assert blob.diff_id == layer.diff_id
    with house.content.open(blob.digest) as file:
        assert gzip.decompress(file.read()) == b"base"
    assert house.graph.layer_blobs(layer.chain_id) == [], "it is the caller's"


def test_what_was_pushed_has_one_more_digest(house: House) -> None:
    image = house.image(b"base")
    name = f"registry.example/app@{digest(b'manifest')}"
    house.graph.add_digest(image.id, name)
    house.graph.add_digest(image.id, name)
    assert name in house.graph.get(image.id).digests
    house.graph.add_digest(digest(b"gone"), "registry.example/app@" + digest(b"other"))


def test_no_changes_make_no_layer_where_none_is_wanted(house: House) -> None:
    name = container(house, b"")
    kept = house.content.digests()
    assert house.graph.commit_changes(name, CancelToken()) is None
    assert (house.content.digests(), house.graph.unreached()[0]) == (kept, [])
    assert house.graph.commit_layer(name, CancelToken()).entries == 0
