"""What goes from registry to registry as it is: images with all their platforms, and artifacts. Told by skopeo."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import pytest

from tests.daemon import Daemon
from tests.images import OCI_MANIFEST, Blob, BuiltImage, build_busybox, build_index, push
from tests.registry import LoopbackRegistry

pytestmark = [pytest.mark.kernel, pytest.mark.slow]


def there(name: str) -> bytes:
    """The document that a registry has."""
    command = ["skopeo", "inspect", "--tls-verify=false", "--raw", f"docker://{name}"]
    return subprocess.run(command, check=True, capture_output=True).stdout


def test_an_index_stays_what_its_registry_calls_it(daemon: Daemon, registry: LoopbackRegistry) -> None:
    amd64 = build_busybox(env=("PATH=/bin", "OF=copies"))
    arm64 = build_busybox(env=("PATH=/bin", "OF=copies"), architecture="arm64")
    index = build_index(amd64, arm64)
    push(registry.url, "multi", "1", index)
    name, copy = f"{registry.host}/multi", f"{registry.host}/elsewhere"
    daemon.cli("pull", f"{name}:1")
    try:
        assert index.manifest.digest[7:19] in daemon.out("images", "--digests", name)
        with LoopbackRegistry() as other:
            daemon.cli("push", "--all-platforms", f"{name}:1", f"{other.host}/copy:1")
            for image in (index, amd64, arm64):
                assert there(f"{other.host}/copy@{image.manifest.digest}") == image.manifest.data
            assert there(f"{other.host}/copy:1") == index.manifest.data
            assert daemon.inspect(f"{name}:1")["digests"] == sorted(
                f"{each}@{index.manifest.digest}" for each in (name, f"{other.host}/copy")
            )
        daemon.cli("push", f"{name}:1", f"{copy}:1")
        assert there(f"{copy}:1") == amd64.manifest.data
        assert f"{copy}@{amd64.manifest.digest}" in daemon.inspect(f"{name}:1")["digests"]
    finally:
        daemon.cli("rmi", "-f", f"{name}:1")
    assert json.loads(daemon.out("fsck", "--format", "json"))["findings"] == []


def test_an_artifact(daemon: Daemon, registry: LoopbackRegistry, tmp_path: Path) -> None:
    config, chart = (
        Blob("application/vnd.cncf.helm.config.v1+json", b'{"name":"app"}'),
        Blob("application/tar", b"chart"),
    )
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": config.descriptor(),
        "layers": [chart.descriptor()],
    }
    manifest = Blob(OCI_MANIFEST, json.dumps(document).encode())
    push(registry.url, "chart", "1", BuiltImage(manifest, config, (chart,), ()))
    name = f"{registry.host}/chart:1"
    refused = daemon.cli("pull", name, check=False)
    assert "no container image, but an artifact of type 'application/vnd.cncf.helm.config.v1+json'" in refused.stderr
    assert "moorage registry cp" in refused.stderr
    assert json.loads(daemon.out("manifest", "inspect", "--raw", name)) == document
    written = daemon.out("artifact", "pull", name, str(tmp_path))
    assert (tmp_path / chart.digest.replace(":", "-")).read_bytes() == chart.data and written.startswith(str(tmp_path))
    with LoopbackRegistry() as other:
        assert daemon.out("registry", "cp", "-q", name, f"{other.host}/charts/app:2") == manifest.digest
        raw = there(f"{other.host}/charts/app:2")
    assert f"sha256:{hashlib.sha256(raw).hexdigest()}" == manifest.digest


def test_an_artifact_of_files(daemon: Daemon, registry: LoopbackRegistry, tmp_path: Path) -> None:
    image = build_busybox(env=("PATH=/bin", "OF=artifacts"))
    push(registry.url, "team/app", "1", image)
    (tmp_path / "bom.json").write_text('{"bom": true}')
    with open(tmp_path / "large", "wb") as large:
        large.truncate(64 << 20)
    files = [f"{tmp_path}/bom.json:application/spdx+json", f"{tmp_path}/large"]
    name = f"{registry.host}/team/app"
    digest = daemon.out("artifact", "push", "-q", "--artifact-type", "text/bom", f"{name}:bom", *files)
    raw = there(f"{name}:bom")
    assert f"sha256:{hashlib.sha256(raw).hexdigest()}" == digest
    assert json.loads(raw)["artifactType"] == "text/bom"
    daemon.out("artifact", "pull", f"{name}:bom", str(tmp_path / "out"))
    for file in ("bom.json", "large"):
        assert (tmp_path / "out" / file).read_bytes() == (tmp_path / file).read_bytes()
    owned = daemon.out(
        "artifact", "push", "-q", "--artifact-type", "text/bom", "--subject", f"{name}:1", name, files[0]
    )
    assert daemon.out("registry", "referrers", "-q", f"{name}:1") == owned
    assert json.loads(there(f"{name}@{owned}"))["subject"] == image.manifest.descriptor()
