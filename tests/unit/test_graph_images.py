"""Images and their names, over a driver that keeps its layers in memory."""

from __future__ import annotations

import io
import json
import os
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from moorage.server.cancel import CancelToken
from moorage.server.errors import Cancelled, DataLoss, FailedPrecondition, InvalidArgument, NotFound
from moorage.server.graph.graphdb import GraphDB
from moorage.server.graph.layers import chain_ids
from moorage.server.model import DiskUsage, Layer
from tests.graphhouse import LATEST, REPOSITORY, House, digest


def nobody(image_id: str) -> list[str]:
    return []


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.db.close()


def test_a_registered_image_is_found_by_all_its_names(house: House) -> None:
    image = house.image(b"base", b"top", tags=(LATEST,))
    assert image.tags == (LATEST,)
    assert image.digests == (f"{REPOSITORY}@{digest(b'manifest of ' + house.content.read(image.id, 9999))}",)
    assert image.size == len(b"base" + b"top")
    assert image.config.command == ("sh",)
    assert image.created_ns == 1_704_164_645 * 10**9
    for name in (LATEST, image.digests[0], image.id, image.id[7:], image.id[7:19], image.id[:12]):
        assert house.graph.get(name) == image
    assert house.graph.list() == (image,)
    assert house.events() == [("tag", LATEST), ("pull", LATEST)]
    house.reopen()
    assert house.graph.get(LATEST) == image


def test_images_that_are_not_here(house: House) -> None:
    for name in (LATEST, f"{REPOSITORY}@sha256:{'0' * 64}", f"sha256:{'0' * 64}", "abc", ""):
        with pytest.raises(NotFound, match="is not here"):
            house.graph.get(name)


def test_an_ambiguous_id_lists_the_candidates(house: House) -> None:
    images = [house.image(b"base", command=f"c{number}") for number in range(17)]
    with pytest.raises(InvalidArgument, match=r"is ambiguous: [0-9a-f]{12}, ") as caught:
        for digit in "0123456789abcdef":
            house.graph.get(digit) if house.db.find("image", f"sha256:{digit}") else None
    assert caught.value.message.split(" ")[2] in "0123456789abcdef"
    assert house.graph.get(images[3].id[7:]) == images[3]


def test_is_id(house: House) -> None:
    image = house.image(b"base", tags=(LATEST,))
    digits = image.id[7:]
    assert house.graph.is_id(image.id)
    assert house.graph.is_id(digits)
    assert house.graph.is_id("0" * 64)
    assert house.graph.is_id(digits[:6])
    assert not house.graph.is_id("busybox")
    assert not house.graph.is_id(LATEST)
    absent = next(digit for digit in "0123456789abcdef" if digit != digits[0])
    assert not house.graph.is_id(absent)
    house.image(b"other", tags=(f"docker.io/library/{digits[:6]}:latest",))
    assert not house.graph.is_id(digits[:6])


def test_layers_are_shared_by_chain(house: House) -> None:
    first = house.image(b"base", b"one", tags=("r/a:1",))
    second = house.image(b"base", b"two", tags=("r/b:1",))
    swapped = house.image(b"one", b"base", tags=("r/c:1",))
    assert first.layers[0] == second.layers[0]
    assert len(house.driver.stored) == 5
    assert len({layer.chain_id for layer in (*first.layers, *second.layers, *swapped.layers)}) == 5
    assert house.graph.has_layer(first.layers[1].chain_id)
    assert not house.graph.has_layer(digest(b"none"))


def test_a_tag_moves_to_the_newer_image(house: House) -> None:
    old = house.image(b"old", tags=(LATEST,))
    new = house.image(b"new", tags=(LATEST,))
    assert house.graph.get(LATEST) == new
    assert house.graph.get(old.id).tags == ()
    again = house.image(b"new", tags=(LATEST,))
    assert again == new
    assert house.events()[-1] == ("pull", LATEST)


