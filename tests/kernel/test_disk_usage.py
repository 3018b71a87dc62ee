"""What df says is what du says, and what the GraphDB holds is what a model says, after a hundred operations in random order."""

from __future__ import annotations

import json
import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.daemon import Daemon
from tests.filesystems import mounted
from tests.images import build_busybox, push, tar_layer
from tests.registry import LoopbackRegistry
from tests.storemodel import Model, found

pytestmark = [pytest.mark.kernel, pytest.mark.slow, pytest.mark.timeout(600)]

OPERATIONS = 100
SETTLE_SECONDS = 30
HOST = "registry.example"
STEPS = ("RUN echo {part} >>/said", "COPY part{part} /copied/{depth}")


@pytest.fixture(params=["overlay", "btrfs", "vfs"])
def daemon(request: pytest.FixtureRequest, registry: LoopbackRegistry) -> Iterator[Daemon]:
    """With a root of its own, for the driver that the parameter names."""
    with mounted("btrfs", "commit=1") if request.param == "btrfs" else _directory() as place:
        daemon = Daemon(place, {HOST: registry.url}, settings=f'graph_driver = "{request.param}"')
        daemon.start()
        try:
            yield daemon
        finally:
            daemon.close()


@contextmanager
def _directory() -> Iterator[Path]:
    with TemporaryDirectory(prefix="moorage-") as directory:
        yield Path(directory)


class Life:
    """Random operations on a daemon, each of them on its model too."""

    def __init__(self, daemon: Daemon, registry: LoopbackRegistry, context: Path, seed: int) -> None:
        self.daemon, self.registry, self.context = daemon, registry, context
        self.model = Model()
        self.random = random.Random(seed)
        self.told: list[str] = []
        for part in range(3):
            (context / f"part{part}").write_bytes(self.random.randbytes(100_000))

    def cli(self, *arguments: str, check: bool = True) -> str:
        self.told.append(" ".join(arguments))
        done = self.daemon.cli(*arguments, check=check)
        assert check or done.returncode, f"{arguments} is not refused"
        return done.stdout.rstrip("\n")

    def pull(self) -> None:
        """A base and one or two layers of some that are often the same."""
        layers = [
            tar_layer({f"d{number}/f": random.Random(self.random.randint(0, 2)).randbytes(200_000)})
            for number in range(self.random.randint(1, 2))
        ]
        image = build_busybox(extra_layers=layers)
        name = self.name()
        push(self.registry.url, name.partition("/")[2].partition(":")[0], name.rpartition(":")[2], image)
        self.cli("pull", name)
        self.model.image(image.id, image.diff_ids, [name])

    def build(self) -> None:
        if self.model.tags:
            base, tag = self.random.choice(sorted(self.model.tags)), self.name()
            steps = self.random.sample(STEPS, self.random.randint(1, 2))
            depth, part = len(self.model.chains[self.model.tags[base]]), self.random.randint(0, 2)
            lines = [f"FROM {base}", *(step.format(part=part, depth=depth) for step in steps)]
            (self.context / "Dockerfile").write_text("\n".join(lines))
            self.cli("build", "-q", "-t", tag, str(self.context))
            self.model.build(*self.identity(tag), tag, len(steps))

    def run(self) -> None:
        if self.model.chains:
            name, image_id = f"c{self.random.getrandbits(40)}", self.random.choice(sorted(self.model.chains))
            change = f"head -c {self.random.randint(0, 300_000)} /dev/zero >/new; rm -f /said; mkdir -p /dir"
            self.cli("run", "--network", "none", "--name", name, image_id, "sh", "-c", change)
            self.model.containers[name] = image_id

    def commit(self) -> None:
        if self.model.containers:
            tags = self.random.choice([[], [self.name()]])
            container = self.random.choice(sorted(self.model.containers))
            image_id = self.cli("commit", "-q", container, *tags)
            self.model.commit(*self.identity(image_id), tags)

    def tag(self) -> None:
        if self.model.chains:
            image_id, name = self.random.choice(sorted(self.model.chains)), self.name()
            self.cli("tag", image_id, name)
            self.model.tag(image_id, name)

    def remove(self) -> None:
        if self.model.chains:
            name = self.random.choice(sorted([*self.model.tags, *self.model.chains]))
            force = self.random.random() < 0.5
            refused = not force and self.model.refuses(name)
            self.cli("rmi", *(["-f"] if force else []), name, check=not refused)
            if not refused:
                self.model.remove(name)

    def remove_container(self) -> None:
        if self.model.containers:
            name = self.random.choice(sorted(self.model.containers))
            self.cli("rm", name)
            self.model.remove_container(name)

    def prune(self) -> None:
        self.cli("image", "prune", "-f")
        self.model.prune()

    def prune_builds(self) -> None:
        self.cli("builder", "prune")
        self.model.prune_builds()

    def name(self) -> str:
        return f"{HOST}/r/{self.random.choice('abc')}:{self.random.randint(1, 3)}"

    def identity(self, name: str) -> tuple[str, list[str]]:
        image = self.daemon.inspect(name)
        return image["id"], [layer["diff_id"] for layer in image["layers"]]

    def step(self) -> None:
        often = [self.pull, self.build, self.build, self.run, self.commit, self.tag, self.remove, self.remove_container]
        self.random.choice([*often, *often, self.prune, self.prune_builds])()

    def check(self) -> None:
        """Once all that was deleted is off the disk."""
        told = "\n".join(self.told)
        assert found(self.daemon.root, self.driver) == self.model.held, told
        end = time.monotonic() + SETTLE_SECONDS
        while True:
            before, usage, after = self.du(), json.loads(self.daemon.out("df", "--format", "json")), self.du()
            if before == after >= 0 and not self.trash():
                break
            assert time.monotonic() < end, "the root directory does not come to rest"
        held = self.model.held
        assert abs(usage["total_bytes"] - after) <= after / 100, told
        counts = [usage[part].get("count", 0) for part in ("layers", "containers")]
        assert counts == [len(held.layers), len(held.containers)], told
        assert usage.get("images", 0) == len(held.images), told

    @property
    def driver(self) -> str:
        return str(json.loads(self.daemon.out("info", "--format", "json"))["graph_driver"])

    def du(self) -> int:
        """-1 when something went while it was counted."""
        command = ["du", "-s", "-B1", str(self.daemon.root)]
        done = subprocess.run(command, capture_output=True)
        return -1 if done.returncode else int(done.stdout.split()[0])

    def trash(self) -> list[Path]:
        return list((self.daemon.root / self.driver / "trash").iterdir())


def test_df_equals_du_after_random_operations(daemon: Daemon, registry: LoopbackRegistry, tmp_path: Path) -> None:
    life = Life(daemon, registry, tmp_path, seed=7)
    for number in range(OPERATIONS):
        life.step()
        if number % 10 == 9:
            life.check()
    findings = json.loads(daemon.out("fsck", "--format", "json"))["findings"]
    assert [each for each in findings if each["problem"] != "garbage"] == []
    daemon.remove_containers()
    daemon.cli("image", "prune", "-a", "-f")
    daemon.cli("builder", "prune")
    usage = json.loads(daemon.out("df", "--format", "json"))
    assert [usage[part].get("count", 0) for part in ("layers", "containers", "blobs")] == [0, 0, 0]
