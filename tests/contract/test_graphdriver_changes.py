"""What every graph driver does with a container's changes: packed as a layer, they give the same root file system again."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import tarfile
from pathlib import Path
from typing import Any

import pytest

from moorage.server.cancel import CancelToken
from moorage.server.errors import FailedPrecondition
from moorage.server.graph.drivers.base import GraphDriver, Packed
from moorage.server.graph.layers import chain_id_on
from tests.archives import Archive, diff_id, in_rootfs

pytestmark = [pytest.mark.kernel, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)

CHANGES = f"""
os.unlink('etc/passwd'); open('etc/group', 'a').write('more'); os.chmod('etc/group', 0o4750); os.chown('etc/group', 7, 3000000)
os.unlink('var/cache/old'); os.rmdir('var/cache'); os.mkdir('var/cache'); open('var/cache/new', 'w').write('new')
os.unlink('file'); os.mkdir('file'); open('file/inside', 'w').close()
os.unlink('dir/x'); os.rmdir('dir'); os.symlink('/nowhere', 'dir')
os.mkdir('made', 0o700); os.setxattr('made', 'user.note', bytes(3)); os.mkfifo('made/pipe')
os.mknod('made/null', 0o020666, os.makedev(1, 3))
open('made/one', 'w').write('linked'); os.link('made/one', 'made/two'); os.link('kept', 'again')
open('made/ping', 'w').close(); os.setxattr('made/ping', 'security.capability', {CAPABILITY!r})
os.mkdir('n' * 200); os.mkdir('n' * 200 + '/' + 'm' * 200); open('n' * 200 + '/' + 'm' * 200 + '/f', 'w').write('deep')
open('größe', 'wb').truncate(3 << 20); os.utime('größe', (1, -5)); os.chmod('.', 0o750)
import socket; socket.socket(socket.AF_UNIX).bind('made/socket')
"""


def base() -> Archive:
    archive = Archive().add("etc", "dir").add("etc/passwd", data=b"root").add("etc/group", data=b"root:x:0:\n")
    archive.add("var", "dir").add("var/cache", "dir").add("var/cache/old", data=b"old").add("var/keep", data=b"keep")
    return (
        archive.add("file", data=b"f").add("dir", "dir").add("dir/x", data=b"x").add("kept", data=b"kept", mode=0o600)
    )


def entries_in(archive: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return tar.getmembers()


def names_in(archive: bytes) -> list[str]:
    return [entry.name for entry in entries_in(archive)]


def apply(driver: GraphDriver, archive: bytes, parent: str = "") -> str:
    chain_id = chain_id_on(parent, diff_id(archive))
    driver.apply(chain_id, parent, io.BytesIO(archive), CancelToken())
    return chain_id


def changed(driver: GraphDriver, tmp_path: Path, commands: str, parent: str) -> None:
    driver.create("c1", parent)
    in_rootfs(driver.rootfs("c1"), tmp_path / "mnt", commands)


def commit(driver: GraphDriver, *, move: bool = False, clamp_seconds: int | None = None) -> tuple[bytes, Packed, str]:
    """The tar of c1's changes, what the driver says of it, and the chain ID of the layer it became."""
    buffer = io.BytesIO()
    with driver.snapshot("c1", CancelToken(), move=move) as snapshot:
        packed = snapshot.pack(buffer, CancelToken(), clamp_seconds=clamp_seconds)
        data = buffer.getvalue()
        chain_id = f"sha256:{hashlib.sha256(b'committed').hexdigest()}"
        snapshot.commit(chain_id)
    return data, packed, chain_id


def shown(driver: GraphDriver, chain_id: str, tmp_path: Path) -> dict[str, dict[str, Any]]:
    name = f"v{len(driver.containers())}"
    driver.create(name, chain_id)
    tree = in_rootfs(driver.rootfs(name), tmp_path / "mnt")
    for entry in tree.values():
        entry.pop("blocks", None)
    return tree


@pytest.mark.parametrize("move", [False, True], ids=["copied", "moved"])
def test_changes_are_the_same_as_layer_and_as_archive(
    driver: GraphDriver, root: Path, tmp_path: Path, move: bool
) -> None:
    parent = apply(driver, base().bytes)
    changed(driver, tmp_path, CHANGES, parent)
    before = in_rootfs(driver.rootfs("c1"), tmp_path / "mnt")
    data, packed, committed = commit(driver, move=move)
    unpacked = apply(driver, data, parent)
    tree = shown(driver, committed, tmp_path)
    assert tree == shown(driver, unpacked, tmp_path)
    assert set(tree) == set(before) - {"made/socket"}
    kept = ("mode", "owner", "xattrs", "data", "size", "to", "device", "same as")
    for path, entry in tree.items():
        assert {key: entry.get(key) for key in kept} == {key: before[path].get(key) for key in kept}, path
        if path in ("etc/group", "made/one", "größe", "."):
            assert entry["mtime_ns"] == before[path]["mtime_ns"] // 10**9 * 10**9
    assert packed.entries == len(names_in(data))
    assert os.listdir(root / driver.name / "staging") == []
    if not move:
        assert in_rootfs(driver.rootfs("c1"), tmp_path / "mnt") == before


