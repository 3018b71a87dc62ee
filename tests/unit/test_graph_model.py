"""The image store beside a model of it: whatever is done in whatever order, it holds what the model says and nothing else."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from moorage.server.cancel import CancelToken
from moorage.server.errors import FailedPrecondition
from moorage.server.graph import documents
from moorage.server.graph.layers import chain_ids
from moorage.server.model import Image
from tests.graphhouse import House, digest

LAYERS = st.lists(st.sampled_from([b"base", b"one", b"two", b"three"]), min_size=1, max_size=3)
TAGS = st.sampled_from([f"r/{name}:{tag}" for name in "ab" for tag in "12"])


class Store(RuleBasedStateMachine):
    """`images` is the model: by ID the chain IDs of the layers and the blobs that are kept for it; `tags` leads to IDs; `containers`
    hold images."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory(prefix="moorage-model-")
        self.house = House(Path(self.directory.name))
        self.images: dict[str, tuple[list[str], set[str]]] = {}
        self.tags: dict[str, str] = {}
        self.digests: dict[str, str] = {}
        self.containers: dict[str, str] = {}
        self.forgotten: set[str] = set()
        self.layer_blobs: dict[str, set[str]] = {}
        """The blobs that layers hold; they go with the layers."""
        self.count = 0

    def teardown(self) -> None:
        self.house.db.close()
        self.directory.cleanup()

    def _users(self, image_id: str) -> list[str]:
        return [name for name, held in self.containers.items() if held == image_id]

    def _record(self, image: Image, blobs: set[str], tag: str) -> None:
        known = self.images.get(image.id, ([], set()))[1]
        self.images[image.id] = ([layer.chain_id for layer in image.layers], blobs | known)
        if tag:
            self.tags[tag] = image.id
            self.forgotten.discard(image.id)

    @rule(layers=LAYERS, tag=TAGS, command=st.sampled_from("xy"))
    def pull(self, layers: list[bytes], tag: str, command: str) -> None:
        image = self.house.image(*layers, tags=(tag,), command=command)
        manifest = digest(b"manifest of " + self.house.graph.document(image.id))
        self._record(image, {image.id, manifest}, tag)
        self.digests[f"{tag.rpartition(':')[0]}@{manifest}"] = image.id

    @precondition(lambda self: self.images)
    @rule(data=st.data(), tag=st.one_of(st.just(""), TAGS), changes=st.sampled_from([b"", b"change", b"another"]))
    def commit(self, data: Any, tag: str, changes: bytes) -> None:
        base = self.house.graph.get(data.draw(st.sampled_from(sorted(self.images))))
        self.house.graph.create_rootfs("committing", base.id)
        self.house.driver.changes["committing"] = changes
        with self.house.graph.lease():
            made = self.house.graph.commit_layer("committing", CancelToken())
            diff_ids = [*(layer.diff_id for layer in base.layers), made.layer.diff_id]
            config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}}
            raw = json.dumps(config).encode()
            blobs = [made.blob] * len(diff_ids)
            image = self.house.graph.make_image(raw, blobs, tags=(tag,) if tag else ())
        self.house.graph.remove_rootfs("committing")
        assert [layer.chain_id for layer in image.layers] == chain_ids(diff_ids)
        manifest = digest(documents.make_manifest(raw, blobs))
        self._record(image, {image.id, manifest, made.blob.digest}, tag)
        self.layer_blobs.setdefault(made.layer.chain_id, set()).add(made.blob.digest)

    @precondition(lambda self: self.images)
    @rule(data=st.data(), tag=TAGS)
    def tag(self, data: Any, tag: str) -> None:
        image_id = data.draw(st.sampled_from(sorted(self.images)))
        self.house.graph.tag(image_id, tag)
        self.tags[tag] = image_id
        self.forgotten.discard(image_id)

    @precondition(lambda self: self.images)
    @rule(data=st.data())
    def create(self, data: Any) -> None:
        self.count += 1
        image_id = data.draw(st.sampled_from(sorted(self.images)))
        self.house.graph.create_rootfs(f"c{self.count}", image_id)
        self.containers[f"c{self.count}"] = image_id

    @precondition(lambda self: self.containers)
    @rule(data=st.data())
    def delete_container(self, data: Any) -> None:
        name = data.draw(st.sampled_from(sorted(self.containers)))
        image_id = self.containers.pop(name)
        self.house.graph.remove_rootfs(name)
        self.house.graph.drop_nameless(image_id, self._users)
        if image_id in self.forgotten and not self._users(image_id):
            self._gone(image_id)

    @precondition(lambda self: self.images)
    @rule(data=st.data(), force=st.booleans())
    def remove(self, data: Any, force: bool) -> None:
        name = data.draw(st.sampled_from([*sorted(self.tags), *sorted(self.images)]))
        image_id = self.tags.get(name, name)
        tags = {tag for tag, target in self.tags.items() if target == image_id}
        last = name not in self.tags or tags == {name}
        users = self._users(image_id)
        try:
            removed = self.house.graph.remove(name, self._users, force=force)
        except FailedPrecondition:
            assert last and users and not force
            return
        assert not (last and users and not force)
        for untagged in removed.untagged:
            (self.tags if untagged in self.tags else self.digests).pop(untagged)
        if last and users:
            self.forgotten.add(image_id)
        elif last:
            self._gone(image_id)

    @rule(every=st.booleans())
    def prune(self, every: bool) -> None:
        self.house.graph.prune(self._users, lambda image: every or not image.tags)
        for image_id in list(self.images):
            if not self._users(image_id) and (every or image_id not in self.tags.values()):
                self._gone(image_id)

    @rule()
    def restart(self) -> None:
        self.house.reopen()
        collected = self.house.graph.collect(set(self.containers))
        assert (collected.layers, collected.rootfs, collected.blobs, collected.reclaimed) == (0, 0, 0, 0)

    def _gone(self, image_id: str) -> None:
        del self.images[image_id]
        self.forgotten.discard(image_id)
        for names in (self.tags, self.digests):
            for name in [name for name, target in names.items() if target == image_id]:
                del names[name]
        layers = {chain_id for chain, _ in self.images.values() for chain_id in chain}
        for chain_id in set(self.layer_blobs) - layers:
            del self.layer_blobs[chain_id]

    @invariant()
    def the_store_is_what_the_model_says(self) -> None:
        graph = self.house.graph
        assert {image.id for image in graph.list()} == set(self.images)
        for tag, image_id in self.tags.items():
            assert graph.get(tag).id == image_id
        for image in graph.list():
            assert {*image.tags} == {tag for tag, target in self.tags.items() if target == image.id}
            assert {*image.digests} == {name for name, target in self.digests.items() if target == image.id}
        layers = {chain_id for chain, _ in self.images.values() for chain_id in chain}
        assert self.house.driver.layers() == layers
        held = {blob for blobs in self.layer_blobs.values() for blob in blobs}
        own = {blob for _, blobs in self.images.values() for blob in blobs if self._is_document(blob)}
        assert self.house.content.digests() == held | own
        assert list(graph.check(CancelToken()).run(graph.unreached(), lambda _: None)) == []

    def _is_document(self, blob: str) -> bool:
        with self.house.content.open(blob) as file:
            return file.read(1) in (b"{", b"m")

    @invariant()
    def usage_is_the_sum_of_what_is_there(self) -> None:
        usage = self.house.graph.usage(dict.fromkeys(self.containers, False))
        assert {item.id for item in usage.layers} == self.house.driver.layers()
        assert {item.id for item in usage.blobs} == self.house.content.digests()
        assert all(item.used for item in (*usage.layers, *usage.blobs))
        assert {item.id for item in usage.containers} == set(self.containers)


TestStore = Store.TestCase
TestStore.settings = settings(max_examples=15, stateful_step_count=30, deadline=None)
