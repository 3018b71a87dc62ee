"""`moorage build --output`: the target's files instead of an image, or beside one."""

from __future__ import annotations

import os
import subprocess
import tarfile
from pathlib import Path

import pytest
import urllib3

from tests.aftermath import whole
from tests.building import BASE, Project, daemon, project
from tests.registry import LoopbackRegistry

__all__ = ["daemon", "project"]

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

DOCKERFILE = f"""FROM scratch AS nothing
FROM {BASE} AS build
RUN mkdir -p -m 750 /out/d && echo made >/out/d/f && chown 7:8 /out/d/f && chmod 4711 /out/d/f && ln /out/d/f /out/hard \\
 && ln -s /etc/passwd /out/link && mkfifo /out/pipe && touch -d @1600000000 /out/d/f /out/d && echo lost >/out/gone
FROM scratch
COPY --from=build /out /
"""


def build(project: Project, *options: str) -> subprocess.CompletedProcess[bytes]:
    project.write({"Dockerfile": DOCKERFILE})
    with project.daemon.popen("build", *options, str(project.directory)) as client:
        out, error = client.communicate(timeout=100)
    return subprocess.CompletedProcess(client.args, client.returncode, out, error)


def test_a_directory(project: Project, tmp_path: Path) -> None:
    target = tmp_path / "new" / "there"
    done = build(project, "-o", str(target))
    assert done.returncode == 0, done.stderr
    assert done.stdout == b""
    assert b"left out, as they are no files, directories or links: 1" in done.stderr
    assert sorted(str(path.relative_to(target)) for path in target.rglob("*")) == ["d", "d/f", "gone", "hard", "link"]
    assert (target / "d/f").read_text() == "made\n"
    assert os.readlink(target / "link") == "/etc/passwd"
    status = (target / "d/f").stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_mtime, status.st_nlink) == (0o711, os.getuid(), 1.6e9, 2)
    assert ((target / "d").stat().st_mode & 0o7777, (target / "d").stat().st_mtime) == (0o750, 1.6e9)
    # What is there is replaced, and nothing else touched.
    (target / "gone").unlink()
    (target / "gone").symlink_to(tmp_path / "outside")
    (target / "mine").write_text("mine")
    assert build(project, "--output", f"type=local,dest={target}").returncode == 0
    assert ((target / "gone").read_text(), (target / "mine").read_text()) == ("lost\n", "mine")
    assert not (tmp_path / "outside").exists()
    assert "app" not in project.daemon.out("images")
    whole(project.daemon)


def test_an_archive_and_an_image(project: Project, tmp_path: Path) -> None:
    assert build(project, "-t", "app:1", "-o", f"type=tar,dest={tmp_path / 'files.tar'}").returncode == 0
    with tarfile.open(tmp_path / "files.tar") as archive:
        told = {member.name: (member.mode, member.uid, member.type) for member in archive}
    assert told == {
        "d": (0o750, 0, tarfile.DIRTYPE),
        "d/f": (0o4711, 7, tarfile.LNKTYPE),
        "gone": (0o644, 0, tarfile.REGTYPE),
        "hard": (0o4711, 7, tarfile.REGTYPE),
        "link": (0o777, 0, tarfile.SYMTYPE),
        "pipe": (0o644, 0, tarfile.FIFOTYPE),
    }
    assert "app" in project.daemon.out("images")
    piped = build(project, "-q", "-o", "-")
    assert piped.stdout == (tmp_path / "files.tar").read_bytes()


def test_no_files_and_no_success(project: Project, tmp_path: Path) -> None:
    assert build(project, "--target", "nothing", "-o", str(tmp_path / "empty")).returncode == 0
    assert list((tmp_path / "empty").iterdir()) == []
    assert build(project, "--target", "lost", "-o", str(tmp_path / "never")).returncode == 1
    assert build(project, "--target", "lost", "-o", f"type=tar,dest={tmp_path / 'never'}").returncode == 1
    assert not (tmp_path / "never").exists()
    (tmp_path / "in-the-way").mkdir()
    (tmp_path / "in-the-way/d").write_text("a file")
    refused = build(project, "-o", str(tmp_path / "in-the-way"))
    assert refused.returncode == 1
    assert f"cannot write d in {tmp_path / 'in-the-way'}: not a directory" in refused.stderr.decode()


def test_a_reader_that_goes_away(project: Project) -> None:
    project.write({"Dockerfile": f"FROM {BASE}\nRUN head -c 100000000 /dev/urandom >/noise\n"})
    with project.daemon.popen("build", "-q", "-o", "-", str(project.directory)) as client:
        assert client.stdout is not None
        assert client.stdout.read(512)
        client.stdout.close()
        assert client.wait(60) != 0
    assert project.build("FROM BASE\nRUN true\n").code == 0
    whole(project.daemon)


def test_an_image_is_pushed_under_all_its_names(project: Project, registry: LoopbackRegistry) -> None:
    names = [f"{registry.host}/test/pushed:{tag}" for tag in ("1", "2")]
    tags = [word for name in names for word in ("-t", name)]
    done = build(project, *tags, "--push", "--load", "--progress", "plain")
    assert (done.returncode, done.stderr.decode().count(f"{registry.host}/test/pushed:")) == (0, 2)
    assert build(project, "-q", *tags, "--push").stderr == b""
    digests = set()
    with urllib3.PoolManager() as http:
        for tag in ("1", "2"):
            accept = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
            answer = http.request("GET", f"{registry.url}/v2/test/pushed/manifests/{tag}", headers=accept)
            digests.add(answer.headers["Docker-Content-Digest"])
    (digest,) = digests
    assert digest in done.stderr.decode()
    refused = build(project, "-t", "127.0.0.1:1/x:1", "--push")
    assert (refused.returncode, b"127.0.0.1:1" in refused.stderr) == (1, True)
    assert b"--push needs a --tag to push" in build(project, "--push").stderr
