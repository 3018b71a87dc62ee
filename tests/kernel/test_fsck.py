"""The check of the image store on a real daemon, and what a daemon killed at any moment leaves behind."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.aftermath import fsck, whole
from tests.archives import Archive
from tests.daemon import Daemon
from tests.images import build_busybox, push
from tests.registry import LoopbackRegistry

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def registry() -> Iterator[LoopbackRegistry]:
    with LoopbackRegistry() as registry:
        noise = random.Random(4)
        layers = [Archive().add(f"file{n}", data=noise.randbytes(1 << 20)).add(f"more{n}").bytes for n in range(6)]
        push(registry.url, "library/busybox", "latest", build_busybox())
        push(registry.url, "library/big", "latest", build_busybox(extra_layers=layers))
        yield registry


@pytest.fixture
def daemon(registry: LoopbackRegistry) -> Iterator[Daemon]:
    with Daemon.temporary({"docker.io": registry.url}) as daemon:
        yield daemon


def spoil(path: Path) -> None:
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_what_is_damaged_is_found_and_repaired(daemon: Daemon) -> None:
    daemon.cli("pull", "busybox")
    daemon.cli("run", "--name", "box", "busybox", "sh", "-c", "echo own >/own")
    own = daemon.out("commit", "-q", "box", "own:1")
    daemon.cli("rm", "box")
    assert "clean" in daemon.out("fsck")
    blobs = daemon.root / "content" / "blobs" / "sha256"
    pulled = daemon.inspect("busybox")
    base = pulled["layers"][0]["chain_id"]
    for blob in blobs.iterdir():
        if blob.name != own[7:]:
            spoil(blob)
    shutil.rmtree(daemon.root / "overlay" / "layers" / base[7:])
    status, findings, summary = fsck(daemon)
    assert status == 1
    assert {finding["problem"] for finding in findings} == {"damaged blob", "lost layer"}
    lost = next(finding for finding in findings if finding["problem"] == "lost layer")
    assert lost["id"] == base and set(lost["images"]) == {pulled["id"], own}
    assert summary["problems"] == summary["problems_left"] == len(findings)
    status, findings, _ = fsck(daemon, "--repair")
    outcomes = {finding["id"]: finding["outcome"] for finding in findings}
    assert "pulled docker.io/library/busybox@" in outcomes[base]
    assert "packed again from its layer" in outcomes.values()
    # The manifest of an image that was made here is nowhere else.
    (left,) = [finding for finding in findings if not finding["repaired"]]
    assert "cannot be repaired" in left["outcome"] and left["images"] == [own]
    assert status == 1
    assert daemon.out("run", "--rm", "busybox", "echo", "well") == "well"
    assert daemon.out("run", "--rm", "own:1", "cat", "/own") == "own"


@pytest.mark.slow
def test_files_are_compared_and_restored(daemon: Daemon) -> None:
    """Of a layer whose blob is fetched for that, and of one that was made here; not while a container runs on it."""
    daemon.cli("pull", "busybox")
    daemon.cli("run", "--name", "box", "--network", "none", "busybox", "sh", "-c", "echo own >/own")
    own = daemon.out("commit", "-q", "box", "own:1")
    assert fsck(daemon, "--files")[1] == []
    layers = {image: daemon.inspect(image)["layers"][-1]["chain_id"] for image in ("busybox", "own:1")}
    for image, name in (("busybox", "etc/passwd"), ("own:1", "own")):
        spoil(daemon.root / "overlay" / "layers" / layers[image][7:] / "diff" / name)
    assert fsck(daemon)[1] == [], "files are not looked at unasked"
    blobs = sorted((daemon.root / "content" / "blobs" / "sha256").iterdir())
    status, findings, summary = fsck(daemon, "--files")
    assert status == 1 and summary["layers_compared"] == 2
    assert {each["id"]: (each["problem"], each["detail"]) for each in findings} == {
        layers["busybox"]: ("damaged layer", "not as its blob: etc/passwd has other contents"),
        layers["own:1"]: ("damaged layer", "not as its blob: own has other contents"),
    }
    assert set(findings[0]["images"]) == {daemon.inspect("busybox")["id"], own}
    assert sorted((daemon.root / "content" / "blobs" / "sha256").iterdir()) == blobs, "what was fetched has gone again"
    daemon.cli("run", "-d", "--name", "runs", "--network", "none", "busybox", "sleep", "1000")
    _, findings, _ = fsck(daemon, "--files", "--repair")
    outcomes = {each["id"]: each["outcome"] for each in findings}
    assert outcomes[layers["busybox"]].endswith("containers that have it as their root run: runs")
    assert outcomes[layers["own:1"]] == "unpacked again"
    daemon.cli("rm", "-f", "runs")
    assert fsck(daemon, "--files", "--repair")[0] == 0
    assert fsck(daemon, "--files")[1] == []
    assert daemon.out(
        "run", "--rm", "--network", "none", "own:1", "sh", "-c", "cat /own; grep -c ^root /etc/passwd"
    ).split() == ["own", "1"]
    daemon.cli("rm", "box")


def test_garbage_is_told_and_goes(daemon: Daemon) -> None:
    daemon.cli("pull", "busybox")
    loose = (
        daemon.root
        / "content"
        / "blobs"
        / "sha256"
        / "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    )
    loose.touch()
    status, findings, _ = fsck(daemon)
    assert (status, [finding["problem"] for finding in findings]) == (0, ["garbage"])
    fsck(daemon, "--repair")
    assert not loose.exists()
    assert fsck(daemon)[1] == []


def killed_at_random(daemon: Daemon, times: int, seed: int) -> None:
    """Kill the daemon in the middle of pulls and removals; after each start the store is whole, and the same works."""
    moments = random.Random(seed)
    daemon.cli("pull", "busybox")
    started = time.monotonic()
    daemon.cli("pull", "big")
    longest = time.monotonic() - started
    for number in range(times):
        verb = ("rmi", "big") if number % 2 == 0 else ("pull", "big")
        with daemon.popen(*verb) as process:
            time.sleep(moments.uniform(0.1, 0.3 if verb[0] == "rmi" else longest))
            daemon.kill()
            process.communicate()
        daemon.start()
        whole(daemon)
        daemon.cli(*verb, check=verb[0] == "pull")
    daemon.cli("pull", "big")
    assert daemon.out("run", "--rm", "big", "ls", "/file5") == "/file5"
    daemon.cli("rmi", "big")
    daemon.cli("image", "prune", "-f")
    assert fsck(daemon)[1] == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_daemon_killed_at_fifty_moments_leaves_a_whole_store(daemon: Daemon) -> None:
    killed_at_random(daemon, 50, seed=2)
