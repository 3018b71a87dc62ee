"""Images go between Moorage, skopeo and Debian's containerd by way of Debian's docker-registry: the same digests, the same files."""

from __future__ import annotations

import hashlib
import json
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from moorage.server.cancel import CancelToken
from moorage.server.graph.confined import ConfinedRunner
from moorage.server.model import Platform
from moorage.server.registry.config import RegistryConfig
from moorage.server.registry.reference import parse
from tests.archives import Archive
from tests.ctr import Ctr
from tests.images import BuiltImage, build_busybox, build_image, build_index, push, tar_layer
from tests.imagestore import ImageStore
from tests.registry import LoopbackRegistry
from tests.spawning import running_spawner

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
KEPT = ("mode", "owner", "xattrs", "data", "size", "to", "device", "same as", "mtime_ns")


def strange_layers() -> tuple[bytes, bytes]:
    """All that a layer may hold, and a layer that takes some of it away again."""
    base = Archive().add("srv", "dir", mode=0o2775, owner=(7, 70000)).add("srv/plain", data=b"plain", mode=0o4750)
    base.add("srv/plain2", "link", to="srv/plain", mode=0o4750).add("srv/to", "symlink", to="../nowhere")
    base.add("srv/pipe", "fifo", mode=0o600).add("srv/null", "char", mode=0o666, device=(1, 3))
    base.add("srv/ping", data=b"p", xattrs={"user.note": b"two words", "security.capability": CAPABILITY})
    base.add("srv/größe ü", data=b"x" * 70_000, owner=(4_000_000, 5)).add("srv/" + "n" * 180, data=b"long")
    base.add("gone", "dir").add("gone/inside", data=b"i").add("hidden", "dir").add("hidden/old", data=b"old")
    base.add("turned", data=b"a file").add("srv/one", data=b"linked").add("srv/two", "link", to="srv/one")
    top = Archive().add("gone", "dir").add("gone/.wh.inside").add(".wh.turned").add("turned", "dir", mode=0o711)
    top.add("hidden", "dir").add("hidden/.wh..wh..opq").add("hidden/new", data=b"new")
    top.add("srv", "dir", mode=0o2775, owner=(7, 70000)).add("srv/.wh.plain2").add("srv/plain3", data=b"3")
    return base.bytes, top.bytes


def strange(**options: Any) -> BuiltImage:
    return build_busybox(extra_layers=strange_layers(), **options)


@pytest.fixture(scope="module")
def confined() -> Iterator[ConfinedRunner]:
    with running_spawner() as spawner:
        yield ConfinedRunner(spawner.run_task)


@pytest.fixture(scope="module")
def registry() -> Iterator[LoopbackRegistry]:
    with LoopbackRegistry() as registry:
        yield registry


@pytest.fixture(scope="module")
def ctr() -> Iterator[Ctr]:
    with tempfile.TemporaryDirectory(prefix="moorage-ctr-") as directory, Ctr.running(Path(directory)) as ctr:
        yield ctr


@pytest.fixture
def store(tmp_path: Path, confined: ConfinedRunner) -> Iterator[ImageStore]:
    with ImageStore.opened(tmp_path / "root", confined, RegistryConfig(retries=1, keep_blobs=True)) as store:
        yield store


