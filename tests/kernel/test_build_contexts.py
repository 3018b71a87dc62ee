"""Contexts beside the context (`--build-context`), and contexts that are archives on stdin."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.building import BASE, Project, daemon
from tests.daemon import Daemon

__all__ = ["daemon"]

pytestmark = [pytest.mark.kernel, pytest.mark.slow]


@pytest.fixture
def project(daemon: Daemon, tmp_path: Path) -> Project:
    (tmp_path / "project").mkdir()
    return Project(daemon, tmp_path / "project")


DOCKERFILE = """FROM golang AS built
RUN echo $0 >/out
FROM files AS base
FROM BASE
COPY --from=Files --chown=7 d/*.txt /copied/
COPY --from=built /out /out
COPY --from=base /d/b.md /base
RUN --mount=type=bind,from=files,source=d,target=/m cat /m/b.md >/mounted
COPY mine /mine
"""


def test_names_mean_what_they_are_given(project: Project, tmp_path: Path) -> None:
    project.write({"mine": "mine", "a.txt": "not this"})
    beside = Project(project.daemon, tmp_path / "beside")
    beside.write({"d/a.txt": "a", "d/b.md": "b", "d/c.txt": "c", ".dockerignore": "d/c.txt"})
    options = ("--build-context", f"files={tmp_path / 'beside'}", "--build-context", f"golang=docker-image://{BASE}")
    project.build(DOCKERFILE, *options)
    read = "cat /copied/a.txt /out /base /mounted /mine; ls /copied; stat -c %u:%g /copied/a.txt"
    assert project.run("sh", "-c", read).split() == ["a/bin/sh", "bbminea.txt", "7:7"]
    assert [how for name, how in project.build("", *options).steps.items() if name[:4] in ("COPY", "RUN ")] == [
        "cached"
    ] * 6
    beside.write({"d/a.txt": "new"})
    again = project.build("", *options)
    assert (again.steps["COPY --from=Files --chown=7 d/*.txt /copied/"], again.steps["RUN echo $0 >/out"]) == (
        "done",
        "cached",
    )
    assert project.run("cat", "/copied/a.txt") == "new"


def test_what_a_name_hides_is_not_built(project: Project, tmp_path: Path) -> None:
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside/out").write_text("given")
    dockerfile = "FROM BASE AS deps\nRUN false\nFROM BASE\nCOPY --from=deps out /out\n"
    assert "Dockerfile:2: RUN false: exit code 1" in project.build(dockerfile, check=False).error
    built = project.build("", "--build-context", f"DEPS={tmp_path / 'beside'}")
    assert "RUN false" not in built.steps
    assert project.run("cat", "/out") == "given"
    lost = project.build("FROM BASE\nCOPY --from=depz x /\n", "--build-context", f"deps={tmp_path}", check=False)
    assert 'Dockerfile:2: COPY --from=depz: no such stage (did you mean "deps"?)' in lost.error
    lost = project.build(
        "FROM BASE\nCOPY --from=deps lost /\n", "--build-context", f"deps={tmp_path / 'beside'}", check=False
    )
    assert "Dockerfile:2: COPY lost: no such file in the context" in lost.error


def archive(files: dict[str, str], mode: str, links: dict[str, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:  # type: ignore[call-overload]
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(text), 0o750
            tar.addfile(info, io.BytesIO(text.encode()))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
    return buffer.getvalue()


def build(project: Project, data: bytes, *options: str) -> subprocess.CompletedProcess[bytes]:
    with project.daemon.popen("build", "-q", "-t", "app:1", *options, "-") as client:
        out, error = client.communicate(data, timeout=100)
    return subprocess.CompletedProcess(client.args, client.returncode, out, error)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_an_archive_on_stdin(project: Project, mode: str) -> None:
    dockerfile = f"FROM {BASE}\nCOPY . /x/\n"
    files = {
        "./Dockerfile": dockerfile,
        "./d/f": "text",
        "left-out": "x",
        ".dockerignore": "left-out\n",
        "d/own": dockerfile,
    }
    data = archive(files, mode, {"link": "d/f"})
    assert build(project, data).returncode == 0
    assert project.run("sh", "-c", "ls -A /x; cat /x/link; stat -c %a /x/d/f").split() == [
        *(".dockerignore", "Dockerfile", "d", "link"),
        *("text750",),
    ]
    assert build(project, data, "-f", "d/own").returncode == 0


def test_archives_that_are_refused(project: Project) -> None:
    text = f"FROM {BASE}\n"
    for data, message in (
        (archive({"x": text}, "w"), "Dockerfile: no such file or directory"),
        (
            archive({"Dockerfile": text, "../x": ""}, "w"),
            "cannot unpack the archive: '../x' leads out of the directory",
        ),
        (archive({"Dockerfile": text * 1000}, "w:gz")[:-30], "cannot unpack the archive: "),
        (archive({}, "w", {"Dockerfile": "/etc/passwd"}), "Dockerfile is a link that leads out of the archive"),
    ):
        done = build(project, data)
        assert (done.returncode, message in done.stderr.decode()) == (1, True), done.stderr
