"""Hostile layers, unpacked for real: nothing outside the directory changes, whatever the archive says."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from moorage.server.cancel import CancelToken
from moorage.server.errors import DataLoss, InvalidArgument, MoorageError, ResourceExhausted
from moorage.server.execdriver.spawner_client import SpawnerClient
from moorage.server.graph.confined import ConfinedRunner, opened
from moorage.server.graph.drivers.base import Unpacked
from tests.archives import Archive, describe_tree
from tests.spawning import running_spawner

pytestmark = pytest.mark.kernel

MODES: list[Literal["overlay", "apply"]] = ["overlay", "apply"]


@pytest.fixture(scope="module")
def spawner() -> Iterator[SpawnerClient]:
    with running_spawner() as spawner:
        yield spawner


class Jail:
    """A directory to unpack into, in a world that must not change."""

    def __init__(self, world: Path, spawner: SpawnerClient, mode: Literal["overlay", "apply"]) -> None:
        self.root = world / "root"
        self.root.mkdir()
        self.outside = world / "outside"
        self.outside.mkdir()
        (self.outside / "secret").write_text("secret")
        self._spawner = spawner
        self.mode = mode

    def unpack(self, archive: Archive | bytes, **limits: int) -> Unpacked:
        data = archive if isinstance(archive, bytes) else archive.bytes
        runner = ConfinedRunner(self._spawner.run_task, **limits)
        return runner.unpack(str(self.root), io.BytesIO(data), self.mode, CancelToken())

    def names(self) -> set[str]:
        return set(describe_tree(str(self.root))) - {"."}


@pytest.fixture(params=MODES)
def jail(request: pytest.FixtureRequest, tmp_path: Path, spawner: SpawnerClient) -> Iterator[Jail]:
    jail = Jail(tmp_path, spawner, request.param)
    before = describe_tree(str(jail.outside))
    yield jail
    assert describe_tree(str(jail.outside)) == before
    assert {path.name for path in tmp_path.iterdir()} == {"root", "outside"}


def plain() -> Archive:
    """An archive whose first header stands at offset 0, without extended headers."""
    return Archive(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("name", ["../outside/new", "a/../../outside/new", "a/..", "..", "/../x", "a/../b"])
def test_names_that_climb_are_refused(jail: Jail, name: str) -> None:
    with pytest.raises(
        InvalidArgument, match=r'cannot unpack entry "[^"]*\.\.[^"]*" at offset 1024: its name has ".." in it'
    ):
        jail.unpack(plain().add("fine", data=b"x").add(name, data=b"x"))


def test_absolute_names_are_below_the_root(jail: Jail) -> None:
    jail.unpack(plain().add(f"{jail.outside}/secret", data=b"mine").add("//etc///./passwd"))
    inside = str(jail.outside / "secret").lstrip("/")
    assert (jail.root / inside).read_text() == "mine"
    assert (jail.root / "etc/passwd").exists()


@pytest.mark.parametrize("target", ["absolute", "relative", "chain"])
def test_writing_through_a_link_stays_inside(jail: Jail, target: str) -> None:
    archive = plain()
    if target == "absolute":
        archive.add("way", "symlink", to=str(jail.outside))
    elif target == "relative":
        archive.add("way", "symlink", to="../" * 40 + str(jail.outside).lstrip("/"))
    else:
        archive.add("up", "symlink", to="../outside").add("way", "symlink", to="up/.")
    inside = Path(str(jail.outside).lstrip("/")) if target != "chain" else Path("outside")
    archive.add(str(inside), "dir").add("way/secret", data=b"overwritten").add("way/.wh.secret2")
    jail.unpack(archive)
    assert (jail.root / inside / "secret").read_text() == "overwritten"


def test_a_link_at_the_end_of_a_name_is_replaced_not_followed(jail: Jail) -> None:
    archive = plain().add("in", data=b"inside")
    for number, kind in enumerate(("file", "dir", "fifo")):
        archive.add(f"l{number}", "symlink", to="in").add(f"l{number}", kind)
    archive.add("l4", "symlink", to=str(jail.outside / "secret")).add("l4", data=b"x")
    jail.unpack(archive)
    assert (jail.root / "in").read_text() == "inside"
    assert not any((jail.root / f"l{number}").is_symlink() for number in (0, 1, 2, 4))


def test_links_that_lead_nowhere_or_in_circles_are_refused_as_parents(jail: Jail) -> None:
    with pytest.raises(InvalidArgument, match='entry "loop/x" at offset 512'):
        jail.unpack(plain().add("loop", "symlink", to="loop").add("loop/x"))
    with pytest.raises(InvalidArgument, match='entry "gone/x" at offset 512'):
        jail.unpack(plain().add("gone", "symlink", to="nowhere").add("gone/x"))


@pytest.mark.parametrize("target", ["secret", "/secret", "way/secret", "missing", "nodir/missing"])
def test_hard_links_only_to_what_is_inside(jail: Jail, target: str) -> None:
    archive = plain().add("way", "symlink", to=str(jail.outside)).add("hard", "link", to=target)
    with pytest.raises(InvalidArgument, match=r'entry "hard" at offset 512: its target "[a-z/]+" is not in this layer'):
        jail.unpack(archive)


def test_a_hard_link_to_a_link_links_the_link(jail: Jail) -> None:
    jail.unpack(
        plain()
        .add("soft", "symlink", to=str(jail.outside / "secret"))
        .add("hard", "link", to="soft")
        .add("hard", data=b"new")
    )
    assert (jail.root / "hard").read_text() == "new"
    assert (jail.root / "soft").is_symlink()


def test_hard_links_to_itself_and_over_what_is_there(jail: Jail) -> None:
    archive = plain().add("a", data=b"a").add("a", "link", to="a").add("d", "dir").add("d/x").add("d", "link", to="a")
    jail.unpack(archive)
    assert (jail.root / "d").read_text() == (jail.root / "a").read_text() == "a"


@pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh...", "d/.wh..", "d/.wh..."])
def test_whiteouts_of_parents_are_refused(jail: Jail, name: str) -> None:
    with pytest.raises(InvalidArgument, match="it hides no name of its directory"):
        jail.unpack(plain().add("d", "dir").add(name))


def test_a_whiteout_is_no_directory(jail: Jail) -> None:
    with pytest.raises(InvalidArgument, match="a whiteout is no directory"):
        jail.unpack(plain().add(".wh.d/x"))


def test_whiteouts_through_links_stay_inside(jail: Jail) -> None:
    archive = plain().add("way", "symlink", to=str(jail.outside)).add(str(jail.outside).lstrip("/"), "dir")
    jail.unpack(archive.add("way/.wh.secret").add("way/.wh..wh..opq"))
    assert (jail.outside / "secret").read_text() == "secret"


def test_bookkeeping_of_aufs_is_left_out(jail: Jail) -> None:
    jail.unpack(plain().add(".wh..wh.aufs").add(".wh..wh.plnk", "dir").add(".wh..wh.plnk/1.2", data=b"x").add("real"))
    assert jail.names() == {"real"}


def test_devices(jail: Jail) -> None:
    jail.unpack(plain().add("null", "char", device=(1, 3)))
    with pytest.raises(InvalidArgument, match="device nodes are not allowed"):
        jail.unpack(plain().add("disk", "block", device=(8, 0)), devices=False)
    with pytest.raises(InvalidArgument, match="device 0:0"):
        jail.unpack(plain().add("hole", "char", device=(0, 0)))
    with pytest.raises(InvalidArgument, match="there is no device 4096:0"):
        jail.unpack(plain().add("far", "char", device=(4096, 0)))
    assert jail.names() == {"null"}


def test_no_fifo_is_ever_opened(jail: Jail) -> None:
    os.mkfifo(jail.root / "pipe")
    with pytest.raises(InvalidArgument, match='entry "pipe/x" at offset 0'):
        jail.unpack(plain().add("pipe/x"))
    jail.unpack(plain().add("pipe", "fifo").add("pipe", data=b"x"))
    assert (jail.root / "pipe").read_text() == "x"


def test_a_flood_of_entries_hits_the_cap(jail: Jail) -> None:
    archive = plain()
    for number in range(101):
        archive.add(f"f{number}")
    with pytest.raises(ResourceExhausted, match="more than 100 entries"):
        jail.unpack(archive, max_entries=100)


def test_bytes_hit_the_cap_however_they_are_spread(jail: Jail) -> None:
    archive = plain()
    for number in range(11):
        archive.add(f"f{number}", data=bytes(1000))
    with pytest.raises(ResourceExhausted, match=r'entry "f10" at offset \d+: layer is larger than 10000 bytes'):
        jail.unpack(archive, max_bytes=10_000)


def test_a_sparse_bomb_hits_the_cap(jail: Jail) -> None:
    headers: dict[str, Any] = {"GNU.sparse.map": "0,0", "GNU.sparse.size": str(1 << 62)}
    bomb = Archive().add("bomb", **headers)
    with pytest.raises(ResourceExhausted, match='entry "bomb"'):
        jail.unpack(bomb)
    assert jail.names() == set()


def test_an_endless_tail_hits_the_cap(jail: Jail) -> None:
    with pytest.raises(InvalidArgument, match="follow the end of the archive"):
        jail.unpack(plain().add("f").bytes + bytes(20_000), max_bytes=10_000)


def test_a_tail_of_zeros_is_read_to_its_end(jail: Jail) -> None:
    stream = io.BytesIO(plain().add("f").bytes + bytes(5 << 20))
    ConfinedRunner(jail._spawner.run_task).unpack(str(jail.root), stream, jail.mode, CancelToken())
    assert stream.read() == b""


@pytest.mark.parametrize("cut", [100, 700, 1024 + 300, 1536 + 10])
def test_a_cut_archive_names_entry_and_offset(jail: Jail, cut: int) -> None:
    data = plain().add("first", data=b"x" * 500).add("second", data=b"y" * 500).bytes
    with pytest.raises(
        InvalidArgument,
        match=r'archive ends inside (header|the header at offset|entry "(first|second)" at offset) \d*',
    ) as caught:
        jail.unpack(data[:cut])
    assert "offset" in str(caught.value)


@pytest.mark.parametrize(
    ("archive", "message"),
    [
        (Archive().add("x", path="a\0b"), "its name has a NUL in it"),
        (Archive().add("x", path="a/" * 2100 + "b"), "its name is longer than 4095 bytes"),
        (Archive().add("x", path="n" * 256), "file name too long"),
        (Archive().add("x", "symlink", to="a", linkpath="a\0b"), "its target has a NUL in it"),
        (Archive().add("x", uid=str((1 << 32) - 1)), "there is no owner 4294967295:0"),
        (Archive().add("x", gid=str(1 << 33)), "there is no owner 0:8589934592"),
        (Archive().add("f").add("f/x"), "not a directory"),
        (Archive().add("./", "file", data=b"x"), "the root is a directory"),
        (Archive().add("d", "dir").add("h", "link", to="d"), "operation not permitted"),
    ],
    ids=["nul", "long", "long part", "nul target", "uid", "gid", "file as parent", "root", "directory link"],
)
def test_impossible_entries_are_refused(jail: Jail, archive: Archive, message: str) -> None:
    with pytest.raises(MoorageError, match=message):
        jail.unpack(archive.bytes)


def test_wild_times_do_no_harm(jail: Jail) -> None:
    jail.unpack(Archive().add("late", mtime="99999999999999999999").add("early", mtime="-99999999999999999999").bytes)
    assert jail.names() == {"late", "early"}


def test_a_name_of_two_thousand_directories(jail: Jail) -> None:
    jail.unpack(Archive().add("x", path="d/" * 2040 + "f", data=b"deep").bytes)
    with opened(str(jail.root)) as root:
        assert os.stat("d/" * 2040 + "f", dir_fd=root).st_size == 4
    ConfinedRunner(jail._spawner.run_task).remove_tree(str(jail.root))
    assert not jail.root.exists()
    jail.root.mkdir()


def test_what_follows_a_replaced_directory_goes_where_the_new_one_is(jail: Jail) -> None:
    archive = plain().add("a", "dir").add("a/b", "dir").add("a/b/c").add("other", "dir").add("other/b", "dir")
    archive.add("a", "symlink", to="other").add("a/b/d")
    jail.unpack(archive)
    assert jail.names() == {"a", "other", "other/b", "other/b/d"}


def test_garbage_is_refused(jail: Jail) -> None:
    with pytest.raises(InvalidArgument, match="damaged header at offset 0"):
        jail.unpack(b"\x1f\x8b" + b"garbage!" * 1000)


def test_an_error_of_the_source_comes_through_as_it_is(jail: Jail) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise DataLoss("the registry went away")

    with pytest.raises(DataLoss, match="the registry went away"):
        ConfinedRunner(jail._spawner.run_task).unpack(str(jail.root), Broken(), jail.mode, CancelToken())
