"""What is peculiar to overlay: what a container is mounted with, and what its options cost and give."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from moorage.server.cancel import CancelToken
from moorage.server.errors import DataLoss, FailedPrecondition
from moorage.server.graph.confined import ConfinedRunner
from moorage.server.graph.drivers.base import MOUNT_POINTS, WritableLayer
from moorage.server.graph.drivers.overlay import OverlayDriver
from moorage.server.graph.overlayoptions import OverlayOptions
from tests.archives import Archive, in_rootfs, raw_in_rootfs

pytestmark = [pytest.mark.kernel, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

BASE, TOP = (f"sha256:{digit * 64}" for digit in "ab")
MIB = 1 << 20
DISPOSABLE = WritableLayer(disposable=True)

Make = Callable[..., OverlayDriver]


@pytest.fixture
def make(tmp_path: Path, confined: ConfinedRunner) -> Iterator[Make]:
    """Drivers of one root, as after restarts with other options; the first finds a layer of 3 MiB there."""
    made: list[OverlayDriver] = []

    def make(**options: object) -> OverlayDriver:
        driver = OverlayDriver(tmp_path / "root", confined, OverlayOptions(**options))  # type: ignore[arg-type]
        archive = Archive().add("big", data=bytes(3 * MIB)).add("var", "dir").add("var/old", data=b"old")
        driver.apply(BASE, "", io.BytesIO(archive.bytes), CancelToken())
        made.append(driver)
        return driver

    yield make
    for driver in made:
        driver.close()


def options(driver: OverlayDriver, container_id: str) -> tuple[str, ...]:
    return driver.rootfs(container_id)[0].options[3:]


@pytest.mark.parametrize(
    ("volatile", "expected"),
    [("auto", {"kept": False, "gone": True}), ("always", {"kept": True, "gone": True}), ("never", {})],
)
def test_which_containers_are_volatile(make: Make, volatile: str, expected: dict[str, bool]) -> None:
    driver = make(volatile=volatile)
    driver.create("kept", BASE)
    driver.create("gone", BASE, DISPOSABLE)
    for container_id in ("kept", "gone"):
        assert ("volatile" in options(driver, container_id)) == expected.get(container_id, False)
    assert f"volatile={volatile}" in driver.status().options


def test_a_volatile_container_is_mounted_again_in_the_same_boot_only(make: Make, tmp_path: Path) -> None:
    driver = make()
    driver.create("c1", BASE, DISPOSABLE)
    for word in ("one", "two"):
        tree = in_rootfs(driver.rootfs("c1"), tmp_path / "mnt", f"open('{word}', 'w').close()")
    assert {"one", "two"} <= set(tree)
    home = tmp_path / "root" / "overlay" / "containers" / "c1"
    assert (home / "work" / "work" / "incompat" / "volatile").is_dir()
    record = msgspec.json.decode((home / "container.json").read_bytes())
    (home / "container.json").write_bytes(msgspec.json.encode({**record, "volatile": "another boot"}))
    with pytest.raises(DataLoss, match="c1 cannot be started again: the host has been down") as lost:
        driver.rootfs("c1")
    assert "remove it" in lost.value.hint
    driver.remove("c1")


def test_what_every_container_mounts_over_is_there_without_a_copy(make: Make, tmp_path: Path) -> None:
    driver = make()
    image = Archive().add("etc", "dir", mode=0o700).add("etc/hosts", data=b"own").add("proc", "symlink", to="var")
    driver.apply(TOP, BASE, io.BytesIO(image.bytes), CancelToken())
    driver.create("c1", TOP)
    shown = raw_in_rootfs(driver.rootfs("c1"), tmp_path / "mnt")
    assert {place.rstrip("/") for place in MOUNT_POINTS} <= set(shown)
    assert shown["etc"]["mode"] == oct(stat.S_IFDIR | 0o700)
    assert shown["etc/hosts"]["size"] == 3
    assert shown["proc"]["to"] == "var"
    assert (shown["etc/hostname"]["size"], shown["etc/hostname"]["mode"]) == (0, oct(stat.S_IFREG | 0o644))
    assert os.listdir(tmp_path / "root" / "overlay" / "containers" / "c1" / "upper") == []
    # They are no part of the image.
    assert "sys" not in raw_in_rootfs(driver.view(TOP), tmp_path / "mnt")


def test_metacopy_copies_no_data_and_cannot_be_committed(make: Make, tmp_path: Path) -> None:
    change = "os.chown('big', 5, 6)"
    plain = make()
    plain.create("plain", BASE)
    in_rootfs(plain.rootfs("plain"), tmp_path / "mnt", change)
    assert plain.usages(["plain"])["plain"].bytes >= 3 * MIB
    driver = make(metacopy=True)
    driver.create("c1", BASE)
    tree = in_rootfs(driver.rootfs("c1"), tmp_path / "mnt", change)
    assert (tree["big"]["owner"], tree["big"]["size"]) == ("5:6", 3 * MIB)
    assert driver.usages(["c1"])["c1"].bytes < MIB
    with (
        pytest.raises(FailedPrecondition, match='cannot pack "big": overlay left it incomplete'),
        driver.snapshot("c1", CancelToken()) as snapshot,
    ):
        snapshot.pack(io.BytesIO(), CancelToken())
    exported = io.BytesIO()
    driver.export("c1", exported, CancelToken())
    with tarfile.open(fileobj=io.BytesIO(exported.getvalue())) as tar:
        assert (tar.getmember("big").size, tar.getmember("big").uid) == (3 * MIB, 5)
    # Each stays as it was made, whatever the configuration says later.
    again = make()
    assert "metacopy=on" in options(again, "c1")
    assert "metacopy=off" in options(again, "plain")
    assert in_rootfs(again.rootfs("c1"), tmp_path / "mnt") == tree


def test_marks_stay_in_the_attributes_they_are_in(make: Make, tmp_path: Path) -> None:
    driver = make(xattrs="user")
    top = Archive().add("var", "dir").add("var/.wh..wh..opq").add("new", xattrs={"user.overlay.opaque": b"y"})
    driver.apply(TOP, BASE, io.BytesIO(top.bytes), CancelToken())
    opaque = tmp_path / "root" / "overlay" / "layers" / TOP.removeprefix("sha256:") / "diff"
    assert os.listxattr(opaque / "var") == ["user.overlay.opaque"]
    assert os.listxattr(opaque / "new") == []
    driver.create("c1", TOP)
    assert "userxattr" in options(driver, "c1")
    assert set(in_rootfs(driver.rootfs("c1"), tmp_path / "mnt")) == {".", "big", "new", "var"}
    assert "xattrs=user" in make().status().options
    with pytest.raises(FailedPrecondition, match=r"xattrs cannot be trusted: the layers .* in user attributes"):
        make(xattrs="trusted")
    with pytest.raises(FailedPrecondition, match=r"\[overlay\] metacopy does not work in"):
        make(metacopy=True)
