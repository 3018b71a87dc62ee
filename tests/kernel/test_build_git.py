"""ADD of git repositories, from `git http-backend` on loopback."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.building import BASE, Built, Project, daemon
from tests.daemon import Daemon
from tests.registry import LoopbackRegistry

__all__ = ["daemon"]

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

WHEN = "2023-11-14T22:13:20Z"


@pytest.fixture
def project(daemon: Daemon, tmp_path: Path) -> Project:
    (tmp_path / "project").mkdir()
    return Project(daemon, tmp_path / "project")


class Repository:
    """A repository with a history: a tag `v1`, a branch `main` beyond it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.git("init", "-q", "-b", "main")
        (directory / "sub").mkdir()
        (directory / "sub/script").write_text("#!/bin/sh\n")
        (directory / "sub/script").chmod(0o755)
        (directory / "link").symlink_to("sub/script")
        # An archive would leave one out and fill the other in; a checkout does neither.
        (directory / ".gitattributes").write_text("left-out export-ignore\nfilled export-subst\n")
        (directory / "left-out").write_text("here")
        (directory / "filled").write_text("$Format:%H$")
        self.tagged = self.commit("version", "1")
        self.git("tag", "-a", "-m", "tagged", "v1")
        self.head = self.commit("version", "2")

    def git(self, *arguments: str) -> str:
        identity = {
            f"GIT_{who}_{what}": "moorage@example.com" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
        }
        dates = {"GIT_AUTHOR_DATE": WHEN, "GIT_COMMITTER_DATE": WHEN}
        environment = {**os.environ, **identity, **dates, "GIT_CONFIG_GLOBAL": os.devnull}
        command = ["git", "-C", str(self.directory), *arguments]
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()

    def commit(self, name: str, text: str) -> str:
        (self.directory / name).write_text(text)
        self.git("add", "-A")
        self.git("commit", "-q", "-m", text)
        return self.git("rev-parse", "HEAD")


