"""COPY and ADD: what lands where, with which owner and mode, and what hostile files cannot do."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import zstandard

from tests.building import Project, daemon, project

__all__ = ["daemon", "project"]

pytestmark = [pytest.mark.kernel, pytest.mark.slow]


def tree(project: Project, where: str) -> list[str]:
    """The files below a directory of the image, relative to it."""
    return sorted(project.run("sh", "-c", f"cd {where} && find . -type f | cut -c3-").split())


FILES = {"a.txt": "a", "b.txt": "b", "c.md": "c", "d/e/f.txt": "f", "d/g": "g"}


@pytest.mark.parametrize(
    ("copy", "where", "files"),
    [
        ("COPY a.txt /x/", "/x", ["a.txt"]),
        ("COPY a.txt /x/y", "/x", ["y"]),
        ("COPY a.txt /tmp", "/tmp", ["a.txt"]),
        ("COPY d /x", "/x", ["e/f.txt", "g"]),
        ("COPY d/ c.md /x/", "/x", ["c.md", "e/f.txt", "g"]),
        ("COPY *.txt /x/", "/x", ["a.txt", "b.txt"]),
        ("COPY [ab].txt d/*/f.??? /x/", "/x", ["a.txt", "b.txt", "f.txt"]),
        ('COPY ["a.txt", "/x y/"]', "'/x y'", ["a.txt"]),
        ("COPY a.txt lock* x/?.y /x/", "/x", ["a.txt"]),
        ("FROM BASE AS s\nCOPY a.txt /s/\nFROM BASE\nCOPY --from=s /s/lock* /s/a.txt /x/", "/x", ["a.txt"]),
        ("COPY . /x", "/x", ["Dockerfile", "a.txt", "b.txt", "c.md", "d/e/f.txt", "d/g"]),
        ("COPY ../../a.txt /x/", "/x", ["a.txt"]),
        ("COPY --link a.txt /x/", "/x", ["a.txt"]),
        ("WORKDIR /x\nCOPY a.txt .\nCOPY b.txt y/", "/x", ["a.txt", "y/b.txt"]),
        ("COPY <<one <<two /x/\n1\none\n2\ntwo", "/x", ["one", "two"]),
        ("FROM BASE AS s\nCOPY . /s/\nFROM BASE\nCOPY --from=s /s/d /s/*.md /x/", "/x", ["c.md", "e/f.txt", "g"]),
        ("FROM BASE AS s\nCOPY a.txt /s\nFROM BASE\nCOPY --from=s /s /x/y", "/x", ["y"]),
    ],
)
def test_what_lands_where(project: Project, copy: str, where: str, files: list[str]) -> None:
    project.write(FILES)
    project.build(f"FROM BASE\n{copy}\n")
    assert tree(project, where) == files


def test_owner_mode_time_and_links(project: Project) -> None:
    project.write({"d/script": "#!/bin/sh\n", "d/plain": "p"})
    (project.directory / "d/script").chmod(0o755)
    os.utime(project.directory / "d/plain", (1_600_000_000, 1_600_000_000))
    (project.directory / "d/link").symlink_to("plain")
    project.build(
        "FROM BASE AS one\nCOPY d /d\nCOPY --chown=65534:7 --chmod=700 d/plain /new/dir/p\nCOPY --chown=nobody d/plain /n\n"
        "FROM BASE\nCOPY --from=one /d /d\nCOPY --from=one /new /new\nCOPY --from=one /n /n\n"
    )
    look = "stat -c '%u:%g %a' /d/script /d/plain /new/dir /new/dir/p /n; stat -c %Y /d/plain; readlink /d/link"
    assert project.run("sh", "-c", look).splitlines() == [
        "0:0 755",
        "0:0 644",
        "65534:7 755",
        "65534:7 700",
        "65534:65534 644",
        "1600000000",
        "plain",
    ]


def test_symbolic_modes(project: Project) -> None:
    project.write({"script": "#!/bin/sh\n", "d/e/f": "1"})
    (project.directory / "d/e").chmod(0o700)
    project.build(
        "FROM BASE AS s\nCOPY --chmod=+x script /a\nFROM BASE\nCOPY --chmod=go=rX d /d\nCOPY --from=s --chmod=a-w,g= /a /b\n"
    )
    assert project.run("stat", "-c", "%a", "/d/e", "/d/e/f", "/b").split() == ["755", "644", "505"]


def test_links_in_the_image_are_followed_inside_it(project: Project) -> None:
    project.write({"f": "new", "d/f": "new"})
    marker = project.directory / "outside"
    marker.mkdir()
    project.build(
        f"FROM BASE\nRUN mkdir -p /real {marker} && ln -s /real /to && ln -s {marker} /out && ln -s ../../../.. /up\n"
        "COPY f /to/\nCOPY d /to/\nCOPY f /out/\nCOPY f /up/top\n"
    )
    assert project.run("sh", "-c", f"cat /real/f {marker}/f /top; readlink /to") == "newnewnew/real"
    assert list(marker.iterdir()) == []


def test_a_file_takes_the_place_of_a_link_and_not_of_its_target(project: Project) -> None:
    project.write({"f": "new"})
    project.build("FROM BASE\nRUN echo old >/target && ln -s /target /link\nCOPY f /link\n")
    assert project.run("sh", "-c", "cat /target; cat /link") == "old\nnew"


PARENTS_AND_EXCLUDE = (
    ("COPY --parents a.txt d/e/f.txt", ["a.txt", "d/e/f.txt"]),
    ("COPY --parents d/e", ["d/e/f.txt"]),
    ("COPY --parents ./d/./e/f.txt d/./g", ["e/f.txt", "g"]),
    ("COPY --parents d/*/f.txt", ["d/e/f.txt"]),
    ("COPY --parents **/*.txt", ["a.txt", "b.txt", "d/e/f.txt"]),
    ("COPY --parents d/./**/[a-f]*", ["e/f.txt"]),
    ("COPY --parents --exclude=*.txt ./**/*.txt d/**", ["d/e/f.txt", "d/g"]),
    ("COPY --parents .", ["Dockerfile", "a.txt", "b.txt", "c.md", "d/e/f.txt", "d/g"]),
    ("COPY --exclude=*.txt --exclude=Docker* .", ["c.md", "d/e/f.txt", "d/g"]),
    ("COPY --exclude=**/*.txt --exclude=Docker* .", ["c.md", "d/g"]),
    ("COPY --exclude=d/e --exclude=[^a-c]* .", ["a.txt", "b.txt", "c.md"]),
    ("COPY --exclude=b.* *.txt", ["a.txt"]),
    ("COPY --parents --exclude=d/e d a.txt", ["a.txt", "d/g"]),
    ("ADD --exclude=d .", ["Dockerfile", "a.txt", "b.txt", "c.md"]),
)


def test_parents_and_exclude(project: Project) -> None:
    project.write(FILES)
    lines = [f"{copy} /x{number}/" for number, (copy, _) in enumerate(PARENTS_AND_EXCLUDE)]
    project.build("\n".join(["FROM BASE", *lines]))
    found = project.run("sh", "-c", "find /x* -type f").split()
    for number, (copy, files) in enumerate(PARENTS_AND_EXCLUDE):
        below = f"/x{number}/"
        assert sorted(name.removeprefix(below) for name in found if name.startswith(below)) == files, copy


def test_parents_and_exclude_of_a_stage(project: Project) -> None:
    project.write(FILES)
    project.build(
        """FROM BASE AS s
