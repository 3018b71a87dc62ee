"""`moorage build` and `moorage builder`: what is refused before anything is asked, what is sent, how it exits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from moorage.client.main import main
from moorage.v1 import build_pb2, image_pb2
from tests.api.fake_daemon import FakeDaemon

Capture = pytest.CaptureFixture[str]
DIGEST = "sha256:" + "ab" * 32


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    daemon = FakeDaemon(tmp_path)
    with daemon.serving():
        yield daemon


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "context"
    made.mkdir()
    (made / "Dockerfile").write_text("FROM scratch\n")
    return made


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--ssh", "x=/"), "/ is not the socket of an agent; key files are not read"),
        (("--cache-to", "type=local,dest=x"), "inline, or type=registry,ref=NAME[,mode=min|max]"),
        (("--cache-to", "type=registry,ref=x,mode=most"), "inline, or type=registry,ref=NAME[,mode=min|max]"),
        (("--cache-from", "type=local,src=x"), "an image, or type=registry,ref=IMAGE"),
        (("--secret", "src=x"), "id=NAME,src=PATH or id=NAME,env=VAR"),
        (("--secret", "id=x,colour=red"), "id=NAME,src=PATH or id=NAME,env=VAR"),
        (("--secret", "id=x,env=MOORAGE_NOT_SET"), "there is no environment variable MOORAGE_NOT_SET"),
        (("--secret", "id=x,src=/nothing/here"), "cannot read /nothing/here: no such file or directory"),
        (("--build-arg", "=x"), "'=x' has no name"),
        (("-f", "/nothing/here"), "cannot read /nothing/here: no such file or directory"),
        (("--platform", "x"), "platform"),
        (
            ("-o", "type=oci,dest=x"),
            "--output type=oci,dest=x: DIRECTORY, -, type=local,dest=DIRECTORY or type=tar,dest=FILE",
        ),
        (("--build-context", "x=target:y"), "--build-context x=target:y: target:y is not a directory"),
        (
            ("--build-context", "x=oci-layout://y"),
            "NAME=DIRECTORY, NAME=docker-image://IMAGE, or NAME=URL of a git repository",
        ),
        (("--build-context", "x=docker-image://"), "--build-context x=docker-image://: NAME=DIRECTORY"),
        (("--build-context", "x"), "--build-context x: NAME=DIRECTORY"),
        (("-o", "type=tar"), "--output type=tar: DIRECTORY, -"),
        (("-o", "type=local,dest=-"), "--output type=local,dest=-: DIRECTORY, -"),
        (("-o", "x", "--iidfile", "y"), "--iidfile with --output: without --tag no image is made"),
        (("-o", "-", "--progress", "json"), "--output - and --progress json are both for stdout"),
        (("--progress", "loud"), "'loud' is not one of"),
    ],
)
def test_what_is_refused(
    daemon: FakeDaemon, directory: Path, capfd: Capture, options: tuple[str, ...], told: str
) -> None:
    assert main(["-H", daemon.url, "build", *options, str(directory)]) != 0
    assert told in capfd.readouterr().err
    assert daemon.requests("Build") == []


def test_a_context_that_is_no_directory(daemon: FakeDaemon, directory: Path, capfd: Capture) -> None:
    assert main(["-H", daemon.url, "build", str(directory / "Dockerfile")]) == 2
    assert "is not a directory" in capfd.readouterr().err


def test_a_context_without_a_dockerfile(daemon: FakeDaemon, tmp_path: Path, capfd: Capture) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["-H", daemon.url, "build", str(tmp_path / "empty")]) == 1
    assert "empty/Dockerfile: no such file or directory" in capfd.readouterr().err


def test_contexts_that_are_not_listed(daemon: FakeDaemon, directory: Path) -> None:
    def answer(requests: Iterator[build_pb2.BuildRequest], _: object) -> Iterator[build_pb2.BuildResponse]:
        while not next(requests).list.last:
            pass
        yield build_pb2.BuildResponse(image=image_pb2.Image(id=DIGEST))

    daemon.script["Build"] = answer
    options = ("--build-context", "i=docker-image://x:1", "--build-context", f"d={directory}", "-f", "sub//Dockerfile")
    assert main(["-H", daemon.url, "build", "-q", *options, "github.com/a/b.git#main"]) == 0
    opened, *listed = daemon.requests("Build")
    assert opened.open == build_pb2.BuildOpen(
        file_name="sub/Dockerfile",
        context_url="https://github.com/a/b.git#main",
        build_contexts={"i": "docker-image://x:1", "d": ""},
    )
    assert [(each.list.context, [file.path for file in each.list.files], each.list.last) for each in listed] == [
        ("d", ["Dockerfile"], False),
        ("", [], True),
    ]


def test_prune(daemon: FakeDaemon, capfd: Capture) -> None:
    daemon.script["PruneBuildCache"] = build_pb2.PruneBuildCacheResponse(steps=3, reclaimed_bytes=1500)
    assert main(["-H", daemon.url, "builder", "prune", "--unused-for", "2h", "-a"]) == 0
    assert capfd.readouterr().out == "3 steps forgotten, 1.5kB reclaimed\n"
    (request,) = daemon.requests("PruneBuildCache")
    assert request == build_pb2.PruneBuildCacheRequest(unused_seconds=7200, caches=True)


def test_what_is_sent_and_printed(
    daemon: FakeDaemon, directory: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FROM_ENVIRONMENT", "e")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "5")
    monkeypatch.setenv("TOKEN", "hush")
    (directory / "a").write_text("contents of a")

    def answer(requests: Iterator[build_pb2.BuildRequest], _: object) -> Iterator[build_pb2.BuildResponse]:
        next(requests)
        files = {file.path: file for file in next(requests).list.files}
        yield build_pb2.BuildResponse(wanted=build_pb2.BuildWanted(digests=[files["a"].digest], last=True))
        (piece,) = next(requests).contents.pieces
        assert (piece.digest, piece.data) == (files["a"].digest, b"contents of a")
        yield build_pb2.BuildResponse(begun=build_pb2.BuildStepBegun(step=1, name="[x 1/1] FROM scratch"))
        yield build_pb2.BuildResponse(ended=build_pb2.BuildStepEnded(step=1, cached=True))
        yield build_pb2.BuildResponse(image=image_pb2.Image(id=DIGEST))

    daemon.script["Build"] = answer
    iidfile = directory.parent / "id"
    words = ["--build-arg", "A=1", "--build-arg", "FROM_ENVIRONMENT", "--build-arg", "NOT_SET", "--label", "l=2"]
    words += ["--secret", "id=s,env=TOKEN", "--target", "x", "--network", "none", "--no-cache", "--pull"]
    words += ["--cache-from", "type=registry,ref=r:1", "--cache-to", "inline", "--iidfile", str(iidfile)]
    words += ["--cache-to", "type=registry,ref=c:1,mode=max", "--cache-to", "type=registry,ref=c:2"]
    assert main(["-H", daemon.url, "build", "-t", "one", "-t", "two:2", *words, str(directory)]) == 0
    out, err = capfd.readouterr()
    assert out.startswith(f"one, two:2: {DIGEST}")
    assert err == "#1 [x 1/1] FROM scratch\n#1 CACHED\n"
    assert iidfile.read_text() == DIGEST
    assert daemon.requests("Build")[0].open == build_pb2.BuildOpen(
        dockerfile=b"FROM scratch\n",
        file_name="Dockerfile",
        tags=["one", "two:2"],
        target="x",
        build_args={"A": "1", "FROM_ENVIRONMENT": "e", "SOURCE_DATE_EPOCH": "5"},
        labels={"l": "2"},
        secrets={"s": b"hush"},
        network="none",
        no_cache=True,
        pull=True,
        cache_from=["r:1"],
        inline_cache=True,
        cache_to=[
            build_pb2.BuildCacheExport(reference="c:1", all_stages=True),
            build_pb2.BuildCacheExport(reference="c:2"),
        ],
    )
    assert main(["-H", daemon.url, "build", "-q", str(directory)]) == 0
    assert capfd.readouterr() == (f"{DIGEST}\n", "")
