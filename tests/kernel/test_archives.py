"""Save, load, import and export on a real daemon; archives of and for other tools."""

from __future__ import annotations

import json
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.archives import Archive
from tests.daemon import Daemon
from tests.images import build_busybox, build_index, push
from tests.registry import LoopbackRegistry

pytestmark = [pytest.mark.kernel, pytest.mark.slow]


@pytest.fixture(scope="module")
def registry() -> Iterator[LoopbackRegistry]:
    with LoopbackRegistry() as registry:
        top = Archive().add("top", data=b"top").add("bin/.wh.vi").bytes
        push(registry.url, "library/busybox", "latest", build_busybox(extra_layers=[top]))
        yield registry


@pytest.fixture(scope="module")
def daemon(registry: LoopbackRegistry) -> Iterator[Daemon]:
    with Daemon.temporary({"docker.io": registry.url}) as daemon:
        daemon.warm_up("busybox")
        yield daemon


@pytest.fixture(autouse=True)
def only_busybox(daemon: Daemon) -> Iterator[None]:
    yield
    daemon.remove_containers()
    for image in json.loads(daemon.out("images", "--format", "json")):
        if "docker.io/library/busybox:latest" not in image["tags"]:
            daemon.cli("rmi", "-f", image["id"])


def committed(daemon: Daemon, name: str) -> dict[str, Any]:
    daemon.cli(
        "run", "--name", "box", "busybox", "sh", "-c", "echo own >/own; rm /top; mkdir -m 711 /dir; ln /own /dir/hard"
    )
    daemon.cli("commit", "-q", "box", name)
    daemon.cli("rm", "box")
    return daemon.inspect(name)


def look(daemon: Daemon, image: str) -> str:
    return daemon.out("run", "--rm", image, "sh", "-c", "cat /own; ls / /dir; stat -c '%a %Y' /dir; stat -c %h /own")


@pytest.mark.parametrize("layout", ["oci", "docker"])
def test_what_is_saved_is_loaded_again(daemon: Daemon, tmp_path: Path, layout: str) -> None:
    image, shown = committed(daemon, "own:1"), look(daemon, "own:1")
    daemon.cli("tag", "own:1", "other.example/own:2")
    file = tmp_path / "saved.tar"
    daemon.cli("save", "--format", layout, "-o", str(file), "own:1", "other.example/own:2", "busybox")
    again = tmp_path / "again.tar"
    daemon.cli("save", "--format", layout, "-o", str(again), "own:1", "other.example/own:2", "busybox")
    assert file.read_bytes() == again.read_bytes()
    daemon.cli("rmi", image["id"])
    assert "loaded" in daemon.out("load", "-i", str(file))
    loaded = daemon.inspect("own:1")
    for key in ("id", "layers", "config", "labels"):
        assert loaded[key] == image[key]
    assert set(loaded["tags"]) == {"docker.io/library/own:1", "other.example/own:2"}
    assert look(daemon, "own:1") == shown
    assert daemon.out("load", "-q", "-i", str(file)).split()[0] == image["id"]


def test_a_compressed_archive_from_a_pipe(daemon: Daemon, tmp_path: Path) -> None:
    image = committed(daemon, "own:1")
    saved = tmp_path / "saved.tar"
    daemon.cli("save", "-o", str(saved), "own:1")
    daemon.cli("rmi", "own:1")
    for command in (["gzip", "-c"], ["zstd", "-c"]):
        packed = tmp_path / "packed"
        with open(packed, "wb") as file:
            subprocess.run([*command, str(saved)], stdout=file, check=True)
        daemon.cli("load", "-i", str(packed))
        assert daemon.inspect("own:1")["id"] == image["id"]
        daemon.cli("rmi", "own:1")


@pytest.mark.parametrize("layout", ["oci", "docker"])
def test_skopeo_reads_what_is_saved(daemon: Daemon, tmp_path: Path, layout: str) -> None:
    image = committed(daemon, "own:1")
    file = tmp_path / "saved.tar"
    daemon.cli("save", "--format", layout, "-o", str(file), "own:1")
    transport = "oci-archive" if layout == "oci" else "docker-archive"
    raw = subprocess.run(
        ["skopeo", "inspect", "--config", "--raw", f"{transport}:{file}"], check=True, capture_output=True
    ).stdout
    assert json.loads(raw)["rootfs"]["diff_ids"] == [layer["diff_id"] for layer in image["layers"]]


