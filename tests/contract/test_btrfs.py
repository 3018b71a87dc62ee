"""What is peculiar to btrfs: subvolumes that containers make, quota groups, and what the disk holds afterwards."""

from __future__ import annotations

import fcntl
import io
import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from moorage.server.cancel import CancelToken
from moorage.server.errors import FailedPrecondition
from moorage.server.graph.confined import ConfinedRunner
from moorage.server.graph.drivers import qgroups, subvolumes
from moorage.server.graph.drivers.base import WritableLayer
from moorage.server.graph.drivers.btrfs import BtrfsDriver
from tests.archives import Archive, in_rootfs

pytestmark = [pytest.mark.kernel, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

BASE = f"sha256:{'a' * 64}"
MIB = 1 << 20

QUOTA_CTL = subvolumes.number(subvolumes.WRITE | subvolumes.READ, 40, 16)
ENABLE, DISABLE, ENABLE_SIMPLE = 1, 2, 4


@pytest.fixture
def driver(btrfs: Path, tmp_path: Path, confined: ConfinedRunner) -> Iterator[BtrfsDriver]:
    driver = BtrfsDriver(btrfs / tmp_path.name, confined)
    archive = Archive().add("etc", "dir").add("etc/passwd", data=bytes(2 * MIB))
    driver.apply(BASE, "", io.BytesIO(archive.bytes), CancelToken())
    yield driver
    driver.close()


def quotas(directory: Path, command: int) -> None:
    with subvolumes.opened(directory) as fd:
        fcntl.ioctl(fd, QUOTA_CTL, bytearray(struct.pack("<QQ", command, 0)))


@pytest.fixture(params=[ENABLE, ENABLE_SIMPLE], ids=["qgroups", "simple"])
def counting(request: pytest.FixtureRequest, btrfs: Path) -> Iterator[str]:
    """Quotas are on, of either kind."""
    quotas(btrfs, request.param)
    subprocess.run(["btrfs", "quota", "rescan", "-w", btrfs], check=False, capture_output=True)
    yield request.node.callspec.id
    quotas(btrfs, DISABLE)


def subvolume_ids(btrfs: Path) -> set[int]:
    listed = subprocess.run(["btrfs", "subvolume", "list", btrfs], check=True, capture_output=True, text=True)
    return {int(line.split()[1]) for line in listed.stdout.splitlines()}


def layer(driver: BtrfsDriver) -> Path:
    return Path(driver.view(BASE)[0].source)


def container(driver: BtrfsDriver, container_id: str) -> Path:
    return Path(driver.rootfs(container_id)[0].source)


def test_layers_and_containers_are_subvolumes_that_share_their_data(driver: BtrfsDriver) -> None:
    driver.create("c1", BASE)
    assert subvolumes.is_subvolume(layer(driver))
    assert subvolumes.is_subvolume(container(driver, "c1"))
    os.sync()
    assert driver.usages(["c1"])["c1"].bytes == 0
    assert driver.usages(["c1"])["c1"].inodes == 1


def test_a_layer_takes_no_change(driver: BtrfsDriver) -> None:
    with pytest.raises(OSError, match="Read-only file system"):
        (layer(driver) / "etc" / "passwd").write_bytes(b"")


def test_usage_is_what_was_written_to_the_copy(driver: BtrfsDriver, tmp_path: Path) -> None:
    driver.create("c1", BASE)
    rewrite = "fd = os.open('etc/passwd', os.O_WRONLY); os.pwrite(fd, bytes(65536), 0); os.fsync(fd)"
    in_rootfs(driver.rootfs("c1"), tmp_path / "mnt", rewrite)
    assert driver.usages(["c1"])["c1"].bytes == 65536
    tiny = "fd = os.open('tiny', os.O_CREAT | os.O_WRONLY); os.write(fd, b'12345'); os.fsync(fd)"
    in_rootfs(driver.rootfs("c1"), tmp_path / "mnt", tiny)
    assert (driver.usages(["c1"])["c1"].bytes, driver.usages(["c1"])["c1"].inodes) == (65541, 2)


def test_subvolumes_that_a_container_made_are_counted_and_deleted(
    driver: BtrfsDriver, btrfs: Path, tmp_path: Path
) -> None:
    driver.create("c1", BASE)
    tree = container(driver, "c1")
    before = subvolume_ids(btrfs)
    subvolumes.create(tree, "inner")
    (tree / "inner" / "deep").mkdir()
    subvolumes.create(tree / "inner" / "deep", "innermost")
    (tree / "inner" / "deep" / "innermost" / "file").write_bytes(os.urandom(MIB))
    subvolumes.snapshot(tree / "inner" / "deep" / "innermost", tree / "etc", "copy")
    subvolumes.make_read_only(tree / "etc" / "copy")
    os.sync()
    assert driver.usages(["c1"])["c1"].bytes >= MIB
    assert len(subvolume_ids(btrfs)) == len(before) + 3
    driver.remove("c1")
    driver.close()
    subprocess.run(["btrfs", "subvolume", "sync", btrfs], check=True, capture_output=True)
    own = subvolume_ids(btrfs)
    assert len(own) == len(before) - 1
    assert subvolumes.id_of(layer(driver)) in own


def test_a_size_needs_quotas_to_be_on(driver: BtrfsDriver) -> None:
    assert driver.status().quota == ""
    with pytest.raises(FailedPrecondition, match="quotas are off in the btrfs of") as refused:
        driver.create("c1", BASE, WritableLayer(size=MIB))
    assert "btrfs quota enable" in refused.value.hint
    assert driver.containers() == set()


def test_a_container_cannot_write_more_than_its_size(driver: BtrfsDriver, counting: str, tmp_path: Path) -> None:
    assert driver.status().quota == ("qgroups" if counting == "qgroups" else "simple qgroups")
    driver.create("small", BASE, WritableLayer(size=8 * MIB))
    driver.create("free", BASE)
    fill = """
import errno
try:
    with open('fill', 'wb', buffering=0) as file:
        for _ in range(32):
            file.write(bytes(1 << 20))
            os.fsync(file.fileno())
except OSError as error:
    assert error.errno == errno.EDQUOT, error
"""
    small = in_rootfs(driver.rootfs("small"), tmp_path / "mnt", fill)
    assert 4 * MIB <= small["fill"]["size"] <= 8 * MIB
    assert in_rootfs(driver.rootfs("free"), tmp_path / "mnt", fill)["fill"]["size"] == 32 * MIB
    tree = container(driver, "small")
    assert 4 * MIB <= qgroups.exclusive(tree, subvolumes.id_of(tree)) <= 8 * MIB


def test_the_quota_group_goes_with_the_container(driver: BtrfsDriver, counting: str, btrfs: Path) -> None:
    driver.create("c1", BASE, WritableLayer(size=8 * MIB))
    group = f"0/{subvolumes.id_of(container(driver, 'c1'))}"

    def groups() -> list[str]:
        shown = subprocess.run(["btrfs", "qgroup", "show", btrfs], check=True, capture_output=True, text=True)
        return [line.split()[0] for line in shown.stdout.splitlines() if line[:1].isdigit()]

    assert group in groups()
    driver.remove("c1")
    driver.close()
    subprocess.run(["btrfs", "subvolume", "sync", btrfs], check=True, capture_output=True)
    os.sync()
    assert group not in groups()
