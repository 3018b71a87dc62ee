"""Images as a kubelet sees them."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from grpc import StatusCode

from moorage.cri.v1 import api_pb2 as api
from tests.criclient import Cri, refused
from tests.images import build_busybox, push, tar_layer
from tests.registry import LoopbackRegistry

pytestmark = pytest.mark.kernel

REPOSITORY = "registry.example/test/fleet"


@pytest.fixture
def fleet(registry: LoopbackRegistry, cri: Cri) -> Iterator[str]:
    """The ID of an image with the tags 1, 2 and latest, all pulled."""
    image = build_busybox(extra_layers=[tar_layer({"etc/fleet": b"fleet\n"})], config={"User": "1002:1003"})
    for tag in ("1", "2", "latest"):
        push(registry.url, "test/fleet", tag, image)
    assert {cri.pull(f"{REPOSITORY}:{tag}") for tag in ("1", "2", "latest")} == {image.id}
    yield image.id
    cri.remove_image(image.id)


def test_an_image_is_the_same_by_id_tag_and_digest(cri: Cri, fleet: str) -> None:
    image = cri.image_status(fleet).image
    assert image.id == fleet
    assert sorted(image.repo_tags) == [f"{REPOSITORY}:1", f"{REPOSITORY}:2", f"{REPOSITORY}:latest"]
    [digest] = image.repo_digests
    assert digest.startswith(f"{REPOSITORY}@sha256:")
    for name in (f"{REPOSITORY}:1", REPOSITORY, digest, fleet.removeprefix("sha256:")):
        assert cri.image_status(name).image.id == fleet
    assert image.size > 0
    assert (image.uid.value, image.username, image.pinned) == (1002, "", False)


def test_images_are_listed_and_filtered(cri: Cri, fleet: str) -> None:
    listed = cri.images.ListImages(api.ListImagesRequest()).images
    assert fleet in [image.id for image in listed]
    only = api.ImageFilter(image=api.ImageSpec(image=f"{REPOSITORY}:2"))
    assert [image.id for image in cri.images.ListImages(api.ListImagesRequest(filter=only)).images] == [fleet]
    none = api.ImageFilter(image=api.ImageSpec(image=f"{REPOSITORY}:3"))
    assert list(cri.images.ListImages(api.ListImagesRequest(filter=none)).images) == []


def test_a_repository_stands_for_its_images_in_a_list(cri: Cri, registry: LoopbackRegistry, fleet: str) -> None:
    """As for `crictl images REPOSITORY`."""
    push(registry.url, "test/fleet", "other", build_busybox(extra_layers=[tar_layer({"etc/fleet": b"another\n"})]))
    other = cri.pull(f"{REPOSITORY}:other")

    def listed(name: str) -> set[str]:
        request = api.ListImagesRequest(filter=api.ImageFilter(image=api.ImageSpec(image=name)))
        return {image.id for image in cri.images.ListImages(request).images}

    assert listed(REPOSITORY) == {fleet, other}
    assert listed(f"{REPOSITORY}:latest") == listed(fleet) == listed(fleet.removeprefix("sha256:")[:12]) == {fleet}
    cri.remove_image(other)


def test_removing_by_one_tag_drops_them_all(cri: Cri, fleet: str) -> None:
    cri.remove_image(f"{REPOSITORY}:1")
    assert not cri.image_status(f"{REPOSITORY}:2").HasField("image")
    assert not cri.image_status(fleet).HasField("image")


def test_removing_at_the_same_time_is_fine(cri: Cri, fleet: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(cri.remove_image, [fleet, f"{REPOSITORY}:1", f"{REPOSITORY}:2", f"{REPOSITORY}:latest"] * 4))
    assert not cri.image_status(fleet).HasField("image")


def test_a_containers_image_reference_stays_when_the_image_goes(cri: Cri, fleet: str) -> None:
    box = cri.pod().run("true", image=f"{REPOSITORY}:1")
    before = box.ended()
    cri.remove_image(fleet)
    after = box.status()
    assert (after.image, after.image_ref, after.image_id) == (before.image, before.image_ref, before.image_id)
    assert after.image.image == f"{REPOSITORY}:1"


def test_what_is_not_in_the_registry_is_not_found(cri: Cri, registry: LoopbackRegistry) -> None:
    with refused(StatusCode.NOT_FOUND, "test/nothing"):
        cri.pull(f"{registry.host}/test/nothing:1")
    with refused(StatusCode.INVALID_ARGUMENT):
        cri.pull("not a reference")


def test_the_image_file_system_is_there(cri: Cri) -> None:
    answer = cri.images.ImageFsInfo(api.ImageFsInfoRequest())
    [images], [containers] = answer.image_filesystems, answer.container_filesystems
    assert Path(images.fs_id.mountpoint).is_dir()
    assert Path(containers.fs_id.mountpoint).is_dir()
    assert images.timestamp > 0
    assert images.used_bytes.value > 0
    assert images.inodes_used.value > 0


@pytest.fixture(scope="module")
def private() -> Iterator[LoopbackRegistry]:
    with LoopbackRegistry(auth=("sailor", "secret")) as registry:
        push(registry.url, "crew/app", "1", build_busybox(env=("CREW=1",)), auth=("sailor", "secret"))
        yield registry


@pytest.mark.parametrize(
    "auth",
    [
        api.AuthConfig(username="sailor", password="secret"),
        api.AuthConfig(auth=base64.b64encode(b"sailor:secret").decode()),
    ],
)
def test_credentials_come_with_the_call(cri: Cri, private: LoopbackRegistry, auth: api.AuthConfig) -> None:
    spec = api.ImageSpec(image=f"{private.host}/crew/app:1")
    with refused(StatusCode.UNAUTHENTICATED):
        cri.images.PullImage(api.PullImageRequest(image=spec))
    assert cri.images.PullImage(api.PullImageRequest(image=spec, auth=auth)).image_ref
    cri.images.RemoveImage(api.RemoveImageRequest(image=spec))