def test_a_layer_with_the_wrong_content_is_not_committed(house: House) -> None:
    chain_id = digest(b"promised")
    with pytest.raises(DataLoss, match=f"its diff ID is {digest(b'delivered')}, not {chain_id}"):
        house.graph.apply_layer(chain_id, chain_id, "", io.BytesIO(b"delivered"), CancelToken())
    assert not house.graph.has_layer(chain_id)
    assert house.driver.stored == {}
    house.apply(b"promised")
    assert house.graph.has_layer(chain_id)


def test_a_chain_id_must_be_that_of_its_layers(house: House) -> None:
    with pytest.raises(InvalidArgument, match="is not that of"):
        house.graph.apply_layer(digest(b"x"), digest(b"y"), "", io.BytesIO(b"y"), CancelToken())
    for parent, diff_id in (("../x", digest(b"y")), ("", "sha256:../x")):
        with pytest.raises(InvalidArgument, match="malformed"):
            house.graph.apply_layer(digest(b"x"), diff_id, parent, io.BytesIO(b"y"), CancelToken())


def test_a_layer_wanted_by_many_is_applied_once(house: House) -> None:
    house.driver.gate.clear()
    chain_id, found = digest(b"shared"), []

    def want() -> None:
        found.append(house.graph.apply_layer(chain_id, chain_id, "", io.BytesIO(b"shared"), CancelToken()))

    threads = [threading.Thread(target=want) for _ in range(5)]
    for thread in threads:
        thread.start()
    assert house.driver.entered.wait(30)
    cancel = CancelToken()
    cancel.cancel("hung up")
    with pytest.raises(Cancelled):
        house.graph.apply_layer(chain_id, chain_id, "", io.BytesIO(b"shared"), cancel)
    house.driver.gate.set()
    for thread in threads:
        thread.join()
    assert found == [Layer(chain_id, chain_id, "", 6)] * 5
    assert house.driver.applied == [chain_id]


