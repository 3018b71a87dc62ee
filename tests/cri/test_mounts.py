"""Mounts: of the host, with propagation and read-only below, and of images."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from grpc import StatusCode

from moorage.cri.v1 import api_pb2 as api
from tests.criclient import Cri, refused
from tests.images import build_image, push, tar_layer
from tests.registry import LoopbackRegistry

pytestmark = pytest.mark.kernel

DATA = "registry.example/test/data:1"


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Path]:
    """A shared mount of the host."""
    path = tmp_path / "moorage-shared"
    path.mkdir()
    mount("-t", "tmpfs", "moorage-test", str(path))
    mount("--make-shared", str(path))
    yield path
    subprocess.run(["umount", "-R", "-l", path], check=True)


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def test_mounts_are_as_asked_and_told_back(cri: Cri, tmp_path: Path) -> None:
    tmp_path.joinpath("file").write_text("of the host\n")
    asked = [
        api.Mount(container_path="/data/deep", host_path=str(tmp_path), readonly=True),
        api.Mount(container_path="/data", host_path=str(tmp_path)),
    ]
    tmp_path.joinpath("deep").mkdir()
    box = cri.pod().run("sleep", "1000", mounts=asked)
    assert box.sh("cat /data/file /data/deep/file; touch /data/new; touch /data/deep/no 2>&1 || true").splitlines() == [
        "of the host",
        "of the host",
        "touch: /data/deep/no: Read-only file system",
    ]
    assert tmp_path.joinpath("new").exists()
    assert {(one.container_path, one.host_path, one.readonly) for one in box.status().mounts} == {
        (one.container_path, one.host_path, one.readonly) for one in asked
    }


def test_a_symbolic_link_of_the_host_is_followed(cri: Cri, tmp_path: Path) -> None:
    tmp_path.joinpath("real").mkdir()
    tmp_path.joinpath("real", "file").write_text("found\n")
    tmp_path.joinpath("link").symlink_to("real")
    mounts = [api.Mount(container_path="/data", host_path=str(tmp_path / "link"))]
    assert cri.pod().sh("cat /data/file", mounts=mounts) == "found\n"


def test_the_hosts_proc(cri: Cri) -> None:
    mount = api.Mount(container_path="/proc", host_path="/proc", readonly=True)
    box = cri.namespaces_pod(pid=api.CONTAINER).run("sleep", "1000765", mounts=[mount])
    assert "sleep 1000765" in box.sh("cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '; true")
    assert int(box.sh("readlink /proc/self")) > 1
    with refused(StatusCode.INVALID_ARGUMENT, "/proc"):
        box.pod.create("true", mounts=[api.Mount(container_path="/proc", host_path="/sys")])


def test_a_path_of_the_host_that_is_not_there_becomes_a_directory(cri: Cri, tmp_path: Path) -> None:
    mounts = [api.Mount(container_path="/data", host_path=str(tmp_path / "new/deep"))]
    cri.pod().sh("touch /data/file", mounts=mounts)
    assert tmp_path.joinpath("new/deep/file").exists()


def test_a_private_mount_does_not_see_later_mounts(cri: Cri, shared: Path) -> None:
    shared.joinpath("below").mkdir()
    box = cri.pod().run("sleep", "1000", mounts=[api.Mount(container_path="/data", host_path=str(shared))])
    mount("-t", "tmpfs", "moorage-test", str(shared / "below"))
    assert box.sh("grep -c ' /data/below ' /proc/self/mounts || true") == "0\n"


def test_a_slave_sees_the_hosts_later_mounts(cri: Cri, shared: Path) -> None:
    shared.joinpath("below").mkdir()
    slave = api.Mount(container_path="/data", host_path=str(shared), propagation=api.PROPAGATION_HOST_TO_CONTAINER)
    box = cri.pod().run("sleep", "1000", mounts=[slave])
    mount("-t", "tmpfs", "moorage-test", str(shared / "below"))
    assert box.sh("grep -c ' /data/below ' /proc/self/mounts") == "1\n"


def test_a_bidirectional_mount_shows_the_host_what_is_mounted_inside(cri: Cri, shared: Path) -> None:
    shared.joinpath("below").mkdir()
    context = api.LinuxSandboxSecurityContext(privileged=True)
    pod = cri.pod(linux=api.LinuxPodSandboxConfig(security_context=context))
    both = api.Mount(container_path="/data", host_path=str(shared), propagation=api.PROPAGATION_BIDIRECTIONAL)
    box = pod.run("sleep", "1000", mounts=[both], linux={"privileged": True})
    box.sh("mount -t tmpfs moorage-test /data/below && touch /data/below/inside")
    assert shared.joinpath("below/inside").exists()


def test_propagation_needs_a_mount_that_propagates(cri: Cri, tmp_path: Path) -> None:
    private = tmp_path / "moorage-private"
    private.mkdir()
    mount("-t", "tmpfs", "moorage-test", str(private))
    mount("--make-private", str(private))
    pod = cri.pod()
    try:
        for how in (api.PROPAGATION_BIDIRECTIONAL, api.PROPAGATION_HOST_TO_CONTAINER):
            asked = api.Mount(container_path="/data", host_path=str(private), propagation=how)
            with pytest.raises(Exception, match="moorage-private"):
                pod.run("true", mounts=[asked])
    finally:
        subprocess.run(["umount", private], check=True)


def test_recursive_read_only_reaches_what_is_mounted_below(cri: Cri, shared: Path) -> None:
    shared.joinpath("below").mkdir()
    mount("-t", "tmpfs", "moorage-test", str(shared / "below"))
    plain = api.Mount(container_path="/plain", host_path=str(shared), readonly=True)
    deep = api.Mount(container_path="/deep", host_path=str(shared), readonly=True, recursive_read_only=True)
    script = "for at in /plain /plain/below /deep /deep/below; do touch $at/x 2>/dev/null && echo yes || echo no; done"
    box = cri.pod().run("sleep", "1000", mounts=[plain, deep])
    assert box.sh(script).split() == ["no", "yes", "no", "no"]
    assert {one.container_path: one.recursive_read_only for one in box.status().mounts} == {
        "/plain": False,
        "/deep": True,
    }


@pytest.mark.parametrize(
    "fields", [{"readonly": False}, {"readonly": True, "propagation": api.PROPAGATION_HOST_TO_CONTAINER}]
)
def test_recursive_read_only_needs_a_private_read_only_mount(cri: Cri, shared: Path, fields: dict[str, int]) -> None:
    asked = api.Mount(container_path="/data", host_path=str(shared), recursive_read_only=True)
    for name, value in fields.items():
        setattr(asked, name, value)
    with refused(StatusCode.INVALID_ARGUMENT, "recursive"):
        cri.pod().create("true", mounts=[asked])


def test_devices_are_shown(cri: Cri) -> None:
    device = api.Device(container_path="/dev/nothing", host_path="/dev/null", permissions="rw")
    assert cri.pod().sh("echo x > /dev/nothing && stat -c %t:%T /dev/nothing", devices=[device]) == "1:3\n"


@pytest.fixture(scope="module")
def data(registry: LoopbackRegistry, shared_cri: Cri) -> Iterator[str]:
    """An image of files only, and one link that leads out of it."""
    layer = tar_layer({"top": b"top\n", "dir/file": b"in the image\n"})
    push(registry.url, "test/data", "1", build_image([layer]))
    shared_cri.pull(DATA)
    yield DATA
    shared_cri.remove_image(DATA)


def test_an_image_is_a_volume(cri: Cri, data: str) -> None:
    asked = [
        api.Mount(container_path="/all", image=api.ImageSpec(image=data), readonly=True),
        api.Mount(container_path="/part", image=api.ImageSpec(image=data), image_sub_path="dir", readonly=True),
    ]
    box = cri.pod().run("sleep", "1000", mounts=asked)
    assert box.sh("cat /all/top /all/dir/file /part/file; touch /all/x 2>&1 || true").splitlines() == [
        "top",
        "in the image",
        "in the image",
        "touch: /all/x: Read-only file system",
    ]
    assert {one.container_path: (one.image.image, one.image_sub_path) for one in box.status().mounts} == {
        "/all": (data, ""),
        "/part": (data, "dir"),
    }


def test_an_image_volume_by_digest(cri: Cri, data: str) -> None:
    digest = cri.image_status(data).image.repo_digests[0]
    asked = api.Mount(container_path="/all", image=api.ImageSpec(image=digest), readonly=True)
    assert cri.pod().sh("cat /all/top", mounts=[asked]) == "top\n"


@pytest.mark.parametrize("sub_path", ["no/such", "top", "../..", "/etc"])
def test_a_sub_path_that_is_no_directory_of_the_image(cri: Cri, data: str, sub_path: str) -> None:
    asked = api.Mount(container_path="/part", image=api.ImageSpec(image=data), image_sub_path=sub_path, readonly=True)
    pod = cri.pod()
    with pytest.raises(Exception, match=sub_path):
        pod.run("true", mounts=[asked])


def test_an_image_volume_that_is_not_there_is_not_found(cri: Cri) -> None:
    image = api.ImageSpec(image="registry.example/test/nothing:1")
    with refused(StatusCode.NOT_FOUND, "registry.example/test/nothing:1"):
        cri.pod().create("true", mounts=[api.Mount(container_path="/all", image=image, readonly=True)])
