"""What a graph driver tells of a layer that is not as its archive says any more."""

from __future__ import annotations

import fcntl
import io
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from moorage.server.cancel import CancelToken
from moorage.server.errors import NotFound
from moorage.server.graph.drivers import subvolumes
from moorage.server.graph.drivers.base import Differences, GraphDriver
from tests.archives import Archive, in_rootfs

pytestmark = [pytest.mark.kernel, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

BASE, TOP, NONE = (f"sha256:{digit * 64}" for digit in "abc")


def base() -> bytes:
    archive = Archive().add("etc", "dir").add("etc/passwd", data=b"root").add("etc/old", data=b"old").add("var", "dir")
    return archive.add("var/cache", "dir").add("var/cache/x", data=b"x").bytes


def top() -> bytes:
    """A bit of everything; `implicit` has no entry of its own, `etc` and `var` have no entry here."""
    archive = Archive().add("etc/.wh.old").add("etc/group", data=b"group" * 1000, mode=0o640, owner=(5, 6))
    archive.add("var/cache", "dir").add("var/cache/.wh..wh..opq").add("var/cache/new", data=b"new")
    archive.add("bin", "dir", xattrs={"user.a": b"1"}).add("bin/sh", "symlink", to="busybox").add(
        "bin/busybox", data=b"b"
    )
    archive.add("bin/hard", "link", to="bin/busybox").add("null", "char", device=(1, 3)).add("pipe", "fifo")
    return archive.add("implicit/file", data=b"").bytes


@pytest.fixture
def layer(driver: GraphDriver, root: Path) -> Path:
    """Where the files of the layer TOP are, to be changed."""
    for chain_id, parent, tar in ((BASE, "", base()), (TOP, BASE, top())):
        driver.apply(chain_id, parent, io.BytesIO(tar), CancelToken())
    (directory,) = root.glob(f"*/layers/{TOP[7:]}")
    tree = directory / ("diff" if driver.name == "overlay" else "tree")
    if driver.name == "btrfs":
        with subvolumes.opened(tree) as fd:
            fcntl.ioctl(fd, subvolumes._SUBVOL_SETFLAGS, struct.pack("<Q", 0))
    return tree


def differences(driver: GraphDriver, chain_id: str, tar: bytes) -> Differences:
    return driver.differences(chain_id, io.BytesIO(tar), CancelToken())


def test_a_layer_is_as_its_archive_says(driver: GraphDriver, layer: Path, tmp_path: Path) -> None:
    assert differences(driver, BASE, base()) == differences(driver, TOP, top()) == Differences()
    # A container settles what the attributes of directories without an entry are.
    driver.create("c1", TOP)
    in_rootfs(
        driver.rootfs("c1"), tmp_path / "mnt", "open('made', 'w').write('made'); os.unlink('etc/passwd'); os.mkdir('d')"
    )
    assert differences(driver, TOP, top()) == Differences()
    with pytest.raises(NotFound):
        differences(driver, NONE, top())


def test_a_layer_that_was_made_here_is_as_its_archive_says(driver: GraphDriver, layer: Path, tmp_path: Path) -> None:
    driver.create("c1", TOP)
    commands = (
        "import shutil, socket; shutil.rmtree('var'); os.mkdir('var'); os.chmod('etc/group', 0o600); os.unlink('bin/sh');"
        "socket.socket(socket.AF_UNIX).bind('sock'); open('etc/passwd', 'a').write('more'); os.link('etc/group', 'linked')"
    )
    in_rootfs(driver.rootfs("c1"), tmp_path / "mnt", commands)
    archive = bytearray()

    class Sink:
        def write(self, data: bytes) -> None:
            archive.extend(data)

    with driver.snapshot("c1", CancelToken()) as snapshot:
        snapshot.pack(Sink(), CancelToken())
        snapshot.commit(NONE)
    assert differences(driver, NONE, bytes(archive)) == Differences()


def swap(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


def another_device(path: Path) -> None:
    path.unlink()
    os.mknod(path, 0o20644, os.makedev(1, 5))


def spoil(path: Path) -> None:
    """A byte changes and nothing else, as on a failing disk."""
    status = path.stat()
    data = path.read_bytes()
    path.write_bytes(data[:-1] + b"?")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


CHANGES: dict[tuple[str, str], Callable[[Path], object]] = {
    ("bin", "has other extended attributes"): lambda tree: os.setxattr(tree / "bin", "user.a", b"2"),
    ("bin/extra", "is not of the layer"): lambda tree: (tree / "bin/extra").write_bytes(b""),
    ("bin/hard", "is of another kind"): lambda tree: swap(tree / "bin/hard", "busybox"),
    ("bin/sh", "leads elsewhere"): lambda tree: swap(tree / "bin/sh", "evil"),
    ("etc/group", "has other contents"): lambda tree: spoil(tree / "etc/group"),
    ("implicit/file", "has another owner"): lambda tree: os.chown(tree / "implicit/file", 5, 7),
    ("null", "is another device"): lambda tree: another_device(tree / "null"),
    ("pipe", "is missing"): lambda tree: (tree / "pipe").unlink(),
    ("var/cache", "has another mode"): lambda tree: (tree / "var/cache").chmod(0o777),
}


def test_what_is_different(driver: GraphDriver, layer: Path) -> None:
    for told, change in CHANGES.items():
        change(layer)
        assert told in differences(driver, TOP, top()).shown
    found = differences(driver, TOP, top())
    assert found.count == len(CHANGES) and sorted(found.shown) == sorted(CHANGES)


def test_many_are_counted(driver: GraphDriver, layer: Path) -> None:
    for number in range(50):
        (layer / f"extra{number:02}").touch()
    found = differences(driver, TOP, top())
    assert found.count == 50 and found.shown[0] == ("extra00", "is not of the layer") and len(found.shown) < 50