@pytest.mark.parametrize("transport", ["oci-archive", "docker-archive"])
def test_what_skopeo_writes_is_loaded(
    daemon: Daemon, registry: LoopbackRegistry, tmp_path: Path, transport: str
) -> None:
    file = tmp_path / "skopeo.tar"
    source = f"docker://{registry.host}/library/busybox:latest"
    subprocess.run(
        ["skopeo", "copy", "-q", "--src-tls-verify=false", source, f"{transport}:{file}:from.example/skopeo:1"],
        check=True,
    )
    daemon.cli("load", "-i", str(file))
    loaded = daemon.inspect("from.example/skopeo:1")
    assert [layer["diff_id"] for layer in loaded["layers"]] == [
        layer["diff_id"] for layer in daemon.inspect("busybox")["layers"]
    ]
    assert daemon.out("run", "--rm", "from.example/skopeo:1", "cat", "/top") == "top"


def test_an_index_is_saved_and_loaded_whole(daemon: Daemon, tmp_path: Path) -> None:
    """With the platforms that are not pulled; digests stay, and no registry but the last one is asked after the load."""
    amd64, arm64 = (build_busybox(env=("PATH=/bin", "OF=all"), architecture=name) for name in ("amd64", "arm64"))
    index, saved, again = build_index(amd64, arm64), tmp_path / "saved.tar", tmp_path / "again.tar"
    with LoopbackRegistry() as origin:
        push(origin.url, "multi", "1", index)
        name = f"{origin.host}/multi:1"
        daemon.cli("pull", name)
        daemon.cli("save", "--all-platforms", "-o", str(saved), name)
        refused = daemon.cli("save", "--all-platforms", "--format", "docker", name, check=False)
        assert "images of one platform only" in refused.stderr
    raw = subprocess.run(["skopeo", "inspect", "--raw", f"oci-archive:{saved}"], check=True, capture_output=True).stdout
    assert raw == index.manifest.data
    refused = daemon.cli("save", "--all-platforms", "-o", str(again), name, check=False)
    assert refused.returncode == 1 and not again.exists()
    daemon.cli("rmi", "-f", name)
    daemon.cli("load", "-i", str(saved))
    assert daemon.inspect(name)["id"] == amd64.config.digest
    assert daemon.out("run", "--rm", name, "sh", "-c", "echo $OF") == "all"
    daemon.cli("image", "prune", "-f")
    daemon.cli("save", "--all-platforms", "-o", str(again), name)
    assert again.read_bytes() == saved.read_bytes()
    with LoopbackRegistry() as target:
        assert daemon.out("push", "-q", "--all-platforms", name, f"{target.host}/copy:1") == index.manifest.digest
        source = f"docker://{target.host}/copy@{arm64.manifest.digest}"
        command = ["skopeo", "copy", "-q", "--src-tls-verify=false", source, f"dir:{tmp_path}/arm64"]
        subprocess.run(command, check=True)
    assert json.loads(daemon.out("fsck", "--format", "json"))["findings"] == []
    daemon.cli("rmi", "-f", name)
    held = {blob.digest.partition(":")[2] for blob in (index.manifest, arm64.manifest, arm64.config)}
    assert not held & {path.name for path in (daemon.root / "content").rglob("*")}


def test_an_image_for_another_platform_is_saved_and_loaded(daemon: Daemon, tmp_path: Path) -> None:
    arm64, saved = build_busybox(env=("PATH=/bin", "OF=foreign"), architecture="arm64"), tmp_path / "saved.tar"
    with LoopbackRegistry() as origin:
        push(origin.url, "multi", "1", build_index(arm64))
        name = f"{origin.host}/multi:1"
        for words in ([], ["--format", "docker"], ["--all-platforms"]):
            daemon.cli("pull", "--platform", "linux/arm64", name)
            daemon.cli("save", *words, "-o", str(saved), name)
            daemon.cli("rmi", name)
            daemon.cli("load", "-i", str(saved))
            assert daemon.inspect(name)["id"] == arm64.config.digest


def test_an_index_made_here_is_saved_too(daemon: Daemon, tmp_path: Path) -> None:
    amd64, arm64 = (build_busybox(env=("PATH=/bin", "OF=made"), architecture=name) for name in ("amd64", "arm64"))
    with LoopbackRegistry() as origin:
        for tag, image in (("amd64", amd64), ("arm64", arm64)):
            push(origin.url, "app", tag, image)
        parts = [f"{origin.host}/app:{tag}" for tag in ("amd64", "arm64")]
        digest = daemon.out("manifest", "create", "made:1", *parts)
        daemon.cli("save", "--all-platforms", "-o", str(tmp_path / "made.tar"), "made:1")
    daemon.cli("manifest", "rm", "made:1")
    daemon.cli("load", "-i", str(tmp_path / "made.tar"))
    assert daemon.out("run", "--rm", "made:1", "sh", "-c", "echo $OF") == "made"
    daemon.cli("save", "--all-platforms", "-o", str(tmp_path / "again.tar"), "made:1")
    with tarfile.open(tmp_path / "again.tar") as tar:
        file = tar.extractfile("index.json")
        assert file is not None
        assert [entry["digest"] for entry in json.load(file)["manifests"]] == [digest]


