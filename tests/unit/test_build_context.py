"""The context: what is refused in its list, what patterns choose, links, and the digest that tells choices apart."""

from __future__ import annotations

import io
import os
import tarfile
import threading
from io import FileIO

import pytest

from moorage.server.builder.context import BuildContext, ContextEntry, tar_feeder
from moorage.server.cancel import CancelToken
from moorage.server.errors import Cancelled, InvalidArgument

DIGEST = "sha256:" + "a" * 64
OTHER = "sha256:" + "b" * 64


def file(path: str, digest: str = DIGEST, mode: int = 0o644, mtime_ns: int = 0) -> ContextEntry:
    return ContextEntry(path, "file", mode, 1, mtime_ns, digest)


def directory(path: str) -> ContextEntry:
    return ContextEntry(path, "directory", 0o755)


def link(path: str, target: str) -> ContextEntry:
    return ContextEntry(path, "link", 0o777, target=target)


TREE = (
    file("a.txt"),
    file("b.txt"),
    directory("d"),
    file("d/c.txt"),
    directory("d/e"),
    file("d/e/f"),
    link("to-file", "d/c.txt"),
    link("to-directory", "d/e"),
    link("d/up", "../a.txt"),
    link("absolute", "/d/e"),
    link("loop", "loop"),
    link("out", "../../../etc/passwd"),
)


def chosen(*patterns: str) -> list[str]:
    context = BuildContext(TREE)
    return [entry.path for each in context.choose(patterns, KeyError) for entry in each.entries]


@pytest.mark.parametrize(
    ("pattern", "paths"),
    [
        ("a.txt", ["a.txt"]),
        ("*.txt", ["a.txt", "b.txt"]),
        ("?.txt", ["a.txt", "b.txt"]),
        ("[^a].txt", ["b.txt"]),
        ("d", ["c.txt", "e", "e/f", "up"]),
        ("d/*.txt", ["c.txt"]),
        ("*/e", ["f"]),
        ("to-file", ["to-file"]),
        ("to-directory", ["f"]),
        ("to-directory/f", ["f"]),
        ("absolute/f", ["f"]),
        ("d/up", ["up"]),
    ],
)
def test_what_patterns_choose(pattern: str, paths: list[str]) -> None:
    assert chosen(pattern) == paths


@pytest.mark.parametrize("pattern", ["x", "*.md", "d/x", "a.txt/b", "loop", "out", "loop/x"])
def test_what_is_not_there(pattern: str) -> None:
    with pytest.raises(KeyError):
        chosen(pattern)


@pytest.mark.parametrize(
    ("pattern", "paths"),
    [
        ("**/*.txt", ["a.txt", "b.txt", "d", "d/c.txt"]),
        ("**/e", ["d", "d/e", "d/e/f"]),
        ("d/**", ["d", "d/c.txt", "d/e", "d/e/f", "d/up"]),
        ("d/**/f", ["d", "d/e", "d/e/f"]),
        ("d/./**/f", ["e", "e/f"]),
        ("**/e/**/f", ["d", "d/e", "d/e/f"]),
        ("**/to-*", ["to-directory", "to-file"]),
        ("**", [entry.path for entry in sorted(TREE, key=lambda entry: entry.path.split("/"))]),
    ],
)
def test_any_number_of_directories(pattern: str, paths: list[str]) -> None:
    found = [entry for each in BuildContext(TREE).choose([pattern], KeyError, parents=True) for entry in each.entries]
    assert list(dict.fromkeys(entry.path for entry in found)) == paths
    kinds = {entry.path: entry.kind for entry in TREE}
    above = "d/" if "/./" in pattern else ""
    assert all(entry.kind == kinds[above + entry.path] for entry in found), "links stay links"


def test_a_pattern_may_name_nothing_as_long_as_another_does() -> None:
    assert chosen("a.txt", "lock*", "[x]y", "d/?x") == ["a.txt"]
    for patterns in (("lock*",), ("lock*", "[y]"), ("a.txt", "lock"), ("lock*", "lock")):
        with pytest.raises(KeyError, match="lock"):
            chosen(*patterns)


def test_everything() -> None:
    assert len(chosen(".")) == len(TREE)


def test_the_digest_is_of_contents_and_not_of_times() -> None:
    def digest(*entries: ContextEntry) -> str:
        (found,) = BuildContext(entries).choose(["x"], KeyError)
        return found.digest

    plain = digest(file("x"))
    assert digest(file("x", mtime_ns=5)) == plain
    assert (
        len({plain, digest(file("x", mode=0o755)), digest(file("x", OTHER)), digest(directory("x"), file("x/x"))}) == 4
    )
    assert digest(directory("x"), file("x/a")) != digest(directory("x"), file("x/b"))


@pytest.mark.parametrize(
    "entry",
    [
        file("../x"),
        file("/x"),
        file(""),
        file("a//b"),
        file("a/./b"),
        file("a\0b"),
        file("x" * 5000),
        file(".wh.x"),
        file("a/.wh..wh..opq/b"),
        file("x", "sha256:../../etc"),
        ContextEntry("x", "file", 0o644, -1, 0, DIGEST),
        link("x", ""),
        link("x", "a\0"),
    ],
)
def test_what_is_refused(entry: ContextEntry) -> None:
    with pytest.raises(InvalidArgument, match="context"):
        BuildContext([entry])


def streamed(
    entries: list[ContextEntry], clamp: int | None = None, cancel: CancelToken | None = None
) -> list[tarfile.TarInfo]:
    reader, writer = os.pipe()
    feed = tar_feeder(entries, lambda _: io.BytesIO(b"x"), clamp, cancel or CancelToken())
    failure: list[BaseException] = []

    def write() -> None:
        with FileIO(writer, "wb") as pipe:
            try:
                feed(pipe)
            except Cancelled as error:
                failure.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    with open(reader, "rb") as pipe:
        data = pipe.read()
    thread.join()
    if failure:
        raise failure[0]
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return tar.getmembers()


def test_the_stream_belongs_to_root_and_is_no_younger_than_allowed() -> None:
    entries = [directory("d"), file("d/f", mode=0o4755, mtime_ns=9 * 10**9), link("l", "d/f")]
    found = streamed(entries, clamp=5)
    assert [(each.name, each.type, each.mode, each.uid, each.mtime) for each in found] == [
        ("d", tarfile.DIRTYPE, 0o755, 0, 0),
        ("d/f", tarfile.REGTYPE, 0o4755, 0, 5),
        ("l", tarfile.SYMTYPE, 0o777, 0, 0),
    ]
    assert found[2].linkname == "d/f"
    assert streamed(entries)[1].mtime == 9


def test_a_stream_can_be_cancelled() -> None:
    cancel = CancelToken()
    cancel.cancel("enough")
    with pytest.raises(Cancelled):
        streamed([file("x")], cancel=cancel)
