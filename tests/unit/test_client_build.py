"""The client's side of a build: .dockerignore, the list of a directory, the lines of its progress."""

from __future__ import annotations

from pathlib import Path

import pytest

from moorage.client.buildcontext import LocalContext
from moorage.client.buildprogress import Plain
from moorage.client.dockerignore import Ignore
from moorage.v1 import build_pb2 as pb


@pytest.mark.parametrize(
    ("text", "path", "excluded"),
    [
        ("", "a", False),
        ("a", "a", True),
        ("a", "a/b/c", True),
        ("a", "b/a", False),
        ("/a", "a", True),
        ("a/", "a/b", True),
        ("./a", "a", True),
        ("*.md", "x.md", True),
        ("*.md", "d/x.md", False),
        ("**/*.md", "x.md", True),
        ("**/*.md", "a/b/x.md", True),
        ("a/**", "a/b", True),
        ("a/**/z", "a/z", True),
        ("a/**/z", "a/b/c/z", True),
        ("a?c", "abc", True),
        ("a?c", "a/c", False),
        ("[a-c]x", "bx", True),
        ("[^a]x", "ax", False),
        ("# a", "# a", False),
        ("*\n!keep", "keep", False),
        ("*\n!keep", "keep/x", False),
        ("*\n!keep\nkeep/x", "keep/x", True),
        ("d\n!d/keep", "d/keep", False),
        ("d\n!d/keep", "d/other", True),
        ("!a\na", "a", True),
        ("a b", "a b", True),
        ("..", "a", False),
        ("a.b", "axb", False),
    ],
)
def test_dockerignore(text: str, path: str, excluded: bool) -> None:
    assert Ignore(text).excludes(path) is excluded


def test_directories_that_need_not_be_read() -> None:
    assert Ignore("d").excludes_all_below("d")
    assert not Ignore("d\n!d/keep").excludes_all_below("d")
    assert not Ignore("").excludes_all_below("d")


def test_the_list_of_a_directory(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir(mode=0o750)
    (tmp_path / "d/f").write_text("text")
    (tmp_path / "d/f").chmod(0o640)
    (tmp_path / "same").write_text("text")
    (tmp_path / "link").symlink_to("d/f")
    (tmp_path / "left-out").write_text("x")
    context = LocalContext.read(tmp_path, Ignore("left-out"))
    assert [(file.path, file.kind, file.mode & 0o777) for file in context.files if file.path != "link"] == [
        ("d", pb.BUILD_CONTEXT_FILE_KIND_DIRECTORY, 0o750),
        ("d/f", pb.BUILD_CONTEXT_FILE_KIND_FILE, 0o640),
        ("same", pb.BUILD_CONTEXT_FILE_KIND_FILE, (tmp_path / "same").stat().st_mode & 0o777),
    ]
    (link,) = [file for file in context.files if file.path == "link"]
    assert (link.kind, link.target) == (pb.BUILD_CONTEXT_FILE_KIND_LINK, "d/f")
    assert len(context.paths) == 1
    (message,) = context.lists()
    assert message.list.last
    (digest,) = context.paths
    (contents,) = context.contents([digest])
    assert [(piece.digest, piece.data) for piece in contents.contents.pieces] == [(digest, b"text")]


def test_no_context_is_an_empty_list() -> None:
    (message,) = LocalContext.read(None, Ignore()).lists()
    assert message.list.last
    assert not message.list.files


def test_a_name_that_is_not_utf_8(tmp_path: Path) -> None:
    with open(bytes(tmp_path) + b"/\xff", "wb"):
        pass
    with pytest.raises(ValueError, match="its name is not UTF-8"):
        LocalContext.read(tmp_path, Ignore())


def test_lines_of_progress() -> None:
    lines: list[str] = []
    plain = Plain(lines.append)
    out = pb.BUILD_STREAM_STDOUT
    plain.show(pb.BuildResponse(begun=pb.BuildStepBegun(step=1, name="[a 1/2] RUN \x1b[31mx")))
    plain.show(pb.BuildResponse(output=pb.BuildStepOutput(step=1, stream=out, data=b"one\ntw")))
    plain.show(pb.BuildResponse(output=pb.BuildStepOutput(step=1, stream=out, data=b"o\n10%\r100%\nrest")))
    plain.show(pb.BuildResponse(ended=pb.BuildStepEnded(step=1, duration_nanos=1_230_000_000)))
    plain.show(pb.BuildResponse(ended=pb.BuildStepEnded(step=2, cached=True)))
    plain.show(pb.BuildResponse(ended=pb.BuildStepEnded(step=3, error="why")))
    plain.show(pb.BuildResponse(warning="look out"))
    assert lines[0].startswith("#1 [a 1/2] RUN ")
    assert "\x1b" not in lines[0]
    assert [line.split(" ", 2)[2] for line in lines[1:5]] == ["one", "two", "100%", "rest"]
    assert lines[5:] == ["#1 DONE 1.2s", "#2 CACHED", "#3 ERROR why", "warning: look out"]
