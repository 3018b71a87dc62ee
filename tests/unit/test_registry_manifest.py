"""Manifests and indexes from a server that misbehaves."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage.server.errors import (
    DataLoss,
    MoorageError,
    NotFound,
    ResourceExhausted,
    Unimplemented,
)
from moorage.server.model import Platform
from moorage.server.registry import manifest
from moorage.server.registry.client import Repository
from moorage.server.registry.manifest import Descriptor, Index
from moorage.server.registry.problems import Subject
from tests.fakeregistry import FakeRegistry, Reply, sha256
from tests.images import OCI_INDEX, OCI_MANIFEST, build_image, build_index, tar_layer
from tests.registryclient import (  # noqa: F401
    AUTH,
    BLOB,
    DATA,
    IMAGE,
    Open,
    config,
    impatient,
    once,
    open_repository,
    read,
    registry,
    repository,
)

# Manifests


def serve(registry: FakeRegistry, body: bytes, content_type: str = OCI_MANIFEST, **headers: str) -> None:
    sent = {"Content-Type": content_type, **{name.replace("_", "-"): value for name, value in headers.items()}}
    registry.intercept = lambda request: Reply(200, body, sent) if "/manifests/" in request.path else None


def document(**changes: object) -> bytes:
    return json.dumps({**json.loads(IMAGE.manifest.data), **changes}).encode()


DESCRIPTOR = {"mediaType": OCI_MANIFEST, "digest": sha256(b""), "size": 1}


@pytest.mark.parametrize(
    ("body", "content_type", "text"),
    [
        (b"", OCI_MANIFEST, "not a manifest"),
        (b"<html>hello</html>", "text/html", "<html>hello</html>"),
        (b"[" * 100_000, OCI_MANIFEST, "not a manifest"),
        (b'"x"', OCI_MANIFEST, "not a manifest"),
        (document(config=5), OCI_MANIFEST, "$.config"),
        (document(schemaVersion=3), OCI_MANIFEST, "schemaVersion is 3"),
        (document(manifests=[]), OCI_MANIFEST, "both an index and a manifest"),
        (document(config=None, layers=None), OCI_MANIFEST, "neither an index nor a manifest"),
        (document(layers=None), OCI_MANIFEST, "no layers"),
        (document(config=None), OCI_MANIFEST, "no config"),
        (document(mediaType=OCI_INDEX), OCI_MANIFEST, "ambiguous"),
        (document(), OCI_INDEX, "ambiguous"),
        (document(mediaType=""), OCI_INDEX, "called"),
        (document(mediaType="text/html"), "application/json", "called 'text/html'"),
        (document(layers=[{**DESCRIPTOR, "digest": "sha256:../../etc/passwd"}]), OCI_MANIFEST, "malformed"),
        (document(config={**DESCRIPTOR, "digest": "sha256:abc"}), OCI_MANIFEST, "malformed"),
        (document(layers=[{**DESCRIPTOR, "size": -1}]), OCI_MANIFEST, "impossible"),
        (document(layers=[{**DESCRIPTOR, "size": 1 << 62}]), OCI_MANIFEST, "impossible"),
    ],
)
def test_a_manifest_that_is_none(
    registry: FakeRegistry, repository: Repository, body: bytes, content_type: str, text: str
) -> None:
    serve(registry, body, content_type)
    with pytest.raises(DataLoss) as caught:
        repository.resolve("latest", Platform())
    assert text in caught.value.message
    assert registry.host in caught.value.message
    assert len(caught.value.message) < 900


@pytest.mark.parametrize(
    "content_type", [OCI_MANIFEST, f"{OCI_MANIFEST}; charset=utf-8", "application/json", "text/plain"]
)
def test_a_manifest_without_its_own_media_type(
    registry: FakeRegistry, repository: Repository, content_type: str
) -> None:
    body = document(mediaType="")
    serve(registry, body, content_type)
    assert repository.resolve("latest", Platform()).manifest.media_type == OCI_MANIFEST


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b'{"schemaVersion":1,"name":"x","fsLayers":[]}', "application/json"),
        (b"{}", "application/vnd.docker.distribution.manifest.v1+prettyjws"),
        (document(fsLayers=[]), OCI_MANIFEST),
    ],
)
def test_schema_1(registry: FakeRegistry, repository: Repository, body: bytes, content_type: str) -> None:
    serve(registry, body, content_type)
    with pytest.raises(Unimplemented, match="schema 1"):
        repository.resolve("latest", Platform())


@pytest.mark.parametrize(
    "changes",
    [
        {"config": {**DESCRIPTOR, "mediaType": "application/vnd.cncf.helm.config.v1+json"}},
        {"layers": [{**DESCRIPTOR, "mediaType": "application/vnd.in-toto+json"}]},
    ],
)
def test_no_container_image(registry: FakeRegistry, repository: Repository, changes: dict[str, object]) -> None:
    serve(registry, document(**changes))
    with pytest.raises(Unimplemented):
        repository.resolve("latest", Platform())


@pytest.mark.parametrize(
    "changes",
    [
        {"layers": [{**DESCRIPTOR, "mediaType": "application/vnd.oci.image.layer.v1.tar"}] * 501},
        {"config": {**json.loads(IMAGE.manifest.data)["config"], "size": 1 << 30}},
    ],
)
def test_too_much_of_it(registry: FakeRegistry, repository: Repository, changes: dict[str, object]) -> None:
    serve(registry, document(**changes))
    with pytest.raises(ResourceExhausted):
        repository.resolve("latest", Platform())


@pytest.mark.parametrize("headers", [{}, {"Transfer-Encoding": "identity"}, {"Connection": "close"}])
def test_a_manifest_of_100_megabytes(registry: FakeRegistry, repository: Repository, headers: dict[str, str]) -> None:
    registry.intercept = lambda request: Reply(200, b"{", {"Content-Type": OCI_MANIFEST, **headers}, pad=100 << 20)
    with pytest.raises(ResourceExhausted, match="4194304 bytes"):
        repository.resolve("latest", Platform())


def test_a_digest_header_that_lies(registry: FakeRegistry, repository: Repository) -> None:
    for claimed, text in ((sha256(b"other"), "does not have the digest"), ("sha256:../x", "is 'sha256:../x'")):
        serve(registry, IMAGE.manifest.data, Docker_Content_Digest=claimed)
        with pytest.raises(DataLoss, match=text):
            repository.resolve("latest", Platform())


def test_another_manifest_than_the_digest_asked_for(registry: FakeRegistry, repository: Repository) -> None:
    serve(registry, IMAGE.manifest.data)
    with pytest.raises(DataLoss, match="has the digest"):
        repository.resolve(sha256(b"other"), Platform())
    assert repository.resolve(IMAGE.manifest.digest, Platform()).digest == IMAGE.manifest.digest


def test_an_index(registry: FakeRegistry, repository: Repository) -> None:
    arm = build_image([tar_layer({"b": b"b"})], architecture="arm64", variant="v8")
    index = build_index(arm, IMAGE)
    registry.add("team/app", "latest", index)
    found = repository.resolve("latest", Platform())
    assert (found.digest, found.manifest.digest) == (index.manifest.digest, IMAGE.manifest.digest)
    assert [d.digest for d in found.documents] == [index.manifest.digest, IMAGE.manifest.digest]
    assert repository.resolve("latest", Platform("linux", "aarch64")).manifest.digest == arm.manifest.digest
    with pytest.raises(NotFound, match="none for linux/s390x, only for linux/amd64, linux/arm64/v8"):
        repository.resolve("latest", Platform("linux", "s390x"))


def test_an_entry_that_is_not_what_its_index_says(registry: FakeRegistry, repository: Repository) -> None:
    entry = {
        **IMAGE.manifest.descriptor(),
        "mediaType": OCI_INDEX,
        "platform": {"os": "linux", "architecture": "amd64"},
    }
    body = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    registry.intercept = lambda request: (
        Reply(200, body, {"Content-Type": OCI_INDEX}) if request.path.endswith("latest") else None
    )
    with pytest.raises(DataLoss, match="ambiguous"):
        repository.resolve("latest", Platform())


def test_indexes_without_end(registry: FakeRegistry, repository: Repository) -> None:
    body = IMAGE.manifest.data
    media_type = OCI_MANIFEST
    for depth in range(5):
        entry = {"mediaType": media_type, "digest": sha256(body), "size": len(body)}
        body, media_type = json.dumps({"schemaVersion": 2, "manifests": [entry], "depth": depth}).encode(), OCI_INDEX
        registry.manifests[f"team/app/manifests/{sha256(body)}"] = replace(
            IMAGE.manifest, media_type=OCI_INDEX, data=body
        )
        registry.manifests[f"team/app/manifests/depth{depth + 1}"] = replace(
            IMAGE.manifest, media_type=OCI_INDEX, data=body
        )
    assert repository.resolve("depth3", Platform()).manifest.digest == IMAGE.manifest.digest
    with pytest.raises(DataLoss, match="more than 3 deep"):
        repository.resolve("depth4", Platform())


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda x: (
            st.lists(x)
            | st.dictionaries(
                st.sampled_from(["schemaVersion", "mediaType", "config", "layers", "manifests", "digest", "size"]), x
            )
        ),
        max_leaves=20,
    )
)
def test_any_json_is_read_or_refused(value: object) -> None:
    subject = Subject("h", "r", "get it")
    try:
        found = manifest.read(json.dumps(value).encode(), "", subject)
    except MoorageError as error:
        assert error.message.startswith("cannot get it of r from registry h")
    else:
        assert isinstance(found, Index)
        assert not found.manifests


# Platforms


def platforms(*names: str) -> Index:
    parts = [[*name.split("/"), "", ""][:3] for name in names]
    entries = (Descriptor(OCI_MANIFEST, sha256(n.encode()), 1, Platform(*p)) for n, p in zip(names, parts, strict=True))
    return Index("", OCI_INDEX, b"", tuple(entries))


@pytest.mark.parametrize(
    ("names", "wanted", "chosen"),
    [
        (["linux/arm64", "linux/amd64"], "linux/amd64", "linux/amd64"),
        (["windows/amd64", "linux/386"], "linux/amd64", None),
        (["unknown/unknown", "linux/amd64"], "linux/amd64", "linux/amd64"),
        (["linux/arm/v6", "linux/arm/v7"], "linux/arm/v7", "linux/arm/v7"),
        (["linux/arm/v5", "linux/arm/v6"], "linux/arm/v7", "linux/arm/v6"),
        (["linux/arm/v7"], "linux/arm/v6", None),
        (["linux/arm/v6", "linux/arm"], "linux/arm", "linux/arm"),
        (["linux/arm64/v8"], "linux/arm64", "linux/arm64/v8"),
        (["linux/arm64"], "linux/arm64/v8", "linux/arm64"),
        (["linux/amd64/v3", "linux/amd64"], "linux/amd64", "linux/amd64"),
        (["linux/amd64/v3", "linux/amd64"], "linux/amd64/v3", "linux/amd64/v3"),
        (["linux/amd64/v4", "linux/amd64"], "linux/amd64/v3", "linux/amd64"),
        (["linux/x86_64"], "linux/amd64", "linux/x86_64"),
        (["linux/mips/x"], "linux/mips/y", None),
        ([], "linux/amd64", None),
    ],
)
def test_choice_of_platform(names: list[str], wanted: str, chosen: str | None) -> None:
    index = platforms(*names)
    found = manifest.choose(index, Platform(*[*wanted.split("/"), ""][:3]))
    assert (found and found.digest) == (chosen and sha256(chosen.encode()))


def test_an_entry_without_platform_is_the_last_resort() -> None:
    plain = Descriptor(OCI_MANIFEST, sha256(b"plain"), 1)
    index = platforms("linux/arm64")
    index = replace(index, manifests=(plain, *index.manifests))
    assert manifest.choose(index, Platform("linux", "arm64")) == index.manifests[1]
    assert manifest.choose(index, Platform("linux", "amd64")) == plain
