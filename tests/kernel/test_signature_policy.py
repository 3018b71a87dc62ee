"""The signature policy on every way in: pulls, builds on an image, archives."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from moorage.server.registry.signatures import ANNOTATION, PAYLOAD_TYPE
from tests.archives import Archive
from tests.daemon import Daemon
from tests.images import OCI_CONFIG, OCI_MANIFEST, Blob, BuiltImage, build_busybox, push
from tests.registry import LoopbackRegistry

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

RULES = """
[[registry.signatures]]
scope = "{host}/signed"
policy = "require"
keys = ["{key}"]

[[registry.signatures]]
scope = "{host}/forbidden"
policy = "reject"
"""


def openssl(*arguments: str | Path) -> bytes:
    return subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True).stdout


def signature(image: BuiltImage, name: str, key: Path) -> BuiltImage:
    """A manifest of one signature, as cosign puts it beside an image."""
    identity = {"identity": {"docker-reference": name}, "image": {"docker-manifest-digest": image.manifest.digest}}
    claim = {"critical": {**identity, "type": "cosign container image signature"}}
    payload = Blob(PAYLOAD_TYPE, json.dumps(claim).encode())
    path = key.with_suffix(".payload")
    path.write_bytes(payload.data)
    signed = base64.b64encode(openssl("dgst", "-sha256", "-sign", key, path)).decode()
    config = Blob(OCI_CONFIG, b"{}")
    layer = {**payload.descriptor(), "annotations": {ANNOTATION: signed}}
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": config.descriptor(),
        "layers": [layer],
    }
    return BuiltImage(Blob(OCI_MANIFEST, json.dumps(document).encode()), config, (payload,), ())


@pytest.fixture
def daemon(registry: LoopbackRegistry, tmp_path: Path) -> Iterator[Daemon]:
    """With a policy, and a registry that has a signed and an unsigned image."""
    key, public = tmp_path / "team.key", tmp_path / "team.pub"
    openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", key)
    openssl("pkey", "-in", key, "-pubout", "-out", public)
    good, bad = build_busybox(env=("A=good", "PATH=/bin")), build_busybox(env=("A=bad", "PATH=/bin"))
    push(registry.url, "signed/good", "1", good)
    push(registry.url, "signed/bad", "1", bad)
    tag = f"{good.manifest.digest.replace(':', '-')}.sig"
    push(registry.url, "signed/good", tag, signature(good, f"{registry.host}/signed/good", key))
    with Daemon.temporary(settings=RULES.format(host=registry.host, key=public)) as daemon:
        yield daemon


def refused(daemon: Daemon, *arguments: str, why: str, stdin: str | None = None) -> None:
    done = daemon.cli(*arguments, check=False, stdin=stdin)
    assert done.returncode and why in done.stderr, (arguments, done.stderr)
    assert daemon.out("images", "-q") == ""
    assert not list((daemon.root / "content" / "blobs" / "sha256").iterdir()), "nothing of it stays"


def test_builds_and_archives(daemon: Daemon, registry: LoopbackRegistry, tmp_path: Path) -> None:
    host = registry.host
    good, bad = f"{host}/signed/good:1", f"{host}/signed/bad:1"
    unsigned = f"signature policy for {host}/signed requires a signature, and it has none"
    rejected = f"signature policy for {host}/forbidden rejects it"
    refused(daemon, "pull", bad, why=unsigned)
    refused(daemon, "build", "-t", "made:1", "-", why=f"cannot pull {bad}", stdin=f"FROM {bad}\nENV X=1\n")
    for form in ("oci-archive", "docker-archive"):
        for name in ("bad", "good"):
            archive = f"{form}:{tmp_path}/{form}-{name}:{host}/signed/{name}:1"
            copy = ["skopeo", "copy", "-q", "--insecure-policy", "--src-tls-verify=false", "--tmpdir", str(tmp_path)]
            subprocess.run([*copy, f"docker://{host}/signed/{name}:1", archive], check=True)
        refused(daemon, "load", "-i", str(tmp_path / f"{form}-bad"), why=unsigned)
    # It has no manifest that could have been signed.
    refused(daemon, "load", "-i", str(tmp_path / "docker-archive-good"), why=unsigned)
    rootfs = tmp_path / "rootfs.tar"
    rootfs.write_bytes(Archive().add("etc", "dir").bytes)
    refused(daemon, "import", str(rootfs), f"{host}/forbidden/it:1", why=rejected)
    daemon.cli("load", "-i", str(tmp_path / "oci-archive-good"))
    daemon.cli("rmi", good)
    daemon.cli("build", "-t", "made:1", "-", stdin=f"FROM {good}\nENV X=1\n")
    # What is here is not asked again, unless the call says so.
    daemon.cli("tag", "made:1", bad)
    assert daemon.out("run", "--rm", bad, "sh", "-c", "echo $A$X") == "good1"
    assert unsigned in daemon.cli("run", "--rm", "--pull", "always", bad, "true", check=False).stderr
    daemon.cli("build", "-q", "-", stdin=f"FROM {bad}\nENV Y=1\n")
    assert unsigned in daemon.cli("build", "-q", "--pull", "-", stdin=f"FROM {bad}\nENV Y=1\n", check=False).stderr
    assert daemon.inspect(bad)["id"] == daemon.inspect("made:1")["id"], "a refused pull changes no name"
    daemon.cli("import", str(rootfs), "elsewhere.example/it:1")