def skopeo(*arguments: str) -> bytes:
    done = subprocess.run(["skopeo", *arguments], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def copied(source: str, target: str, *options: str) -> str:
    """Have skopeo copy between registries; answers the digest of what the target's name points to."""
    plain = ("--src-tls-verify=false", "--dest-tls-verify=false")
    skopeo("copy", "-q", *plain, *options, f"docker://{source}", f"docker://{target}")
    return raw_digest(target)


def raw_digest(reference: str) -> str:
    raw = skopeo("inspect", "--tls-verify=false", "--raw", f"docker://{reference}")
    return "sha256:" + hashlib.sha256(raw).hexdigest()


def comparable(tree: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The root's own time is nobody's; times are compared in whole seconds, which is what all formats have."""
    kept: dict[str, dict[str, Any]] = {path: {key: entry.get(key) for key in KEPT} for path, entry in tree.items()}
    for path, entry in kept.items():
        entry["mtime_ns"] = int(entry["mtime_ns"] or 0) // 10**9 if path != "." else 0
    return kept


@pytest.mark.parametrize("kind", ["oci", "v2s2", "zstd"])
def test_images_pushed_by_skopeo(registry: LoopbackRegistry, ctr: Ctr, store: ImageStore, kind: str) -> None:
    image = strange(compression="zstd" if kind == "zstd" else "gzip")
    push(registry.url, "source", kind, image)
    name = f"{registry.host}/skopeo:{kind}"
    options = ("--format", "v2s2") if kind == "v2s2" else ()
    digest = copied(f"{registry.host}/source:{kind}", name, *options)
    pulled = store.pull(name)
    assert pulled.digests == (f"{registry.host}/skopeo@{digest}",)
    config = skopeo("inspect", "--tls-verify=false", "--config", "--raw", f"docker://{name}")
    assert pulled.id == "sha256:" + hashlib.sha256(config).hexdigest()
    assert ctr.pull(name) == digest
    ours = comparable(store.tree(pulled))
    assert {"srv/plain", "srv/plain3", "hidden/new", "turned"} <= set(ours)
    assert not {"srv/plain2", "gone/inside", "hidden/old"} & set(ours)
    assert ours["srv/one"]["same as"] == ours["srv/two"]["same as"]
    assert ours["srv/ping"]["xattrs"]["security.capability"] == CAPABILITY.hex()
    assert ours == comparable(ctr.tree(name))


def test_an_index_pushed_by_skopeo(registry: LoopbackRegistry, store: ImageStore) -> None:
    members = (build_busybox(), build_busybox(architecture="arm64", variant="v8"))
    push(registry.url, "source", "index", build_index(*members))
    name = f"{registry.host}/skopeo:index"
    digest = copied(f"{registry.host}/source:index", name, "--all")
    for member, platform in zip(members, (Platform(), Platform("linux", "arm64", "v8")), strict=True):
        pulled = store.pull(name, platform)
        assert (pulled.id, pulled.digests) == (member.id, (f"{registry.host}/skopeo@{digest}",))


@pytest.mark.parametrize("format", ["oci", "docker"])
def test_images_pushed_by_us(registry: LoopbackRegistry, ctr: Ctr, store: ImageStore, format: Any) -> None:
    """With their blobs sent from here: the repository they came from is of another registry, which is gone by then."""
    image = strange(format=format)
    with LoopbackRegistry() as origin:
        push(origin.url, "source", "1", image)
        pulled = store.pull(f"{origin.host}/source:1")
    name = f"{registry.host}/ours-{format}:1"
    pushed = store.push(pulled, name)
    assert pushed.digest == image.manifest.digest == raw_digest(name) == ctr.pull(name)
    with tempfile.TemporaryDirectory(prefix="moorage-skopeo-") as directory:
        skopeo("copy", "-q", "--src-tls-verify=false", f"docker://{name}", f"dir:{directory}")
        for layer in image.layers:
            assert (Path(directory) / layer.digest.removeprefix("sha256:")).read_bytes() == layer.data
    assert comparable(ctr.tree(name)) == comparable(store.tree(pulled))
    assert ctr.run(name, "/bin/cat", "/etc/group").startswith("root:x:0:")


def test_an_image_whose_blobs_are_gone(
    registry: LoopbackRegistry, ctr: Ctr, tmp_path: Path, confined: ConfinedRunner
) -> None:
    """It is packed again: other digests, the same files."""
    with ImageStore.opened(tmp_path / "root", confined) as store:
        with LoopbackRegistry() as origin:
            push(origin.url, "source", "1", strange())
            pulled = store.pull(f"{origin.host}/source:1")
        name = f"{registry.host}/packed:1"
        pushed = store.push(pulled, name)
        assert pushed.rewritten and pushed.digest == raw_digest(name) == ctr.pull(name)
        assert comparable(ctr.tree(name)) == comparable(store.tree(pulled))
        again = store.push(pulled, f"{registry.host}/packed:2")
        assert again.digest == pushed.digest
        assert store.graph.content.digests() == {pulled.id, strange().manifest.digest}


def test_an_index_pushed_by_us(registry: LoopbackRegistry, ctr: Ctr, store: ImageStore) -> None:
    """One image from here, one that only its registry has."""
    amd64, arm64 = build_busybox(), build_busybox(architecture="arm64", extra_layers=[tar_layer({"arm": b"64"})])
    push(registry.url, "parts", "amd64", amd64)
    push(registry.url, "parts", "arm64", arm64)
    here = store.pull(f"{registry.host}/parts:amd64")
    name = parse(f"{registry.host}/ours-index:1")
    there = parse(f"{registry.host}/parts:arm64")
    index = store.indexer.make(name, [here, there], {"made": "here"}, None, CancelToken())
    pushed = store.indexer.push(index, name, None, store.steps.append, CancelToken())
    assert pushed.digest == raw_digest(str(name)) == ctr.pull(str(name))
    raw = json.loads(skopeo("inspect", "--tls-verify=false", "--raw", f"docker://{name}"))
    assert [entry["digest"] for entry in raw["manifests"]] == [amd64.manifest.digest, arm64.manifest.digest]
    assert raw["annotations"] == {"made": "here"}
    skopeo("inspect", "--tls-verify=false", "--override-arch", "arm64", f"docker://{name}")
    assert store.pull(str(name), Platform("linux", "arm64")).id == arm64.id


def test_a_layer_that_occurs_twice(registry: LoopbackRegistry, ctr: Ctr, store: ImageStore) -> None:
    layer = tar_layer({"same": b"again"})
    with LoopbackRegistry() as origin:
        push(origin.url, "source", "1", build_image((layer, tar_layer({"other": b"1"}), layer)))
        pulled = store.pull(f"{origin.host}/source:1")
    name = f"{registry.host}/twice:1"
    assert store.push(pulled, name).digest == ctr.pull(name)
    assert comparable(ctr.tree(name)) == comparable(store.tree(pulled))
