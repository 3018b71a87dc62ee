"""CRI log format: what is read back is what was written, over parts, splits and rotation."""

from __future__ import annotations

import errno
import os
import re
import resource
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moorage.server.supervisor.log import MAX_TEXT, LogFile, entries, open_log, timestamp

ENTRY = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z) (stdout|stderr) ([FP]) (.*)", re.DOTALL)

CHUNK = st.one_of(
    st.binary(max_size=200),
    st.text(alphabet="ab\n", max_size=40).map(str.encode),
    st.tuples(st.integers(MAX_TEXT - 2, MAX_TEXT + 2), st.sampled_from([b"", b"\n", b"\nx", b"\n\n"])).map(
        lambda pair: b"x" * pair[0] + pair[1]
    ),
    st.integers(0, 70_000).map(lambda size: b"y" * size),
)


def new_log(path: str, max_size: int, max_files: int) -> LogFile:
    return LogFile(path, max_size, max_files, open_log(path))


def read_back(content: bytes) -> dict[str, bytes]:
    """What each stream said, from the bytes of a log."""
    streams = {"stdout": b"", "stderr": b""}
    assert content == b"" or content.endswith(b"\n")
    for line in content.split(b"\n")[:-1]:
        match = ENTRY.fullmatch(line)
        assert match, line
        text = match[4]
        assert len(text) <= MAX_TEXT
        streams[match[2].decode()] += text + (b"\n" if match[3] == b"F" else b"")
    return streams


def test_an_entry_a_line() -> None:
    ns = 1_000_000_000 * 86400 + 7
    head = b"1970-01-02T00:00:00.000000007Z stdout "
    assert timestamp(ns) == b"1970-01-02T00:00:00.000000007Z"
    assert b"".join(entries("stdout", b"one\n\ntwo\nthr", ns)) == (
        head + b"F one\n" + head + b"F \n" + head + b"F two\n" + head + b"P thr\n"
    )


def test_a_long_line_is_split_at_16_kib() -> None:
    block = b"".join(entries("stderr", b"x" * (2 * MAX_TEXT) + b"y\n", 0))
    parts = [(match[3], len(match[4])) for line in block.splitlines() if (match := ENTRY.fullmatch(line))]
    assert parts == [(b"P", MAX_TEXT), (b"P", MAX_TEXT), (b"F", 1)]


def test_a_line_that_just_fits_is_whole() -> None:
    assert b" F x" in b"".join(entries("stdout", b"x" * MAX_TEXT + b"\n", 0))


@given(st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), CHUNK), max_size=8))
def test_what_is_read_back_is_what_was_written(chunks: list[tuple[str, bytes]]) -> None:
    content = b"".join(block for stream, data in chunks for block in entries(stream, data, 1))
    for name in ("stdout", "stderr"):
        assert read_back(content)[name] == b"".join(data for stream, data in chunks if stream == name)


@given(st.lists(CHUNK, max_size=10), st.integers(1, 100_000))
@settings(max_examples=50, deadline=None)
def test_rotation_loses_nothing(tmp_path_factory: pytest.TempPathFactory, chunks: list[bytes], max_size: int) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    file = new_log(os.fspath(path), max_size, 100)
    for data in chunks:
        file.write("stdout", data[:5000])
    file.close()
    rotated = sorted(path.parent.glob("log.*"), key=lambda each: -int(each.suffix[1:]))
    content = b"".join(each.read_bytes() for each in [*rotated, path])
    assert read_back(content)["stdout"] == b"".join(data[:5000] for data in chunks)


@pytest.mark.parametrize("max_files", [1, 2, 3])
def test_rotation_keeps_so_many_files(tmp_path: Path, max_files: int) -> None:
    file = new_log(os.fspath(tmp_path / "log"), 100, max_files)
    for number in range(20):
        file.write("stdout", b"%02d" % number + b"x" * 50 + b"\n")
    file.close()
    names = ["log", "log.1", "log.2"][:max_files]
    assert sorted(each.name for each in tmp_path.iterdir()) == names
    for age, name in enumerate(names):
        assert read_back((tmp_path / name).read_bytes())["stdout"].startswith(b"%02d" % (19 - age))


def test_appends_to_what_is_there_and_makes_the_directory(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "log"
    for text in (b"one\n", b"two\n"):
        file = new_log(os.fspath(path), 0, 1)
        file.write("stdout", text)
        file.close()
    assert read_back(path.read_bytes())["stdout"] == b"one\ntwo\n"
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert path.stat().st_mode & 0o777 == 0o640


def test_goes_on_in_a_new_file_after_reopen(tmp_path: Path) -> None:
    path = tmp_path / "log"
    file = new_log(os.fspath(path), 0, 1)
    file.write("stdout", b"before\n")
    path.rename(tmp_path / "kept")
    file.write("stdout", b"still\n")
    file.reopen()
    file.write("stdout", b"after\n")
    file.close()
    assert read_back((tmp_path / "kept").read_bytes())["stdout"] == b"before\nstill\n"
    assert read_back(path.read_bytes())["stdout"] == b"after\n"


def test_does_not_follow_a_link(tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError) as caught:
        new_log(os.fspath(tmp_path / "log"), 0, 1)
    assert caught.value.errno == errno.ELOOP


def test_what_did_not_fit_is_counted_and_told_when_there_is_space_again(tmp_path: Path) -> None:
    path = tmp_path / "log"
    file = new_log(os.fspath(path), 0, 1)
    file.write("stdout", b"before\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The kernel takes what fits and refuses the rest, as on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, hard))
    try:
        file.write("stdout", b"lost 1\n")
        file.write("stdout", b"lost 2\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    lost = file.dropped
    file.write("stdout", b"after\n")
    file.close()
    streams = read_back(path.read_bytes())
    assert streams["stdout"] == b"before\nafter\n"
    assert streams["stderr"] == f"moorage: {lost} bytes of log were dropped: file too large\n".encode()
    assert lost == 2 * len(b"1970-01-02T00:00:00.000000007Z stdout F lost 1\n")