def test_an_image_needs_all_its_layers(house: House) -> None:
    diff_ids = [*house.apply(b"here"), digest(b"missing")]
    config = json.dumps(
        {"architecture": "a", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    ).encode()
    with pytest.raises(FailedPrecondition, match=f"layer {chain_ids(diff_ids)[1]} is not here"):
        house.graph.register(config=config, manifest_digest=digest(b"m"), tags=(LATEST,))
    assert house.graph.list() == ()
    assert house.events() == []


def test_removing_the_last_tag_removes_the_image_and_what_only_it_reached(house: House) -> None:
    image = house.image(b"base", b"one", tags=(LATEST,))
    other = house.image(b"base", b"two", tags=("r/b:1",))
    removed = house.graph.remove(LATEST, nobody)
    assert removed.untagged == (LATEST, image.digests[0])
    assert removed.deleted == (image.id, image.layers[1].chain_id)
    assert removed.reclaimed > len(b"one")
    assert house.graph.list() == (other,)
    assert set(house.driver.stored) == {layer.chain_id for layer in other.layers}
    assert house.content.digests() == {other.id, other.digests[0].partition("@")[2]}
    assert house.events()[-3:] == [("untag", LATEST), ("untag", image.digests[0]), ("delete", LATEST)]
    house.graph.remove(other.id, nobody)
    assert house.driver.stored == {}
    assert house.content.digests() == set()


def test_removing_one_of_several_tags_keeps_the_image(house: House) -> None:
    image = house.image(b"base", tags=(LATEST, f"{REPOSITORY}:1", "quay.io/b:2"))
    assert house.graph.remove(LATEST, lambda _: ["user"]).untagged == (LATEST,)
    removed = house.graph.remove(f"{REPOSITORY}:1", nobody)
    assert removed.untagged == (f"{REPOSITORY}:1", image.digests[0])
    assert (removed.deleted, removed.reclaimed) == ((), 0)
    assert house.graph.get(image.id).tags == ("quay.io/b:2",)


def test_an_image_in_use_stays_as_it_is(house: House) -> None:
    image = house.image(b"base", tags=(LATEST,))
    for name in (LATEST, image.id):
        with pytest.raises(FailedPrecondition, match="container web is made from it"):
            house.graph.remove(name, lambda id: ["web"] if id == image.id else [])
    assert house.graph.get(LATEST) == image


def test_a_forgotten_image_goes_with_its_last_container(house: House) -> None:
    image, users = house.image(b"base", tags=(LATEST, "quay.io/b:2")), ["web"]
    removed = house.graph.remove(LATEST, lambda _: users, forget=True)
    assert set(removed.untagged) == {*image.tags, *image.digests} and removed.deleted == ()
    house.graph.drop_nameless(image.id, lambda _: users)
    assert (house.graph.get(image.id).tags, house.graph.get(image.id).digests) == ((), ())
    users.clear()
    house.graph.drop_nameless(image.id, lambda _: users)
    house.graph.drop_nameless(image.id, lambda _: users)
    with pytest.raises(NotFound):
        house.graph.get(image.id)


def test_only_a_nameless_image_is_dropped(house: House) -> None:
    image = house.image(b"base", tags=(LATEST,))
    house.graph.drop_nameless(image.id, nobody)
    assert house.graph.get(LATEST) == image


def test_an_image_that_never_had_a_name_is_not_dropped(house: House) -> None:
    image = house.image(b"base")
    house.graph.drop_nameless(image.id, nobody)
    assert house.graph.get(image.id) == image


def test_a_forgotten_image_that_gets_a_name_again_stays(house: House) -> None:
    image = house.image(b"base", tags=(LATEST,))
    house.graph.remove(LATEST, lambda _: ["web"], force=True)
    house.graph.tag(image.id, "r/again:1")
    house.graph.remove("r/again:1", lambda _: ["web"], force=True)
    house.graph.tag(image.id, "r/again:2")
    house.graph.drop_nameless(image.id, nobody)
    assert house.graph.get("r/again:2").id == image.id


def test_by_force_only_the_name_given_goes(house: House) -> None:
    image = house.image(b"base", tags=(LATEST, "quay.io/b:2"))
    removed = house.graph.remove("quay.io/b:2", lambda _: ["web"], force=True)
    assert removed.untagged[0] == "quay.io/b:2" and removed.deleted == ()
    assert house.graph.get(LATEST).id == image.id


def test_who_holds_an_image_is_said(house: House) -> None:
    house.image(b"base", tags=(LATEST,))
    with pytest.raises(FailedPrecondition, match=r"containers c0, c1.* and 2 more are made from it") as caught:
        house.graph.remove(LATEST, lambda _: [f"c{number}" for number in range(12)])
    assert caught.value.metadata["containers"].count(",") == 11


def test_tags_move(house: House) -> None:
    first, second = house.image(b"a", tags=("r/a:1",)), house.image(b"b")
    assert house.graph.tag(second.id, "r/a:1").tags == ("r/a:1",)
    assert house.graph.get(first.id).tags == ()
    assert house.events()[-1] == ("tag", "r/a:1")
    with pytest.raises(NotFound):
        house.graph.tag(f"sha256:{'0' * 64}", "r/a:1")
    assert house.graph.get("r/a:1").id == second.id


def test_prune_deletes_the_unwanted_and_what_nothing_reaches(house: House) -> None:
    kept, held = house.image(b"base", b"kept", tags=(LATEST,)), house.image(b"base", b"held")
    loose = house.image(b"base", b"loose")
    house.apply(b"base", b"interrupted")
    house.store(b"downloaded")
    with house.content.writer(digest(b"half"), 4) as writer:
        writer.write(b"ha")
    removed = house.graph.prune(lambda id: ["c"] if id == held.id else [], lambda image: not image.tags)
    assert loose.id in removed.deleted and loose.layers[1].chain_id in removed.deleted
    assert {image.id for image in house.graph.list()} == {kept.id, held.id}
    assert set(house.driver.stored) == {layer.chain_id for image in (kept, held) for layer in image.layers}
    assert not house.content.exists(digest(b"downloaded"))
    assert house.content.ingests() == []
    assert removed.reclaimed > len(b"loose" + b"interrupted" + b"downloaded" + b"ha")


def test_prune_leaves_what_something_that_runs_may_want(house: House) -> None:
    with house.graph.lease():
        house.apply(b"under way")
        assert house.graph.prune(nobody, lambda image: not image.tags).reclaimed == 0
        assert house.graph.has_layer(digest(b"under way"))


def test_an_edge_from_elsewhere_keeps_the_image(house: House) -> None:
    image = house.image(b"base", tags=(LATEST,))
    with house.db.transaction() as tx:
        tx.link("container image", "c1", image.id)
    with pytest.raises(FailedPrecondition, match='container image "c1" leads to it'):
        house.graph.remove(LATEST, nobody)
    assert house.graph.get(LATEST) == image


def test_a_lease_keeps_layers_for_a_pull_under_way(house: House) -> None:
    image = house.image(b"base", tags=(LATEST,))
    with house.graph.lease():
        assert house.graph.remove(LATEST, nobody).reclaimed == 0
        assert house.graph.has_layer(image.layers[0].chain_id)
        house.image(b"base", tags=(LATEST,))
    assert house.graph.remove(LATEST, nobody).reclaimed > 0
    assert house.driver.stored == {}


def test_what_a_lease_kept_goes_with_its_end(house: House) -> None:
    image = house.image(b"base", tags=(LATEST,))
    with house.graph.lease():
        with house.graph.lease():
            house.graph.remove(LATEST, nobody)
        assert house.graph.has_layer(image.layers[0].chain_id)
    assert house.driver.stored == {}
    assert house.content.digests() == set()


def test_collect_deletes_what_nothing_reaches(house: House) -> None:
    image = house.image(b"base", b"top", tags=(LATEST,))
    house.apply(b"base", b"interrupted", b"pull")
    house.driver.stored[digest(b"crashed")] = b"unknown to the database"
    house.driver.writable = {"c1": "", "gone": ""}
    fresh, stale = house.store(b"fresh blob"), house.store(b"stale blob")
    house.content.path(stale).chmod(0o600)
    os.utime(house.content.path(stale), (1, 1))
    house.reopen()
    collected = house.graph.collect({"c1"})
    assert (collected.layers, collected.rootfs, collected.blobs, collected.unfinished) == (3, 1, 1, 1)
    assert collected.reclaimed == len(b"interrupted" + b"pull" + b"stale blob")
    assert set(house.driver.stored) == {layer.chain_id for layer in image.layers}
    assert house.driver.containers() == {"c1"}
    assert house.content.exists(fresh)
    assert not house.content.exists(stale)
    assert house.graph.get(LATEST) == image


def test_collect_gives_up_an_image_whose_layer_is_lost(house: House, caplog: pytest.LogCaptureFixture) -> None:
    lost = house.image(b"base", b"lost", tags=(LATEST,))
    kept = house.image(b"base", b"kept", tags=("r/b:1",))
    del house.driver.stored[lost.layers[1].chain_id]
    house.graph.collect(set())
    assert house.graph.list() == (kept,)
    assert house.events()[-1] == ("lost", LATEST)
    assert "is lost" in caplog.text
    assert house.image(b"base", b"lost", tags=(LATEST,)) == lost
    assert house.driver.stored[lost.layers[1].chain_id] == b"lost"


def test_root_file_systems_come_from_the_driver(house: House) -> None:
    image = house.image(b"base", b"top", tags=(LATEST,))
    house.graph.create_rootfs("c1", image.id)
    assert house.driver.writable == {"c1": image.layers[-1].chain_id}
    assert house.graph.rootfs("c1")[0].source == image.layers[-1].chain_id
    assert house.graph.rootfs_usages(["c1", "c2"]) == {"c1": DiskUsage(71, 1)}
    house.graph.remove_rootfs("c1")
    house.graph.remove_rootfs("c1")
    with pytest.raises(NotFound):
        house.graph.create_rootfs("c2", f"sha256:{'0' * 64}")
    empty = house.image(command="scratch")
    house.graph.create_rootfs("c3", empty.id)
    assert house.driver.writable == {"c3": ""}
    house.graph.close()


def test_a_second_process_is_kept_out(house: House) -> None:
    with pytest.raises(FailedPrecondition), closing(GraphDB(house.root / "graph.db")):
        pass