class Backend(BaseHTTPRequestHandler):
    """What a web server does for `git http-backend`: the common gateway interface, RFC 3875."""

    root: Path

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        environment = {
            **os.environ,
            "GIT_PROJECT_ROOT": str(self.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "REQUEST_METHOD": self.command,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
        }
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        done = subprocess.run(["git", "http-backend"], env=environment, input=body, capture_output=True)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        self.send_response(int(headers.pop("Status", "200").split()[0]))
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_GET

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nobody reads it."""


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    directory = tmp_path / "served" / "project.git"
    directory.mkdir(parents=True)
    return Repository(directory)


@pytest.fixture
def url(repository: Repository) -> Iterator[str]:
    handler = type("Handler", (Backend,), {"root": repository.directory.parent})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/project.git"
    server.shutdown()
    thread.join()
    server.server_close()


def test_branches_tags_commits_and_directories(project: Project, repository: Repository, url: str) -> None:
    dockerfile = f"""FROM BASE
ADD {url} /head
ADD --chown=7:8 {url}#v1 /tag/
ADD {url}#{repository.tagged}:sub /sub
ADD --exclude=sub --checksum={repository.head} {url}#main /branch
"""
    project.build(dockerfile)
    read = "cat /head/version /tag/version /branch/version; ls -A /sub; ls -A /branch | grep -c sub; cat /head/left-out /head/filled"
    assert project.run("sh", "-c", read).split() == ["212script", "0", "here$Format:%H$"]
    look = "stat -c '%a %u:%g %Y' /head/sub/script /tag/version; readlink /head/link; ls -d /*/.git"
    assert project.run("sh", "-c", f"{look}; true").splitlines() == [
        "755 0:0 1700000000",
        "644 7:8 1700000000",
        "sub/script",
    ]
    assert set(list(project.build().steps.values())[1:-1]) == {"cached"}
    repository.commit("version", "3")
    again = project.build(check=False)
    assert f"main is commit {repository.git('rev-parse', 'HEAD')}, not {repository.head}" in again.error
    assert (again.steps[f"ADD {url} /head"], again.steps[f"ADD --chown=7:8 {url}#v1 /tag/"]) == ("done", "done")
    assert list((project.daemon.root / "build" / "repositories").iterdir()) == []


def test_a_repository_is_kept(project: Project, repository: Repository, url: str) -> None:
    project.build(f"FROM BASE\nADD --keep-git-dir {url} /src\n")
    project.daemon.cli("run", "--name", "kept", "app:1", "true")
    exported = project.directory / "exported.tar"
    project.daemon.cli("export", "-o", str(exported), "kept")
    project.daemon.cli("rm", "kept")
    subprocess.run(["tar", "-C", project.directory, "-xf", exported, "src"], check=True)
    kept = ["git", "-c", "safe.directory=*", "-C", str(project.directory / "src")]
    told = subprocess.run([*kept, "log", "--format=%H"], check=True, capture_output=True, text=True).stdout
    assert told.split() == [repository.head]
    assert subprocess.run([*kept, "status", "--porcelain"], check=True, capture_output=True, text=True).stdout == ""


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ADD {url}#lost /x", "there is no branch or tag lost"),
        ("ADD {url}#:lost /x", "there is no directory lost in HEAD"),
        ("ADD {url}#-x /x", "Dockerfile:2: ADD {url}#-x: '-x' is not a branch, tag or commit"),
        ("ADD {url}#:../x /x", "Dockerfile:2: ADD {url}#:../x: '../x' is not a directory of the repository"),
        ("ADD {url}#" + "0" * 40 + " /x", "not our ref"),
        ("ADD {elsewhere}/lost.git /x", "not found"),
        ("ADD --keep-git-dir {url}#:sub /x", "Dockerfile:2: ADD --keep-git-dir {url}#:sub: the repository of a part"),
    ],
)
def test_what_is_not_there(project: Project, url: str, line: str, message: str) -> None:
    elsewhere = url.rpartition("/")[0]
    built = project.build("FROM BASE\n" + line.format(url=url, elsewhere=elsewhere) + "\n", check=False)
    assert message.format(url=url) in built.error
    assert list((project.daemon.root / "build" / "repositories").iterdir()) == []


def other(repository: Repository, name: str) -> Repository:
    """One more on the same server."""
    directory = repository.directory.parent / f"{name}.git"
    directory.mkdir()
    return Repository(directory)


def with_submodules(repository: Repository, modules: dict[str, tuple[str, str]]) -> str:
    """A new commit with submodules by their paths, each with URL and commit."""
    settings = [f'[submodule "{path}"]\n\tpath = {path}\n\turl = {url}\n' for path, (url, _) in modules.items()]
    (repository.directory / ".gitmodules").write_text("".join(settings))
    repository.git("add", ".gitmodules")
    for path, (_, commit) in modules.items():
        repository.git("update-index", "--add", "--cacheinfo", f"160000,{commit},{path}")
    repository.git("commit", "-q", "-m", "modules")
    return repository.git("rev-parse", "HEAD")


def test_submodules_are_fetched(project: Project, repository: Repository, url: str) -> None:
    inner, library = other(repository, "inner"), other(repository, "library")
    middle = with_submodules(library, {"inner": ("../inner.git", inner.tagged)})
    absolute = url.replace("project", "library")
    commit = with_submodules(repository, {"deps/lib": (absolute, middle), "sub/rel": ("./../inner.git/", inner.head)})
    project.build(
        f"FROM BASE\nADD --checksum={commit} {url} /all\nADD --chown=7:8 {url}#:sub /sub\n"
        f"ADD --exclude=sub --exclude=deps/lib/inner {url} /some\nADD --keep-git-dir {url} /kept\n"
    )
    read = "cat /all/deps/lib/version /all/deps/lib/inner/version /all/sub/rel/version /sub/rel/version"
    assert project.run("sh", "-c", read) == "2122"
    look = "ls -A /some/deps/lib; ls -d /some/sub /kept/.git /*/*/*/.git; stat -c '%u:%g %a %Y' /sub/rel/sub/script"
    assert project.run("sh", "-c", look).split() == [
        *(".gitattributes", ".gitmodules", "filled", "left-out", "link", "sub", "version"),
        *("/kept/.git", "7:8", "755", "1700000000"),
    ]
    assert list((project.daemon.root / "build" / "repositories").iterdir()) == []
    assert set(list(project.build().steps.values())[1:-1]) == {"cached"}


@pytest.mark.parametrize(
    ("at", "message"),
    [
        ("git@example.com:x/y.git", "submodule 'deps/x' at 'git@example.com:x/y.git': only http and https are fetched"),
        ("ssh://example.com/y.git", "submodule 'deps/x' at 'ssh://example.com/y.git': only http and https are fetched"),
        ("/srv/y.git", "submodule 'deps/x' at '/srv/y.git': only http and https are fetched"),
        ("../../../y.git", "submodule 'deps/x' at '../../../y.git': it leads out of the server"),
        ("../lost.git", "submodule 'deps/x': repository "),
        ("../inner.git", "submodule 'deps/x': remote error: "),
    ],
)
def test_submodules_that_cannot_be_had(
    project: Project, repository: Repository, url: str, at: str, message: str
) -> None:
    other(repository, "inner")
    with_submodules(repository, {"deps/x": (at, "1" * 40)})
    built = project.build(f"FROM BASE\nADD {url} /x\n", check=False)
    assert f"Dockerfile:2: ADD {url}: {message}" in built.error
    assert list((project.daemon.root / "build" / "repositories").iterdir()) == []
    assert project.build(f"FROM BASE\nADD --exclude=deps {url} /x\n").code == 0


def test_a_context_that_is_a_repository(project: Project, repository: Repository, url: str) -> None:
    library = other(repository, "library")
    (repository.directory / "Dockerfile").write_text(f"FROM {BASE}\nCOPY . /src/\nCOPY --from=more version /more\n")
    (repository.directory / "sub" / "Dockerfile").write_text(f"FROM {BASE}\nCOPY script /\n")
    (repository.directory / ".gitattributes").write_text("*.md export-ignore\n")
    (repository.directory / "a.md").write_text("here")
    repository.git("add", "-A")
    commit = with_submodules(repository, {"deps": ("../library.git", library.head)})
    more = ("--build-context", f"more={url}#v1")
    cli, out = project.daemon.cli, project.run
    cli("build", "-t", "app:1", *more, url)
    look = "cat /src/version /src/deps/version /src/a.md /more; stat -c '%a %u %Y' /src/sub/script; readlink /src/link"
    assert out("sh", "-c", look).split() == ["22here1755", "0", "1700000000", "sub/script"]
    # Sources that are all the same are found done.
    again = Built(cli("build", "--progress", "json", "-t", "app:1", *more, f"{url}#{commit}"))
    assert (again.steps["COPY . /src/"], again.steps["COPY --from=more version /more"]) == ("cached", "cached")
    cli("build", "-t", "app:2", f"{url}#main:sub")
    assert out("cat", "/script", tag="app:2") == "#!/bin/sh"
    wrong = cli("build", "-t", "app:3", "-f", "sub/../sub/Dockerfile", url, check=False).stderr
    assert "Dockerfile:2: COPY script: no such file in the context" in wrong
    cli("build", "-t", "app:4", "-f", "-", url, stdin=f"FROM {BASE}\nCOPY version /\n")
    assert out("cat", "/version", tag="app:4") == "2"
    for context, message in (
        (f"{url}#v1", f"context {url}#v1: there is no file Dockerfile in it"),
        (f"{url}#lost", f"context {url}#lost: there is no branch or tag lost"),
        (
            "git@example.com:x.git",
            "context git@example.com:x.git: only git repositories over http and https are fetched",
        ),
    ):
        assert message in cli("build", context, check=False).stderr
    assert list((project.daemon.root / "build" / "repositories").iterdir()) == []


def test_a_host_without_git(registry: LoopbackRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "project").mkdir()
    monkeypatch.setenv("PATH", "/nowhere")
    with Daemon.temporary({"registry.example": registry.url}) as daemon:
        monkeypatch.undo()
        built = Project(daemon, tmp_path / "project").build("FROM BASE\nADD http://127.0.0.1/x.git /x\n", check=False)
    assert "the daemon's host has no git" in built.error
    assert "hint: install git there" in built.error
