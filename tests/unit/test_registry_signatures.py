"""The signature policy: what is let in, and that nothing of an image is fetched before. The signatures are openssl's."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from moorage.server.cancel import CancelToken
from moorage.server.errors import FailedPrecondition, InvalidArgument, PermissionDenied, Unavailable
from moorage.server.model import Image, Platform
from moorage.server.registry import remote
from moorage.server.registry.client import Client
from moorage.server.registry.config import RegistryConfig, SignatureRule, from_toml
from moorage.server.registry.pull import Puller
from moorage.server.registry.reference import parse
from moorage.server.registry.signatures import ANNOTATION, ARTIFACT_TYPE, PAYLOAD_TYPE, Signatures
from tests.fakeregistry import FakeRegistry, Reply, sha256
from tests.images import OCI_MANIFEST, Blob, build_image, build_index, tar_layer
from tests.memorygraph import MemoryGraph

IMAGE = build_image([tar_layer({"a": b"a"})])
OTHER = build_image([tar_layer({"other": b"o"})])
INDEX = build_index(IMAGE, build_image([tar_layer({"arm": b"a"})], architecture="arm64"))
KINDS = {
    "ecdsa": ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"),
    "rsa": ("-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"),
    "ed25519": ("-algorithm", "ED25519"),
}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_FIRST_PAUSE", 0.001)


class Signer:
    """A pair of keys in files."""

    def __init__(self, directory: Path, kind: str = "ecdsa") -> None:
        directory.mkdir(exist_ok=True)
        self.kind, self.private, self.public = kind, str(directory / f"{kind}.key"), str(directory / f"{kind}.pub")
        openssl("genpkey", *KINDS[kind], "-out", self.private)
        openssl("pkey", "-in", self.private, "-pubout", "-out", self.public)

    def sign(self, payload: bytes) -> str:
        path = Path(self.private).with_suffix(".payload")
        path.write_bytes(payload)
        if self.kind == "ed25519":
            signature = openssl("pkeyutl", "-sign", "-inkey", self.private, "-rawin", "-in", str(path))
        else:
            signature = openssl("dgst", "-sha256", "-sign", self.private, str(path))
        return base64.b64encode(signature).decode()


def openssl(*arguments: str) -> bytes:
    return subprocess.run(["openssl", *arguments], check=True, capture_output=True).stdout


class World:
    def __init__(self, registry: FakeRegistry, directory: Path) -> None:
        self.registry, self.directory = registry, directory
        self.graph = MemoryGraph()
        self.clients: list[Client] = []
        self.name = f"{registry.host}/team/app"

    def pull(self, *rules: SignatureRule, target: str = ":latest") -> Image:
        config = RegistryConfig(signatures=rules, docker_config=str(self.directory / "none"), retries=1)
        self.clients.append(Client(config))
        puller = Puller(self.graph, self.clients[-1])
        return puller.pull(parse(self.name + target), Platform(), None, lambda _: None, CancelToken())

    def require(self, *signers: Signer) -> SignatureRule:
        return SignatureRule(self.registry.host, "require", tuple(signer.public for signer in signers))

    def signed(
        self, signer: Signer, digest: str = IMAGE.manifest.digest, *, at: str = "", signature: str = "", **claim: Any
    ) -> None:
        """Put a signature of `digest` where one of `at` (the same) would be; `claim` changes what is signed."""
        critical = {
            "identity": {"docker-reference": claim.get("reference", self.name)},
            "image": {"docker-manifest-digest": digest},
            "type": claim.get("type", "cosign container image signature"),
        }
        payload = claim.get("payload") or json.dumps({"critical": critical, "optional": None}).encode()
        self.registry.blobs[sha256(payload)] = payload
        layer = {
            "mediaType": PAYLOAD_TYPE,
            "digest": sha256(payload),
            "size": len(payload),
            "annotations": {ANNOTATION: signature or signer.sign(payload)},
        }
        document = json.dumps({"schemaVersion": 2, "layers": [layer]}).encode()
        tag = f"{(at or digest).replace(':', '-')}.sig"
        self.registry.manifests[f"team/app/manifests/{tag}"] = Blob(OCI_MANIFEST, document)

    def nothing_fetched(self) -> bool:
        blobs = {digest for digest in self.registry.blobs if self.registry.asked(f"/blobs/{digest}")}
        parts = {blob.digest for image in (IMAGE, OTHER) for blob in (image.config, *image.layers)}
        return not blobs & parts and not self.graph.images and not self.graph.applied


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with FakeRegistry() as registry:
        registry.add("team/app", "latest", IMAGE)
        registry.add("team/app", "multi", INDEX)
        made = World(registry, tmp_path)
        yield made
        for client in made.clients:
            client.close()


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer(tmp_path / "keys")


@pytest.mark.parametrize("kind", KINDS)
def test_a_good_signature_lets_an_image_in(world: World, tmp_path: Path, kind: str) -> None:
    signer = Signer(tmp_path / "keys", kind)
    world.signed(signer)
    assert world.pull(world.require(signer)).id == IMAGE.id


def test_one_of_several_keys_will_do(world: World, signer: Signer, tmp_path: Path) -> None:
    world.signed(signer)
    assert world.pull(world.require(Signer(tmp_path / "more"), signer)).id == IMAGE.id


def test_none_is_needed_where_no_rule_says_so(world: World, signer: Signer) -> None:
    elsewhere = SignatureRule("registry.example", "require", (signer.public,))
    assert world.pull(elsewhere, SignatureRule(world.registry.host, "accept")).id == IMAGE.id
    assert not world.registry.asked(".sig")


def test_the_longest_scope_counts(world: World, signer: Signer) -> None:
    rules = (SignatureRule("", "reject"), world.require(signer), SignatureRule(world.name, "accept"))
    assert world.pull(*rules).id == IMAGE.id
    with pytest.raises(PermissionDenied, match=r"the signature policy for .*/team/app rejects it"):
        world.pull(SignatureRule("", "accept"), SignatureRule(world.name, "reject"))
    assert world.pull(SignatureRule(f"{world.registry.host}/tea", "reject")).id == IMAGE.id, "no whole component"


def refused(world: World, match: str, *signers: Signer) -> None:
    with pytest.raises(PermissionDenied, match=match) as refusal:
        world.pull(world.require(*signers))
    assert refusal.value.reason == "SIGNATURE"
    assert world.nothing_fetched()


def test_without_a_signature(world: World, signer: Signer) -> None:
    refused(world, "requires a signature, and it has none", signer)


def test_reject_fetches_nothing(world: World) -> None:
    with pytest.raises(PermissionDenied, match="the signature policy for all images rejects it"):
        world.pull(SignatureRule("", "reject"))
    assert world.nothing_fetched()


Spoil = Callable[[World, Signer], None]


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda w, s: w.signed(Signer(w.directory / "foreign")), "is of no known key"),
        (lambda w, s: w.signed(s, signature="AAAA"), "is of no known key"),
        (lambda w, s: w.signed(s, signature="not base64"), "is not base64"),
        (lambda w, s: w.signed(s, OTHER.manifest.digest, at=IMAGE.manifest.digest), "a signature is of 'sha256:"),
        (lambda w, s: w.signed(s, reference="registry.example/team/app"), "is for registry.example/team/app"),
        (lambda w, s: w.signed(s, reference=f"{w.name}:old"), "is for 127.0.0.1:.*:old"),
        (lambda w, s: w.signed(s, reference="UPPER/../case"), "payload is malformed"),
        (lambda w, s: w.signed(s, type="atomic container signature"), "is a 'atomic"),
        (lambda w, s: w.signed(s, payload=b"{}"), "payload is malformed"),
        (lambda w, s: w.signed(s, payload=b"[" * 5000), "payload is malformed"),
    ],
)
def test_signatures_that_do_not_count(world: World, signer: Signer, spoil: Spoil, why: str) -> None:
    spoil(world, signer)
    refused(world, why, signer)


def test_a_payload_that_was_swapped(world: World, signer: Signer) -> None:
    world.signed(signer)
    payload = next(data for data in world.registry.blobs.values() if b"cosign container" in data)
    world.registry.blobs[sha256(payload)] = payload.replace(b"null", b"true")
    refused(world, "it has none", signer)


def test_what_is_no_manifest_of_signatures(world: World, signer: Signer) -> None:
    name = f"team/app/manifests/{IMAGE.manifest.digest.replace(':', '-')}.sig"
    world.registry.manifests[name] = Blob(OCI_MANIFEST, b'{"layers": "many"}')
    refused(world, "it has none", signer)


def test_a_registry_that_does_not_tell_is_not_one_without_signatures(world: World, signer: Signer) -> None:
    world.registry.intercept = lambda request: Reply(503) if request.path.endswith(".sig") else None
    with pytest.raises(Unavailable):
        world.pull(world.require(signer))
    assert world.nothing_fetched()


@pytest.mark.parametrize("of", ["index", "image"])
def test_of_an_index_or_of_its_image(world: World, signer: Signer, of: str) -> None:
    world.signed(signer, (INDEX if of == "index" else IMAGE).manifest.digest)
    assert world.pull(world.require(signer), target=":multi").id == IMAGE.id


def test_a_signature_that_refers_to_the_image(world: World, signer: Signer) -> None:
    world.signed(signer)
    tag = f"team/app/manifests/{IMAGE.manifest.digest.replace(':', '-')}.sig"
    document = json.loads(world.registry.manifests.pop(tag).data)
    subject = {"mediaType": OCI_MANIFEST, "digest": IMAGE.manifest.digest, "size": len(IMAGE.manifest.data)}
    blob = Blob(OCI_MANIFEST, json.dumps({**document, "artifactType": ARTIFACT_TYPE, "subject": subject}).encode())
    world.registry.manifests[f"team/app/manifests/{blob.digest}"] = blob
    assert world.pull(world.require(signer)).id == IMAGE.id


def test_by_digest_the_tag_that_was_signed_does_not_matter(world: World, signer: Signer) -> None:
    world.signed(signer, reference=f"{world.name}:old")
    assert world.pull(world.require(signer), target=f"@{IMAGE.manifest.digest}").id == IMAGE.id


def test_an_image_out_of_an_archive(world: World, signer: Signer) -> None:
    """Its signatures are looked for where its names say; without a name, or a manifest, it has none."""
    world.signed(signer)
    rules = (world.require(signer), SignatureRule("", "reject"))
    client = Client(RegistryConfig(signatures=rules, docker_config=str(world.directory / "none"), retries=1))
    world.clients.append(client)

    def admit(*names: str, digests: tuple[str, ...] = (IMAGE.manifest.digest,)) -> None:
        Signatures(client).check_archived([parse(name) for name in names], digests, "load", CancelToken())

    admit(f"{world.name}:latest")
    for names, digests, why in (
        ((f"{world.name}:latest",), (OTHER.manifest.digest,), "cannot load .*app:latest: .* it has none"),
        ((f"{world.name}:latest",), (), "it has none"),
        ((f"{world.name}:latest", "elsewhere.example/app:1"), (IMAGE.manifest.digest,), "elsewhere.*rejects it"),
        ((), (IMAGE.manifest.digest,), "cannot load an image without a name: .* for all images rejects it"),
    ):
        with pytest.raises(PermissionDenied, match=why):
            admit(*names, digests=digests)


def test_keys_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "text.pub").write_text("no key")
    openssl("genpkey", "-algorithm", "X25519", "-out", str(tmp_path / "x.key"))
    openssl("pkey", "-in", str(tmp_path / "x.key"), "-pubout", "-out", str(tmp_path / "x.pub"))
    for name, why in (("none.pub", "no such file"), ("text.pub", "not a public key"), ("x.pub", "does not sign here")):
        client = Client(RegistryConfig(signatures=(SignatureRule("", "require", (str(tmp_path / name),)),)))
        with pytest.raises(FailedPrecondition, match=why):
            Signatures(client)
        client.close()


def test_the_rules_in_the_configuration() -> None:
    tables = [{"scope": "docker.io/library", "policy": "require", "keys": ["/k.pub"]}, {"policy": "reject"}]
    assert from_toml({"signatures": tables}).signatures == (
        SignatureRule("docker.io/library", "require", ("/k.pub",)),
        SignatureRule("", "reject"),
    )
    for table, why in (
        ({"policy": "maybe"}, "policy: must be accept"),
        ({"policy": "require"}, "keys: are what a policy of require needs"),
        ({"policy": "accept", "keys": ["/k"]}, "keys: are what a policy of require needs"),
        ({"policy": "reject", "scope": "busybox"}, "is no registry"),
        ({"policy": "reject", "scope": "r.example/app:1"}, "leave tags"),
        ({"policy": "reject", "key": "x"}, "unknown setting"),
    ):
        with pytest.raises(InvalidArgument, match=why):
            from_toml({"signatures": [table]})
