"""ExecSync, and the files that output is kept in."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from grpc import StatusCode

from moorage.cri.v1 import api_pb2 as api
from tests.criclient import Box, Cri, parse, refused, until

pytestmark = pytest.mark.kernel

NANO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}(Z|[+-]\d\d:\d\d)")


@pytest.fixture
def box(cri: Cri) -> Box:
    return cri.pod().run("sleep", "1000")


def test_exec_tells_output_and_exit_code_apart(box: Box) -> None:
    done = box.exec("sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.stdout, done.stderr, done.exit_code) == (b"out\n", b"err\n", 7)


def test_exec_of_what_is_not_there_is_an_error(box: Box) -> None:
    with pytest.raises(Exception, match="/no/such"):
        box.exec("/no/such")
    with refused(StatusCode.INVALID_ARGUMENT):
        box.exec()


def test_exec_needs_a_running_container(cri: Cri) -> None:
    with refused(StatusCode.FAILED_PRECONDITION):
        cri.pod().create("true").exec("true")


def test_a_timeout_ends_exec_and_all_that_it_started(box: Box) -> None:
    with refused(StatusCode.DEADLINE_EXCEEDED):
        box.exec("sh", "-c", "setsid sleep 4567 & sleep 4567", timeout=1)
    until(lambda: "sleep 4567" not in box.sh("cat /proc/[0-9]*/cmdline | tr '\\0' ' '"))


def test_a_background_child_that_holds_the_pipe_does_not_hold_exec(box: Box) -> None:
    began = time.monotonic()
    assert box.exec("sh", "-c", "sleep 1234 & echo done").stdout == b"done\n"
    assert time.monotonic() - began < 30


def test_exec_drops_what_is_beyond_16_mebibytes(box: Box) -> None:
    done = box.exec("sh", "-c", "dd if=/dev/zero bs=1M count=40 2>/dev/null; echo end >&2")
    assert done.exit_code == 0
    assert done.stderr == b"end\n"
    assert (15 << 20) < len(done.stdout) <= 16 << 20


def test_every_line_has_time_stream_and_tag(cri: Cri) -> None:
    box = cri.pod().run("sh", "-c", "echo one; echo two >&2; printf three")
    box.ended()
    lines = [parse(line) for line in box.log_path.read_text().splitlines()]
    assert all(NANO.fullmatch(moment) for moment, *_ in lines)
    assert sorted(line[1:] for line in lines) == [
        ("stderr", "F", "two"),
        ("stdout", "F", "one"),
        ("stdout", "P", "three"),
    ]
    assert [line[3] for line in lines if line[1] == "stdout"] == ["one", "three"]


def test_a_terminals_output_is_all_stdout(cri: Cri) -> None:
    box = cri.pod().run("sh", "-c", "echo one; echo two >&2", tty=True)
    box.ended()
    assert [(stream, text.strip()) for stream, _, text in box.log()] == [("stdout", "one"), ("stdout", "two")]


def test_a_long_line_is_split_at_16_kibibytes(cri: Cri) -> None:
    box = cri.pod().run("sh", "-c", "head -c 40000 /dev/zero | tr '\\0' x; echo")
    box.ended()
    assert all(len(text) <= 16384 for _, _, text in box.log())
    assert "".join(text for _, _, text in box.log()) == "x" * 40000
    assert [tag for _, tag, _ in box.log()][-1] == "F"
    assert {tag for _, tag, _ in box.log()[:-1]} == {"P"}


def test_reopening_under_load_loses_no_line(cri: Cri) -> None:
    box = cri.pod().run("sh", "-c", "i=0; while [ $i -lt 100000 ]; do echo line $i; i=$((i+1)); done")
    path, kept = box.log_path, list[Path]()
    while len(kept) < 5 and box.status().state == api.CONTAINER_RUNNING:
        until(lambda: path.exists() and path.stat().st_size > 0)
        aside = path.with_name(f"{path.name}.{len(kept)}")
        path.rename(aside)
        kept.append(aside)
        box.reopen_log()
        assert path.exists()
    assert len(kept) == 5
    box.ended()
    text = "".join(one.read_text() for one in [*kept, path])
    assert [parse(line)[3] for line in text.splitlines()] == [f"line {number}" for number in range(100_000)]


def test_a_log_is_reopened_only_while_its_container_runs(cri: Cri) -> None:
    box = cri.pod().run("true")
    path = box.log_path
    box.ended()
    path.unlink()
    with refused(StatusCode.FAILED_PRECONDITION):
        box.reopen_log()
    assert not path.exists()


def test_a_log_outlives_its_container(cri: Cri) -> None:
    box = cri.pod().run("echo", "last words")
    path = box.log_path
    box.ended()
    box.remove()
    assert parse(path.read_text())[3] == "last words\n"


def test_without_a_log_directory_nothing_is_written_to_the_hosts_root(cri: Cri) -> None:
    pod = cri.pod(log_directory="")
    box = pod.run("echo", "hello", name="moorage-stray")
    box.ended()
    assert box.status().log_path == ""
    assert not Path("/moorage-stray.log").exists()