def test_export_and_import_are_the_same_files(daemon: Daemon, tmp_path: Path) -> None:
    committed(daemon, "own:1")
    shown = look(daemon, "own:1")
    daemon.cli("run", "-d", "--name", "box", "own:1", "sleep", "100")
    file = tmp_path / "rootfs.tar"
    daemon.cli("export", "--pause", "-o", str(file), "box")
    with tarfile.open(file) as tar:
        names = tar.getnames()
    assert {"own", "dir", "dir/hard", "bin/sh"} <= set(names) and "top" not in names
    made = daemon.out("import", "-c", "CMD cat /own", "-m", "why", str(file), "imported:1")
    assert daemon.out("run", "--rm", "imported:1") == "own"
    assert look(daemon, "imported:1") == shown
    image = daemon.inspect("imported:1")
    assert (image["id"], len(image["layers"])) == (made, 1)
    assert json.loads(daemon.out("history", "--format", "json", made))[0]["comment"] == "why"
    daemon.cli("stop", "-t", "0", "box")
    with open(tmp_path / "stopped.tar", "wb") as output:
        with daemon.popen("export", "box") as process:
            output.write(process.communicate()[0])
    with tarfile.open(tmp_path / "stopped.tar") as tar:
        assert set(tar.getnames()) == set(names)


ESCAPE = Archive().add("fine", data=b"x").add("../escape", data=b"x").bytes


def test_a_hostile_archive_is_refused_and_leaves_nothing(daemon: Daemon, tmp_path: Path) -> None:
    before = sorted(path.name for path in (daemon.root / "content").rglob("*"))
    file = tmp_path / "hostile.tar"
    file.write_bytes(ESCAPE)
    refused = daemon.cli("load", "-i", str(file), check=False)
    assert refused.returncode == 1
    assert 'entry "../escape" at offset' in refused.stderr
    assert sorted(path.name for path in (daemon.root / "content").rglob("*")) == before


def test_a_hostile_root_file_system_is_refused_and_leaves_nothing(daemon: Daemon, tmp_path: Path) -> None:
    before = sorted(path.name for path in daemon.root.glob("*/layers/*"))
    for data, message in (
        (ESCAPE, 'entry "../escape" at offset'),
        (b"", "the archive is empty"),
        (b"no tar", "cannot"),
    ):
        file = tmp_path / "rootfs.tar"
        file.write_bytes(data)
        refused = daemon.cli("import", str(file), "bad", check=False)
        assert refused.returncode == 1
        assert message in refused.stderr
    assert "CMD needs a value" in daemon.cli("import", "-c", "CMD", str(file), check=False).stderr
    assert sorted(path.name for path in daemon.root.glob("*/layers/*")) == before
    assert len(json.loads(daemon.out("images", "--format", "json"))) == 1


def test_a_reader_that_leaves_ends_the_save(daemon: Daemon) -> None:
    with daemon.popen("save", "busybox") as process:
        assert process.stdout is not None
        process.stdout.read(1000)
        process.stdout.close()
        process.wait(20)
    assert [job for job in json.loads(daemon.out("jobs", "--format", "json")) if job["verb"] == "save"] == []


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "dropped"])
def test_blobs_are_kept_or_dropped_by_policy(tmp_path: Path, kept: bool) -> None:
    settings = f"[registry]\nretries = 0\nkeep_blobs = {str(kept).lower()}"
    with LoopbackRegistry() as registry, Daemon.temporary({"docker.io": registry.url}, settings=settings) as daemon:
        push(registry.url, "library/busybox", "latest", build_busybox())
        daemon.cli("pull", "busybox")
        usage = json.loads(daemon.out("df", "--format", "json"))
        assert usage["blobs"]["count"] == usage["blobs"]["in_use"] == (3 if kept else 2)
        daemon.cli("save", "-o", str(tmp_path / "fetched.tar"), "busybox")
        assert json.loads(daemon.out("df", "--format", "json"))["blobs"]["count"] == usage["blobs"]["count"]
        registry.kill()
        daemon.stop()
        daemon.start()
        saved = daemon.cli("save", "-o", str(tmp_path / "offline.tar"), "busybox", check=False)
        if kept:
            assert (tmp_path / "offline.tar").read_bytes() == (tmp_path / "fetched.tar").read_bytes()
        else:
            assert saved.returncode == 1
            assert "its blob was not kept" in saved.stderr and "keep_blobs = true" in saved.stderr
        daemon.cli("rmi", "busybox")
        assert json.loads(daemon.out("df", "--format", "json"))["blobs"]["count"] == 0
