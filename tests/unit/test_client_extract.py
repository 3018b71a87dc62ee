"""Archives unpacked by the client: nothing leaves the directory, whatever the archive says."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from moorage.client.extract import extract

Member = tuple[str, bytes, str]
"""Name, kind, and content or target."""


def pieces(*members: Member, size: int = 700) -> Iterator[bytes]:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, kind, text in members:
            info = tarfile.TarInfo(name)
            info.type, info.mode = kind, 0o700
            if kind == tarfile.REGTYPE:
                info.size = len(text)
            else:
                info.linkname = text
            archive.addfile(info, io.BytesIO(text.encode()))
    data = buffer.getvalue()
    return (data[at : at + size] for at in range(0, len(data), size))


def test_what_is_there_afterwards(tmp_path: Path) -> None:
    made = tmp_path / "a/b"
    given = pieces(
        ("d/e", tarfile.REGTYPE, "deep"),
        ("./d", tarfile.DIRTYPE, ""),
        ("d/e", tarfile.REGTYPE, "again"),
        ("l", tarfile.SYMTYPE, "d/e"),
        ("h", tarfile.LNKTYPE, "d/e"),
        ("null", tarfile.CHRTYPE, ""),
    )
    assert extract(given, made) == 1
    assert {str(path.relative_to(made)) for path in made.rglob("*")} == {"d", "d/e", "l", "h"}
    assert [(made / name).read_text() for name in ("d/e", "l", "h")] == ["again"] * 3


@pytest.mark.parametrize(
    "members",
    [
        [("../x", tarfile.REGTYPE, "x")],
        [("d/../../x", tarfile.REGTYPE, "x")],
        [("/x", tarfile.REGTYPE, "x")],
        [("l", tarfile.SYMTYPE, ".."), ("l/x", tarfile.REGTYPE, "x")],
        [("l", tarfile.SYMTYPE, ".."), ("l", tarfile.DIRTYPE, "")],
        [("l", tarfile.SYMTYPE, ".."), ("h", tarfile.LNKTYPE, "l/x")],
        [("h", tarfile.LNKTYPE, "../x")],
        [("h", tarfile.LNKTYPE, ".")],
    ],
)
def test_nothing_leaves_the_directory(tmp_path: Path, members: list[Member]) -> None:
    with pytest.raises(click.ClickException):
        extract(pieces(*members), tmp_path / "in")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_file_takes_the_place_of_a_link(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("mine")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/x").symlink_to(tmp_path / "outside")
    extract(pieces(("x", tarfile.REGTYPE, "new")), tmp_path / "in")
    assert ((tmp_path / "outside").read_text(), (tmp_path / "in/x").read_text()) == ("mine", "new")


def test_what_ends_early(tmp_path: Path) -> None:
    first = next(pieces(("x", tarfile.REGTYPE, "x" * 5000)))
    with pytest.raises(click.ClickException, match="cannot unpack the archive"):
        extract(iter([first]), tmp_path / "in")
    assert extract(iter([]), tmp_path / "none") == 0
    assert not (tmp_path / "none").exists()
