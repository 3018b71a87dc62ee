"""Reading logs: tail, rotation, partial lines, following."""

from __future__ import annotations

import asyncio
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moorage.server.engine import commands
from moorage.server.engine.containers import Containers
from moorage.server.engine.job import Context, Job
from moorage.server.engine.logs import LogReader, Logs
from moorage.server.errors import DataLoss

STAMP = "2026-01-02T03:04:05.{:09d}Z"


def line(number: int, stream: str = "stdout", tag: str = "F", text: str | None = None) -> bytes:
    return f"{STAMP.format(number)} {stream} {tag} {text if text is not None else number}\n".encode()


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def read_all(path: Path, tail: int | None = None) -> list[bytes]:
    with closing(LogReader(path)) as reader:
        reader.seek_tail(tail)
        out: list[bytes] = []
        while batch := reader.read():
            out += [entry.data for entry in batch]
        return out


def job() -> Job:
    return Job(1, "logs", "", Context("test"), None)


class FakeContainers:
    """One container, whose state the test sets."""

    def __init__(self, state: str) -> None:
        self.state = state

    def get(self, text: str) -> Any:
        return SimpleNamespace(id=text, state=self.state)

    def all(self) -> list[Any]:
        return [SimpleNamespace(id="c", state=self.state)]


@settings(max_examples=50)
@given(
    counts=st.lists(st.integers(0, 400), min_size=1, max_size=3),
    tail=st.none() | st.integers(0, 1300),
)
def test_tail_gives_the_last_lines_across_rotated_files(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int], tail: int | None
) -> None:
    path = tmp_path_factory.mktemp("log") / "output.log"
    number, written = 0, []
    for age, count in zip(range(len(counts) - 1, -1, -1), counts, strict=True):
        name = path if age == 0 else Path(f"{path}.{age}")
        chunk = [line(n, text="x" * 1000 + str(n)) for n in range(number, number + count)]
        name.write_bytes(b"".join(chunk))
        written += [b"x" * 1000 + str(n).encode() + b"\n" for n in range(number, number + count)]
        number += count
    expected = written if tail is None else written[max(0, len(written) - tail) :]
    assert read_all(path, tail) == expected


def test_partial_lines_keep_their_tag_and_get_no_newline(tmp_path: Path) -> None:
    path = tmp_path / "output.log"
    path.write_bytes(
        line(1, tag="P", text="abc") + line(2, tag="F", text="def") + line(3, "stderr", text=" two  blanks ")
    )
    with closing(LogReader(path)) as reader:
        reader.seek_tail(None)
        entries = reader.read()
    assert [(e.data, e.partial, e.stream) for e in entries] == [
        (b"abc", True, "stdout"),
        (b"def\n", False, "stdout"),
        (b" two  blanks \n", False, "stderr"),
    ]
    assert entries[0].time_ns == 1767323045_000000001


def test_a_line_that_is_still_being_written_waits_for_its_end(tmp_path: Path) -> None:
    path = tmp_path / "output.log"
    whole = line(1, text="first") + line(2, text="second")
    path.write_bytes(whole[:-4])
    with closing(LogReader(path)) as reader:
        reader.seek_tail(None)
        assert [e.data for e in reader.read()] == [b"first\n"]
        assert reader.read() == []
        append(path, whole[-4:])
        assert [e.data for e in reader.read()] == [b"second\n"]


def test_a_reader_goes_on_across_a_rotation_without_a_gap(tmp_path: Path) -> None:
    path = tmp_path / "output.log"
    path.write_bytes(line(1))
    with closing(LogReader(path)) as reader:
        reader.seek_tail(None)
        assert [e.data for e in reader.read()] == [b"1\n"]
        append(path, line(2))
        path.rename(f"{path}.1")
        path.write_bytes(line(3))
        seen = [e.data for _ in range(3) for e in reader.read()]
    assert seen == [b"2\n", b"3\n"]


def test_what_is_not_a_log_is_refused_with_its_path(tmp_path: Path) -> None:
    path = tmp_path / "output.log"
    path.write_bytes(b"garbage\n")
    with pytest.raises(DataLoss, match=r"output\.log"):
        read_all(path)


def test_no_log_yet_is_no_lines(tmp_path: Path) -> None:
    assert read_all(tmp_path / "output.log", 10) == []


async def test_follow_sends_what_comes_and_ends_with_the_container(tmp_path: Path) -> None:
    path = tmp_path / "output.log"
    path.write_bytes(line(1))
    containers = FakeContainers("running")
    logs = Logs(cast(Containers, containers), lambda _: path)
    seen: list[bytes] = []

    async def read() -> None:
        async for batch in logs.stream(job(), commands.Logs("c", follow=True)):
            seen.extend(entry.data for entry in batch)

    task = asyncio.create_task(read())
    await asyncio.sleep(0.05)
    append(path, line(2, "stderr"))
    async with asyncio.timeout(5):
        while len(seen) < 2:
            await asyncio.sleep(0.01)
    containers.state = "exited"
    append(path, line(3))
    await asyncio.wait_for(task, 5)
    assert seen == [b"1\n", b"2\n", b"3\n"]


async def test_streams_and_times_choose(tmp_path: Path) -> None:
    path = tmp_path / "output.log"
    path.write_bytes(line(1) + line(2, "stderr") + line(3, "stderr") + line(4))
    base = 1767323045_000000000
    logs = Logs(cast(Containers, FakeContainers("exited")), lambda _: path)

    async def run(**options: Any) -> list[bytes]:
        return [e.data async for batch in logs.stream(job(), commands.Logs("c", **options)) for e in batch]

    assert await run(streams=frozenset({"stderr"})) == [b"2\n", b"3\n"]
    assert await run(since_ns=base + 3) == [b"3\n", b"4\n"]
    assert await run(until_ns=base + 3) == [b"1\n", b"2\n"]