COPY . /s
RUN chmod 700 /s/d && chown 7:8 /s/d/e && ln /s/d/g /s/d/h && ln -s /s/d /s/link && mkdir /s/empty
FROM BASE
COPY --from=s --parents /s/./a.txt /s/./d/e /p/
COPY --from=s --parents --exclude=**/*.txt --exclude=link s/*.md s/./d /q/
COPY --from=s --exclude=d/g --exclude=**/e --exclude=[A-Z]* /s /r/
COPY --from=s --exclude=b.txt /s/*.txt /t/
COPY --from=s --parents /s/link/./g /u/
COPY --from=s --parents /s/./**/*.txt s/./**/l* /v/
COPY --from=s --parents s/d/./** /w/
"""
    )
    look = "cd /{} && find . -mindepth 1 | sort | cut -c3-"
    assert project.run("sh", "-c", look.format("p")).split() == ["a.txt", "d", "d/e", "d/e/f.txt"]
    assert project.run("sh", "-c", look.format("q")).split() == ["d", "d/e", "d/g", "d/h", "s", "s/c.md"]
    assert project.run("sh", "-c", look.format("r")).split() == ["a.txt", "b.txt", "c.md", "d", "d/h", "empty", "link"]
    assert project.run("sh", "-c", look.format("t") + "; cat /u/g /r/d/h") == "a.txt\ngg"
    assert project.run("sh", "-c", look.format("v")).split() == ["a.txt", "b.txt", "d", "d/e", "d/e/f.txt", "link"]
    assert project.run("sh", "-c", look.format("w") + "; readlink /v/link").split() == [
        "e",
        "e/f.txt",
        "g",
        "h",
        "/s/d",
    ]
    attributes = "stat -c '%a %u:%g %h' /p/d /p/d/e /q/d/g /q/d/h /r/d/h"
    assert [line.split()[:2] for line in project.run("sh", "-c", attributes).splitlines()[:2]] == [
        ["700", "0:0"],
        ["755", "7:8"],
    ]
    assert [line.split()[2] for line in project.run("sh", "-c", attributes).splitlines()[2:]] == ["2", "2", "1"]


def test_links_of_a_stage_lead_nowhere_else(project: Project) -> None:
    project.build(
        "FROM BASE AS s\nRUN ln -s /etc/passwd /p; ln -s / /root-link\n"
        "FROM BASE\nCOPY --from=s /p /x/\nCOPY --from=s /root-link/bin/sh /y\n"
    )
    assert project.run("head", "-1", "/x/p") == "root:x:0:0:root:/root:/bin/sh"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("COPY f /bin/\nCOPY d /x/\nCOPY d/f /x", ""),
        ("RUN mkdir -p /x/f/y\nCOPY f /x/", "there is a directory of that name, which no file can replace"),
        ("RUN mkdir /x && touch /x/sub\nCOPY d /x/", "there is a file of that name, which no directory can replace"),
        ("COPY f d /x", "the target must be a directory"),
        ("COPY * /x", "files cannot have one name"),
        ("COPY lock* /x/", "Dockerfile:2: COPY lock*: no such file in the context"),
        ("FROM BASE\nCOPY --from=0 /lock* /x/", "Dockerfile:3: COPY --from: lock*: no such file or directory"),
    ],
)
def test_what_cannot_be_replaced(project: Project, lines: str, message: str) -> None:
    project.write({"f": "1", "g": "2", "d/f": "1", "d/sub/x": "1"})
    built = project.build(f"FROM BASE\n{lines}\n", check=False)
    assert (built.code == 0) == (not message), built.error
    assert message in built.error


def archive(*, hostile: bool = False) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, uid, mode in (("in/", 5, 0o700), ("in/file", 6, 0o640)):
            info = tarfile.TarInfo(name)
            info.uid = info.gid = uid
            info.mode = mode
            if name.endswith("/"):
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
            else:
                info.size = 4
                tar.addfile(info, io.BytesIO(b"data"))
        if hostile:
            tar.addfile(tarfile.TarInfo("../escaped"))
    return buffer.getvalue()


@pytest.mark.parametrize("how", ["plain", "gzip", "bzip2", "xz", "zstd"])
def test_add_unpacks_archives(project: Project, how: str) -> None:
    tar = archive()
    data = {
        "plain": tar,
        "gzip": gzip.compress(tar),
        "bzip2": bz2.compress(tar),
        "xz": lzma.compress(tar),
        "zstd": zstandard.compress(tar),
    }[how]
    project.write({"a.whatever": data})
    project.build(
        "FROM BASE\nADD a.whatever /x\nADD --chown=1:2 a.whatever /y/\n"
        "ADD --unpack=false a.whatever /z/\nCOPY a.whatever /z/b\n"
    )
    look = "cat /x/in/file; echo; stat -c '%u %a' /x/in /x/in/file; stat -c %u:%g /y/in/file; ls /z"
    assert project.run("sh", "-c", look).splitlines() == ["data", "5 700", "6 640", "1:2", "a.whatever", "b"]


def test_add_refuses_what_escapes_and_what_is_damaged(project: Project) -> None:
    project.write({"hostile.tar": archive(hostile=True), "cut.tar.gz": gzip.compress(archive())[:-20]})
    built = project.build("FROM BASE\nADD hostile.tar /x/\n", check=False)
    assert 'its name has ".." in it' in built.error
    assert project.build("FROM BASE\nADD cut.tar.gz /x/\n", check=False).code == 1


def test_an_ordinary_file_is_added_as_it_is(project: Project) -> None:
    project.write({"x.gz": gzip.compress(b"not an archive"), "y": "text"})
    project.build("FROM BASE\nADD x.gz y /x/\n")
    assert tree(project, "/x") == ["x.gz", "y"]


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        found = self.path.startswith("/files/")
        self.send_response(200 if found else 404)
        self.send_header("Last-Modified", "Tue, 14 Nov 2023 22:13:20 GMT")
        self.end_headers()
        self.wfile.write(b"fetched" if found else b"")

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on stderr."""


@pytest.fixture
def server() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_add_of_a_url(project: Project, server: str) -> None:
    digest = f"sha256:{hashlib.sha256(b'fetched').hexdigest()}"
    dockerfile = (
        f"FROM BASE\nADD {server}/files/name?x=1 /x/\nADD --checksum={digest} --chmod=644 {server}/files/y /x/z\n"
    )
    project.build(dockerfile)
    look = "cat /x/name /x/z; stat -c '%a %Y' /x/name; stat -c %a /x/z"
    assert project.run("sh", "-c", look) == "fetchedfetched600 1700000000\n644"
    assert project.build().steps[f"ADD {server}/files/name?x=1 /x/"] == "cached"
    wrong = project.build(f"FROM BASE\nADD --checksum=sha256:{'0' * 64} {server}/files/y /x\n", check=False)
    assert f"its digest is {digest}, not" in wrong.error
    for name in ("sha384", "sha512"):
        known = hashlib.new(name, b"fetched").hexdigest()
        project.build(f"FROM BASE\nADD --checksum={name}:{known} {server}/files/y /{name}\n")
        zeros = "0" * len(known)
        wrong = project.build(f"FROM BASE\nADD --checksum={name}:{zeros} {server}/files/y /x\n", check=False)
        assert f"its digest is {name}:{known}, not {name}:{zeros}" in wrong.error
    assert "the server answered 404" in project.build(f"FROM BASE\nADD {server}/nothing /x\n", check=False).error
    assert "the URL ends with no file name" in project.build(f"FROM BASE\nADD {server}/ /x\n", check=False).error


def test_dockerignore(project: Project) -> None:
    files = {
        "keep": "1",
        "drop": "1",
        "logs/a.log": "1",
        "logs/important.log": "1",
        "src/x.o": "1",
        "src/deep/y.o": "1",
        "src/z.c": "1",
    }
    project.write(
        {**files, ".dockerignore": "# not these\ndrop\n**/*.o\nlogs\n!logs/important.log\nDockerfile\n.dockerignore\n"}
    )
    project.build("FROM BASE\nCOPY . /x/\n")
    assert tree(project, "/x") == ["keep", "logs/important.log", "src/z.c"]
    assert "no such file in the context" in project.build("FROM BASE\nCOPY drop /x/\n", check=False).error
    project.write({"Dockerfile.dockerignore": "keep\n"})
    assert project.build("FROM BASE\nCOPY keep /x/\n", check=False).code == 1


def test_names_that_mean_deletions_are_refused(project: Project) -> None:
    project.write({".wh.passwd": ""})
    assert "names that begin with .wh. mean deletions" in project.build("FROM BASE\nCOPY . /etc/\n", check=False).error
