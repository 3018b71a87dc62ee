"""What every graph driver does, on the real kernel: the same layers give the same root file system."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import tarfile
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest

from moorage.server.cancel import CancelToken
from moorage.server.errors import AlreadyExists, Cancelled, DataLoss, FailedPrecondition, InvalidArgument, NotFound
from moorage.server.graph import drivers
from moorage.server.graph.confined import ConfinedRunner
from moorage.server.graph.drivers.base import GraphDriver, WritableLayer
from moorage.server.graph.drivers.overlay import OverlayDriver
from moorage.server.graph.drivers.vfs import VfsDriver
from tests.archives import Archive, in_rootfs, sparse_archive
from tests.filesystems import in_overlay

pytestmark = [pytest.mark.kernel, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

BASE, TOP, THIRD = (f"sha256:{digit * 64}" for digit in "abc")

# Version 2, effective, CAP_NET_BIND_SERVICE.
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)


def apply(driver: GraphDriver, chain_id: str, parent: str, archive: Archive | bytes) -> int:
    data = archive if isinstance(archive, bytes) else archive.bytes
    return driver.apply(chain_id, parent, io.BytesIO(data), CancelToken())


def tree(
    driver: GraphDriver, tmp_path: Path, *archives: Archive | bytes, commands: str = ""
) -> dict[str, dict[str, Any]]:
    """The root file system of a container on top of these layers."""
    parent = ""
    for number, archive in enumerate(archives):
        chain_id = f"sha256:{number + 1:064x}"
        apply(driver, chain_id, parent, archive)
        parent = chain_id
    driver.create("c1", parent)
    return in_rootfs(driver.rootfs("c1"), tmp_path / "mnt", commands)


def base() -> Archive:
    archive = (
        Archive()
        .add("etc", "dir")
        .add("etc/passwd", data=b"root:x:0:0::/:/bin/sh\n")
        .add("etc/group", data=b"root:x:0:\n")
    )
    return (
        archive.add("var", "dir")
        .add("var/cache", "dir")
        .add("var/cache/old", data=b"old")
        .add("var/keep", data=b"keep")
    )


def test_all_kinds_of_entries_come_out_as_they_went_in(driver: GraphDriver, tmp_path: Path) -> None:
    archive = Archive()
    archive.add("./", "dir", mode=0o751, owner=(7, 8))
    archive.add("bin", "dir", mode=0o1777, owner=(1000, 1001), xattrs={"user.on": b"dir"})
    archive.add("bin/su", data=b"setuid", mode=0o4755, owner=(0, 5))
    archive.add("bin/ping", data=b"capable", xattrs={"security.capability": CAPABILITY, "user.note": b"\xff\x00\n="})
    archive.add("bin/sh", "symlink", to="/bin/../bin/su", owner=(3, 4))
    archive.add("bin/dangling", "symlink", to="nowhere")
    archive.add("bin/su2", "link", to="bin/su")
    archive.add("dev", "dir", mode=0o2750, owner=(0, 9))
    archive.add("dev/null", "char", device=(1, 3), mode=0o666)
    archive.add("dev/disk", "block", device=(259, 65537), mode=0o660, owner=(0, 6))
    archive.add("dev/pipe", "fifo", mode=0o600, owner=(12, 13))
    archive.add("big", data=b"0123456789abcdef" * 200_000, mode=0o400)
    archive.add("ancient", data=b"", mtime="-1.5")
    archive.add("größe \n\t\x7f", data=b"odd name")
    archive.add("n" * 255 + "/" + "m" * 255, data=b"long")
    found = tree(driver, tmp_path, archive)

    def entry(path: str) -> dict[str, Any]:
        return {key: value for key, value in found[path].items() if key not in ("data", "blocks")}

    stamp = {"mtime_ns": 1_700_000_000_123_456_789}
    plain = {**stamp, "xattrs": {}}
    assert entry(".") == {**plain, "mode": "0o40751", "owner": "7:8"}
    assert entry("bin") == {**stamp, "mode": "0o41777", "owner": "1000:1001", "xattrs": {"user.on": b"dir".hex()}}
    assert entry("bin/su") == {**plain, "mode": "0o104755", "owner": "0:5", "size": 6, "same as": "su"}
    assert entry("bin/su2") == entry("bin/su")
    assert entry("bin/ping") == {
        **stamp,
        "mode": "0o100644",
        "owner": "0:0",
        "size": 7,
        "xattrs": {"security.capability": CAPABILITY.hex(), "user.note": b"\xff\x00\n=".hex()},
    }
    assert entry("bin/sh") == {**plain, "mode": "0o120777", "owner": "3:4", "to": "/bin/../bin/su"}
    assert entry("bin/dangling")["to"] == "nowhere"
    assert entry("dev") == {**plain, "mode": "0o42750", "owner": "0:9"}
    assert entry("dev/null") == {**plain, "mode": "0o20666", "owner": "0:0", "device": [1, 3]}
    assert entry("dev/disk") == {**plain, "mode": "0o60660", "owner": "0:6", "device": [259, 65537]}
    assert entry("dev/pipe") == {**plain, "mode": "0o10600", "owner": "12:13"}
    assert entry("big") == {**plain, "mode": "0o100400", "owner": "0:0", "size": 3_200_000}
    assert entry("ancient")["mtime_ns"] == -1_500_000_000
    assert entry("größe \n\t\x7f")["size"] == 8
    assert entry("n" * 255 + "/" + "m" * 255)["size"] == 4
    assert len(found) == 16


@pytest.mark.parametrize(
    "options",
    [["--format=gnu"], *(["--format=posix", f"--sparse-version={version}"] for version in ("0.0", "0.1", "1.0"))],
    ids=["gnu", "pax-0.0", "pax-0.1", "pax-1.0"],
)
def test_sparse_files_keep_their_holes(driver: GraphDriver, tmp_path: Path, options: list[str]) -> None:
    pieces = {piece << 20: bytes([piece]) * 4096 for piece in range(1, 60, 2)}
    archive = sparse_archive("holes", pieces, 100 << 20, *options)
    expected = bytearray(100 << 20)
    for offset, data in pieces.items():
        expected[offset : offset + len(data)] = data
    found = tree(driver, tmp_path, Archive().add("x"), archive, Archive().add("y"))["holes"]
    assert found["size"] == 100 << 20
    assert found["data"] == hashlib.sha256(expected).hexdigest()
    assert found["blocks"] * 512 < 1 << 20


def test_whiteouts_hide_files_and_trees(driver: GraphDriver, tmp_path: Path) -> None:
    top = Archive().add("etc", "dir").add("etc/.wh.passwd").add("var", "dir").add("var/.wh.cache").add(".wh.nothing")
    assert set(tree(driver, tmp_path, base(), top)) == {".", "etc", "etc/group", "var", "var/keep"}


def test_an_opaque_directory_hides_what_is_below_and_only_that(driver: GraphDriver, tmp_path: Path) -> None:
    top = Archive().add("var", "dir").add("var/before", data=b"1").add("var/.wh..wh..opq").add("var/after", data=b"2")
    found = tree(driver, tmp_path, base(), top)
    assert {path for path in found if path.startswith("var")} == {"var", "var/before", "var/after"}
    assert "etc/passwd" in found


def test_an_opaque_root_hides_everything_below(driver: GraphDriver, tmp_path: Path) -> None:
    found = tree(driver, tmp_path, base(), Archive().add(".wh..wh..opq").add("new"), Archive().add("newer"))
    assert set(found) == {".", "new", "newer"}


@pytest.mark.parametrize("order", ["whiteout first", "whiteout last"])
def test_a_whiteout_spares_its_own_layer(driver: GraphDriver, tmp_path: Path, order: str) -> None:
    def whiteouts(top: Archive) -> None:
        top.add(".wh.var").add("etc/.wh.passwd")

    top = Archive().add("etc", "dir")
    if order == "whiteout first":
        whiteouts(top)
    top.add("var", "dir", mode=0o700).add("var/cache", "dir").add("var/cache/new", data=b"new").add(
        "etc/passwd", data=b"new"
    )
    if order == "whiteout last":
        whiteouts(top)
    found = tree(driver, tmp_path, base(), top)
    assert set(found) == {".", "etc", "etc/group", "etc/passwd", "var", "var/cache", "var/cache/new"}
    assert found["var"]["mode"] == "0o40700"
    assert found["etc/passwd"]["size"] == 3


def test_files_and_directories_take_one_anothers_place(driver: GraphDriver, tmp_path: Path) -> None:
    top = (
        Archive()
        .add("etc", data=b"a file now")
        .add("var", "dir")
        .add("var/keep", "dir")
        .add("var/keep/x")
        .add("var/cache", "symlink", to="x")
    )
    found = tree(driver, tmp_path, base(), top)
    assert set(found) == {".", "etc", "var", "var/keep", "var/keep/x", "var/cache"}
    assert found["var/cache"]["to"] == "x"


def test_within_one_layer_the_last_entry_counts(driver: GraphDriver, tmp_path: Path) -> None:
    archive = (
        Archive()
        .add("a", "dir")
        .add("a/b", "dir")
        .add("a/b/c")
        .add("a", data=b"file")
        .add("d")
        .add("d", "dir")
        .add("d/e")
    )
    archive.add("f", data=b"1").add("f", data=b"two").add("g", "symlink", to="f").add("g", data=b"not through the link")
    found = tree(driver, tmp_path, archive)
    assert set(found) == {".", "a", "d", "d/e", "f", "g"}
    assert (found["f"]["size"], found["g"]["size"]) == (3, 20)


def test_directories_without_an_entry_keep_the_attributes_they_had(driver: GraphDriver, tmp_path: Path) -> None:
    below = (
        Archive()
        .add("./", "dir", mode=0o711, owner=(1, 2))
        .add("tmp", "dir", mode=0o1777)
        .add("a", "dir", owner=(5, 6))
    )
    below.add("a/b", "dir", mode=0o700, xattrs={"user.x": b"y"})
    middle = Archive().add("a/b/one").add("fresh/two")
    top = Archive().add("tmp/three").add("a/b/c/four")
    found = tree(driver, tmp_path, below, middle, top)
    assert (found["."]["mode"], found["."]["owner"]) == ("0o40711", "1:2")
    assert found["tmp"]["mode"] == "0o41777"
    assert found["a"]["owner"] == "5:6"
    assert (found["a/b"]["mode"], found["a/b"]["xattrs"]) == ("0o40700", {"user.x": b"y".hex()})
    assert found["fresh"]["mode"] == found["a/b/c"]["mode"] == "0o40755"


def test_only_harmless_extended_attributes_are_taken(driver: GraphDriver, tmp_path: Path) -> None:
    xattrs = {"user.kept": b"1", "security.selinux": b"2", "trusted.other": b"3", "system.posix_acl_access": b"4"}
    found = tree(driver, tmp_path, Archive().add("f", xattrs=xattrs))
    assert found["f"]["xattrs"] == {"user.kept": b"1".hex()}
    with pytest.raises(InvalidArgument, match=r"trusted\.overlay\.opaque"):
        apply(driver, BASE, "", Archive().add("d", "dir", xattrs={"trusted.overlay.opaque": b"y"}))


def test_containers_do_not_see_one_another_and_leave_layers_alone(driver: GraphDriver, tmp_path: Path) -> None:
    apply(driver, BASE, "", base())
    driver.create("c1", BASE)
    driver.create("c2", BASE)
    before = in_rootfs(driver.rootfs("c2"), tmp_path / "mnt")
    changes = (
        "os.unlink('etc/passwd'); open('etc/group', 'a').write('x'); os.rename('var/keep', 'kept'); os.mkdir('mine')"
    )
    changed = in_rootfs(driver.rootfs("c1"), tmp_path / "mnt", changes)
    assert set(changed) == {".", "etc", "etc/group", "var", "var/cache", "var/cache/old", "kept", "mine"}
    assert in_rootfs(driver.rootfs("c1"), tmp_path / "mnt") == changed
    assert in_rootfs(driver.rootfs("c2"), tmp_path / "mnt") == before
    driver.remove("c1")
    assert in_rootfs(driver.rootfs("c2"), tmp_path / "mnt") == before


WRITE_3_MIB = """
with open('new', 'wb') as file:
    file.write(bytes(3 << 20))
    file.flush()
    os.fsync(file.fileno())
