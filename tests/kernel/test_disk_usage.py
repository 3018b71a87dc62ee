"""What df says is what du says, after a hundred operations in random order on real layers."""

from __future__ import annotations

import io
import json
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from moorage.server.cancel import CancelToken
from moorage.server.execdriver.spawner_client import SpawnerClient
from moorage.server.graph import drivers
from moorage.server.graph.confined import ConfinedRunner
from moorage.server.graph.content import ContentStore
from moorage.server.graph.documents import decode, encode
from moorage.server.graph.graph import Graph
from moorage.server.graph.graphdb import GraphDB
from moorage.server.graph.layers import chain_id_on
from moorage.server.model import LayerBlob
from tests.archives import Archive, diff_id, in_rootfs

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

OPERATIONS = 100


@pytest.fixture(params=["overlay", "vfs"])
def graph(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Graph]:
    root = tmp_path / "root"
    root.mkdir()
    spawner = SpawnerClient()
    db = GraphDB(root / "graph.db")
    driver = drivers.choose(request.param, root, ConfinedRunner(spawner.run_task))
    graph = Graph(root, db, ContentStore(root / "content"), driver)
    try:
        yield graph
    finally:
        graph.close()
        spawner.close()
        db.close()


class Life:
    """Random operations on a graph."""

    def __init__(self, graph: Graph, mount: Path, seed: int) -> None:
        self.graph, self.mount = graph, mount
        self.random = random.Random(seed)
        self.containers: dict[str, str] = {}

    def users(self, image_id: str) -> list[str]:
        return [name for name, held in self.containers.items() if held == image_id]

    def pull(self) -> None:
        """One to three layers of some that are often the same, with their blobs kept."""
        blobs, parent = [], ""
        for number in range(self.random.randint(1, 3)):
            content = random.Random(self.random.randint(0, 3) * 10 + number).randbytes(200_000)
            tar = Archive().add(f"d{number}", "dir").add(f"d{number}/f", data=content).add(f"e{number}").bytes
            with self.graph.content.draft() as draft:
                draft.write(tar)
                digest = draft.commit()
            blobs.append(LayerBlob(digest, "application/vnd.oci.image.layer.v1.tar", len(tar), diff_id(tar)))
            chain_id = chain_id_on(parent, diff_id(tar))
            self.graph.apply_layer(chain_id, diff_id(tar), parent, io.BytesIO(tar), CancelToken())
            self.graph.keep_blob(chain_id, blobs[-1])
            parent = chain_id
        rootfs = {"type": "layers", "diff_ids": [blob.diff_id for blob in blobs]}
        config = {"architecture": "amd64", "os": "linux", "rootfs": rootfs}
        self.graph.make_image(json.dumps(config).encode(), blobs, tags=(self.name(),), action="pull")

    def create(self) -> None:
        if images := self.graph.list():
            name = f"c{self.random.getrandbits(40)}"
            self.containers[name] = self.random.choice(images).id
            self.graph.create_rootfs(name, self.containers[name])
            commands = (
                f"open('new', 'wb').write(bytes({self.random.randint(0, 300_000)})); os.makedirs('dir', exist_ok=True)"
            )
            in_rootfs(self.graph.rootfs(name), self.mount, commands)

    def commit(self) -> None:
        if self.containers:
            name = self.random.choice(sorted(self.containers))
            base = self.graph.get(self.containers[name])
            with self.graph.lease():
                made = self.graph.commit_layer(name, CancelToken())
                document = decode(self.graph.document(base.id))
                document["rootfs"]["diff_ids"].append(made.layer.diff_id)
                blobs = (*self.graph.blobs(base), made.blob)
                self.graph.make_image(encode(document), blobs, tags=self.random.choice([(), (self.name(),)]))

    def delete_container(self) -> None:
        if self.containers:
            name = self.random.choice(sorted(self.containers))
            image_id = self.containers.pop(name)
            self.graph.remove_rootfs(name)
            self.graph.drop_nameless(image_id, self.users)

    def tag(self) -> None:
        if images := self.graph.list():
            self.graph.tag(self.random.choice(images).id, self.name())

    def remove(self) -> None:
        if images := self.graph.list():
            self.graph.remove(self.random.choice(images).id, self.users, force=True)

    def prune(self) -> None:
        self.graph.prune(self.users, lambda image: not image.tags)

    def name(self) -> str:
        return f"r/{self.random.choice('abc')}:{self.random.randint(1, 3)}"

    def step(self) -> None:
        often = [self.pull, self.create, self.commit, self.commit, self.tag, self.remove, self.delete_container]
        self.random.choice([*often, *often, self.prune])()


def test_df_equals_du_after_random_operations(graph: Graph, tmp_path: Path) -> None:
    life = Life(graph, tmp_path / "mnt", seed=7)
    for number in range(OPERATIONS):
        life.step()
        if number % 20 == 19:
            graph.close()
            usage = graph.usage(dict.fromkeys(life.containers, False))
            command = ["du", "-s", "-B1", str(tmp_path / "root")]
            du = int(subprocess.run(command, check=True, capture_output=True).stdout.split()[0])
            assert abs(usage.total - du) <= du / 100, f"after {number + 1} operations"
            assert {item.id for item in usage.containers} == set(life.containers)
    assert list(graph.check(CancelToken()).run(graph.unreached(), lambda _: None)) == []
    for name in list(life.containers):
        graph.remove_rootfs(name)
    graph.prune(lambda _: [], lambda _: True)
    graph.close()
    left = graph.usage({})
    assert (left.layers, left.containers, left.blobs) == ((), (), ())