def test_whiteouts_are_those_of_the_specification(driver: GraphDriver, tmp_path: Path) -> None:
    parent = apply(driver, base().bytes)
    changed(driver, tmp_path, "os.unlink('var/keep'); os.unlink('kept'); os.unlink('dir/x'); os.rmdir('dir')", parent)
    data, _, _ = commit(driver)
    names = names_in(data)
    assert {name for name in names if ".wh." in name} == {"var/.wh.keep", ".wh.kept", ".wh.dir"}
    assert not {"etc", "etc/passwd", "file"} & set(names)


def test_nothing_changed_is_an_empty_layer(driver: GraphDriver, tmp_path: Path) -> None:
    parent = apply(driver, base().bytes)
    driver.create("c1", parent)
    data, packed, committed = commit(driver)
    assert (packed.size, packed.entries, data) == (0, 0, bytes(1024))
    assert shown(driver, committed, tmp_path) == shown(driver, parent, tmp_path)


def test_without_a_layer_below_everything_is_packed(driver: GraphDriver, tmp_path: Path) -> None:
    changed(driver, tmp_path, "os.mkdir('a'); open('a/b', 'w').write('c')", "")
    data, packed, committed = commit(driver)
    assert names_in(data) == ["a", "a/b"]
    assert packed.size == 1
    assert shown(driver, committed, tmp_path)["a/b"]["size"] == 1


def test_the_same_changes_give_the_same_bytes(driver: GraphDriver, tmp_path: Path) -> None:
    parent = apply(driver, base().bytes)
    found = []
    for order in ("bca", "acb"):
        changed(driver, tmp_path, f"for name in {order!r}: open(name, 'w').write(name)", parent)
        data, _, committed = commit(driver, clamp_seconds=1_600_000_000)
        times = {entry.mtime for entry in entries_in(data)}
        assert times == {1_600_000_000}
        assert shown(driver, committed, tmp_path)["a"]["mtime_ns"] == 1_600_000_000 * 10**9
        found.append(data)
        driver.remove("c1")
        driver.remove("v1")
        driver.remove_layer(committed)
    assert found[0] == found[1]


def test_a_name_that_would_mean_a_deletion_is_refused(driver: GraphDriver, root: Path, tmp_path: Path) -> None:
    parent = apply(driver, base().bytes)
    changed(driver, tmp_path, "open('etc/.wh.passwd', 'w').close()", parent)
    with pytest.raises(FailedPrecondition, match=r'cannot pack "etc/\.wh\.passwd": .* mean deletions'):
        commit(driver)
    assert os.listdir(root / driver.name / "staging") == []


def test_a_sink_that_fails_leaves_nothing(driver: GraphDriver, root: Path, tmp_path: Path) -> None:
    class Full:
        def write(self, data: bytes) -> None:
            raise OSError(28, "no space")

    parent = apply(driver, base().bytes)
    changed(driver, tmp_path, "open('big', 'wb').write(bytes(5 << 20))", parent)
    with pytest.raises(OSError, match="no space"), driver.snapshot("c1", CancelToken()) as snapshot:
        snapshot.pack(Full(), CancelToken())
    assert os.listdir(root / driver.name / "staging") == []
    assert driver.layers() == {parent}


def test_a_layer_is_packed_again(driver: GraphDriver, root: Path, tmp_path: Path) -> None:
    """One that was packed here gives its own bytes; one from elsewhere gives the same files."""
    parent = apply(driver, base().bytes)
    changed(driver, tmp_path, CHANGES, parent)
    data, _, _ = commit(driver, move=True)
    layer = apply(driver, data, parent)
    before = shown(driver, layer, tmp_path)
    packed = {}
    for chain_id in (layer, parent):
        buffer = io.BytesIO()
        with driver.layer_snapshot(chain_id, CancelToken()) as snapshot:
            snapshot.pack(buffer, CancelToken())
        packed[chain_id] = buffer.getvalue()
    assert packed[layer] == data
    again = shown(driver, apply(driver, packed[layer], apply(driver, packed[parent])), tmp_path)
    assert shown(driver, layer, tmp_path) == before
    for entry in (*again.values(), *before.values()):
        entry["mtime_ns"] //= 10**9  # a packed layer has whole seconds
    assert again == before
    assert os.listdir(root / driver.name / "staging") == []
