"""The check for leftovers sees what is left, so that its silence means something."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests import leftovers

pytestmark = pytest.mark.kernel


def run(*command: str) -> None:
    subprocess.run(command, check=True)


@pytest.fixture
def undo() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def leave_a_link(name: str, undo: ExitStack) -> None:
    run("ip", "link", "add", name[:15], "type", "bridge")
    undo.callback(run, "ip", "link", "delete", name[:15])


def leave_a_table(name: str, undo: ExitStack) -> None:
    run("nft", "add", "table", "inet", name)
    undo.callback(run, "nft", "delete", "table", "inet", name)


def leave_a_cgroup(name: str, undo: ExitStack) -> None:
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    hierarchy = next(line.split()[1] for line in mounts if line.split()[2].startswith("cgroup"))
    directory = Path(hierarchy, name)
    directory.mkdir()
    undo.callback(directory.rmdir)


def leave_a_file(name: str, undo: ExitStack) -> None:
    path = Path(tempfile.gettempdir(), name)
    path.touch()
    undo.callback(path.unlink)


def leave_a_mount(name: str, undo: ExitStack) -> None:
    directory = undo.enter_context(tempfile.TemporaryDirectory())
    run("mount", "-t", "tmpfs", name, directory)
    undo.callback(run, "umount", directory)


def leave_a_process(name: str, undo: ExitStack) -> None:
    program = "import sys; print('up', flush=True); sys.stdin.read()"
    child = undo.enter_context(
        subprocess.Popen(
            ["unshare", "--uts", sys.executable, "-c", program, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
    )
    assert child.stdout and child.stdin
    undo.callback(child.stdin.close)
    assert child.stdout.readline() == b"up\n"


@pytest.mark.parametrize(
    ("kind", "leave"),
    [
        ("links", leave_a_link),
        ("tables", leave_a_table),
        ("cgroups", leave_a_cgroup),
        ("files", leave_a_file),
        ("mounts", leave_a_mount),
        ("processes", leave_a_process),
        ("namespaces", leave_a_process),
    ],
)
def test_a_thing_left_behind_is_seen(kind: str, leave: Callable[[str, ExitStack], None], undo: ExitStack) -> None:
    name = f"moorage{os.getpid() % 10000}{uuid.uuid4().hex[:4]}"
    before = leftovers.take()
    leave(name, undo)
    new = leftovers.take().since(before)
    assert any(item.startswith(f"{kind}: ") for item in new), new


def test_settling_ends_when_the_last_thing_has_gone() -> None:
    nothing = leftovers.Leftovers(*[frozenset[str]()] * 8)
    one = leftovers.Leftovers(frozenset({"7 (1) sleep"}), *[frozenset[str]()] * 7)
    answers = iter([one, one, nothing])
    assert leftovers.settle(nothing, 60, lambda: next(answers)) == []
    assert leftovers.settle(nothing, 0, lambda: one) == ["processes: 7 (1) sleep"]