os.link('new', 'again')
"""


def test_size_is_what_is_on_the_disk(driver: GraphDriver, tmp_path: Path) -> None:
    apply(driver, BASE, "", base())
    driver.create("c1", BASE)
    before = driver.usages(["c1"])["c1"]
    in_rootfs(driver.rootfs("c1"), tmp_path / "mnt", WRITE_3_MIB)
    after = driver.usages(["c1"])["c1"]
    assert 3 << 20 <= after.bytes - before.bytes < 4 << 20
    assert after.inodes - before.inodes == 1
    for number in range(2, 16):
        driver.create(f"c{number}", BASE)
    found = driver.usages([f"c{number}" for number in range(17)])
    assert found.keys() == {f"c{number}" for number in range(1, 16)}, "two there are not"
    assert found["c1"] == after and found["c2"] == before


def test_an_image_without_layers_is_empty(driver: GraphDriver, tmp_path: Path) -> None:
    found = tree(driver, tmp_path, commands="open('hello', 'w').close()")
    assert set(found) == {".", "hello"}
    assert found["."]["mode"] == "0o40755"


def test_the_life_of_layers_and_containers(driver: GraphDriver) -> None:
    size = len(b"root:x:0:0::/:/bin/sh\n" + b"root:x:0:\n" + b"old" + b"keep")
    assert apply(driver, BASE, "", base()) == size
    assert apply(driver, BASE, "", b"never read") == size
    apply(driver, TOP, BASE, Archive().add("etc", "dir"))
    assert driver.layers() == {BASE, TOP}
    driver.create("c1", TOP)
    with pytest.raises(AlreadyExists):
        driver.create("c1", BASE)
    assert driver.containers() == {"c1"}
    for _ in range(2):
        driver.remove("c1")
        driver.remove_layer(TOP)
    assert driver.containers() == set()
    assert driver.layers() == {BASE}
    with pytest.raises(NotFound):
        driver.rootfs("c1")
    with pytest.raises(NotFound):
        driver.create("c2", TOP)
    assert driver.containers() == set()


class Failing:
    """A stream that ends in an error."""

    def __init__(self, data: bytes, error: Exception) -> None:
        self._data, self._error = io.BytesIO(data), error

    def read(self, size: int) -> bytes:
        data = self._data.read(size)
        if not data:
            raise self._error
        return data


@pytest.mark.parametrize("whole", [True, False], ids=["at the end", "in the middle"])
def test_an_error_of_the_stream_commits_nothing(driver: GraphDriver, tmp_path: Path, whole: bool) -> None:
    data = base().add("large", data=bytes(5 << 20)).bytes
    stream = Failing(data if whole else data[: 2 << 20], DataLoss("wrong digest"))
    with pytest.raises(DataLoss, match="wrong digest"):
        driver.apply(BASE, "", cast(BinaryIO, stream), CancelToken())
    assert driver.layers() == set()
    assert apply(driver, BASE, "", base()) > 0


def test_cancelling_commits_nothing(driver: GraphDriver) -> None:
    cancel = CancelToken()
    cancel.cancel("the caller hung up")
    with pytest.raises(Cancelled, match="hung up"):
        driver.apply(BASE, "", io.BytesIO(base().bytes), cancel)
    assert driver.layers() == set()


def test_a_hostile_layer_commits_nothing_and_leaves_nothing(driver: GraphDriver, root: Path) -> None:
    before = set(root.rglob("*"))
    with pytest.raises(InvalidArgument, match=r'entry "\.\./escape" at offset 1024'):
        apply(driver, BASE, "", Archive(tarfile.GNU_FORMAT).add("fine", data=b"x").add("../escape", data=b"x"))
    driver.close()
    assert driver.layers() == set()
    assert {path for path in root.rglob("*") if path.is_file()} <= before


def test_collect_deletes_what_a_crash_left(driver: GraphDriver, root: Path) -> None:
    apply(driver, BASE, "", base())
    home = root / driver.name
    (home / "staging" / "1-1" / "diff").mkdir(parents=True)
    (home / "trash" / "1-2" / "7" / "deep").mkdir(parents=True)
    assert driver.collect() == 2
    driver.close()
    assert list((home / "staging").iterdir()) == list((home / "trash").iterdir()) == []
    assert driver.layers() == {BASE}


def test_a_tree_of_any_depth_is_deleted(driver: GraphDriver, root: Path, tmp_path: Path) -> None:
    apply(driver, BASE, "", base())
    driver.create("c1", BASE)
    # Much longer than a path may be, and with a name that the deletion would choose itself.
    deep = (
        "os.mkdir('moorage-0')\nfor _ in range(1500): open('f', 'w').close(); os.mkdir('d' * 100); os.chdir('d' * 100)"
    )
    in_rootfs(driver.rootfs("c1"), tmp_path / "mnt", deep)
    assert driver.usages(["c1"])["c1"].inodes > 40
    driver.remove("c1")
    driver.close()
    assert list((root / driver.name / "trash").iterdir()) == []


@pytest.mark.parametrize("bad", ["sha256:../../etc", "sha256:" + "A" * 64, "md5:" + "a" * 64, ""])
def test_malformed_chain_ids_never_become_paths(driver: GraphDriver, bad: str) -> None:
    with pytest.raises(InvalidArgument):
        apply(driver, bad, "", base())
    with pytest.raises(InvalidArgument):
        driver.remove_layer(bad)


@pytest.mark.parametrize("bad", ["../c", "", ".", "a/b", "x" * 200])
def test_malformed_container_ids_never_become_paths(driver: GraphDriver, bad: str) -> None:
    for action in (driver.remove, driver.rootfs, lambda each: driver.usages([each])):
        with pytest.raises(InvalidArgument):
            action(bad)
    with pytest.raises(InvalidArgument):
        driver.create(bad, "")


def test_nobody_else_gets_in(driver: GraphDriver, root: Path) -> None:
    home = root / driver.name
    for directory in (home, home / "layers", home / "containers", home / "staging", home / "trash"):
        assert directory.stat().st_mode & 0o777 == 0o700


def test_overlay_layers_come_in_any_order(tmp_path: Path, confined: ConfinedRunner) -> None:
    driver = OverlayDriver(tmp_path / "root", confined)
    assert driver.independent_layers
    apply(driver, TOP, BASE, Archive().add("var", "dir").add("var/.wh.keep").add("tmp/x"))
    with pytest.raises(NotFound, match="is not here"):
        driver.create("c1", TOP)
    apply(driver, BASE, "", base().add("tmp", "dir", mode=0o1777))
    driver.create("c1", TOP)
    found = in_rootfs(driver.rootfs("c1"), tmp_path / "mnt")
    assert "var/keep" not in found
    assert found["tmp"]["mode"] == "0o41777"
    driver.close()


def test_many_layers_are_one_root(driver: GraphDriver, tmp_path: Path) -> None:
    found = tree(
        driver, tmp_path, *(Archive().add(f"f{number}").add("last", data=b"x" * number) for number in range(12))
    )
    assert len(found) == 14
    assert found["last"]["size"] == 11


def test_a_size_is_held_or_refused(driver: GraphDriver, tmp_path: Path) -> None:
    apply(driver, BASE, "", base())
    assert bool(driver.status().quota) != bool(driver.status().no_quota)
    if not driver.status().quota:
        with pytest.raises(FailedPrecondition, match="cannot limit the size of container c1") as refused:
            driver.create("c1", BASE, WritableLayer(size=8 << 20))
        assert refused.value.reason == "NO_QUOTA"
        assert refused.value.hint
        assert driver.containers() == set()


def test_choose_stays_with_the_driver_that_has_layers(tmp_path: Path, confined: ConfinedRunner) -> None:
    assert drivers.choose("auto", tmp_path / "new", confined).name == "overlay"
    apply(VfsDriver(tmp_path / "used", confined), BASE, "", base())
    assert drivers.choose("auto", tmp_path / "used", confined).name == "vfs"
    with pytest.raises(FailedPrecondition, match=r"overlay cannot be used in .*: it has layers of vfs"):
        drivers.choose("overlay", tmp_path / "used", confined)
    with pytest.raises(InvalidArgument, match="graph driver 'zfs' is unknown"):
        drivers.choose("zfs", tmp_path, confined)


def test_overlay_refuses_roots_it_cannot_name(tmp_path: Path, confined: ConfinedRunner) -> None:
    with pytest.raises(InvalidArgument, match="colon"):
        OverlayDriver(tmp_path / "a:b", confined)


def test_overlay_is_not_chosen_without_trusted_attributes(confined: ConfinedRunner) -> None:
    # proc takes neither directories nor attributes.
    with pytest.raises((FailedPrecondition, OSError)):
        drivers.choose("overlay", Path("/proc/moorage"), confined)


def test_a_driver_is_chosen_by_what_the_file_system_can_do(
    tmp_path: Path, btrfs: Path, confined: ConfinedRunner
) -> None:
    with pytest.raises(FailedPrecondition, match=r"btrfs does not work in .*: its file system is") as refused:
        drivers.choose("btrfs", tmp_path / "root", confined)
    assert refused.value.hint == "use overlay, or another root"
    assert drivers.choose("auto", btrfs / "chosen", confined).status().backing == "btrfs"
    with in_overlay(tmp_path) as root:
        assert drivers.choose("auto", root, confined).name == "vfs"
        with pytest.raises(FailedPrecondition, match="overlay does not work"):
            drivers.choose("overlay", root, confined)
    assert [path.name for path in (tmp_path / "root").iterdir()] == []
