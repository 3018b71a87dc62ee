"""The verbs that talk to registries, against a scripted daemon: what they ask, what they print, how they exit."""

from __future__ import annotations

import hashlib
import io
import json
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from moorage.client.main import main
from moorage.v1 import image_pb2, registry_pb2
from tests.api.fake_daemon import FakeDaemon, Refusal

Capture = pytest.CaptureFixture[str]
DIGEST = "sha256:" + "ab" * 32
NAME = "registry.example/team/app:1"
PUSHED = image_pb2.Pushed(reference=NAME, digest=DIGEST, size_bytes=500, media_type="m")
STEPS: list[Any] = [
    image_pb2.PushImageResponse(stage=image_pb2.PUSH_STAGE_PREPARING),
    image_pb2.PushImageResponse(digest=DIGEST, stage=image_pb2.PUSH_STAGE_MOUNTED, current_bytes=9, total_bytes=9),
    image_pb2.PushImageResponse(stage=image_pb2.PUSH_STAGE_DONE, pushed=PUSHED),
]


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDaemon]:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    daemon = FakeDaemon(tmp_path)
    with daemon.serving():
        yield daemon


def run(daemon: FakeDaemon, *arguments: str) -> int:
    return main(["-H", daemon.url, *arguments])


def log_in(daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch, *arguments: str, password: str = "s3cret") -> int:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{password}\n"))
    return run(daemon, "login", *arguments, "-u", "me", "--password-stdin")


def test_copy_and_push_of_an_index(daemon: FakeDaemon, capsys: Capture) -> None:
    daemon.script |= {"CopyManifest": STEPS, "PushImage": STEPS}
    assert run(daemon, "registry", "cp", "--referrers", "a.example/chart:1", NAME) == 0
    out, err = capsys.readouterr()
    assert out == f"{NAME}: {DIGEST} (500B)\n" and "mounted" in err
    (asked,) = daemon.requests("CopyManifest")
    assert (asked.source, asked.destination, asked.referrers) == ("a.example/chart:1", NAME, True)
    assert run(daemon, "registry", "cp", "-q", "a.example/chart:1", NAME) == 0
    assert capsys.readouterr() == (f"{DIGEST}\n", "")
    assert run(daemon, "push", "-q", "--all-platforms", NAME) == 0
    assert daemon.requests("PushImage")[0].all_platforms


def artifact(*titles: str, **fields: Any) -> Any:
    layers = [
        {"digest": DIGEST, "size": 3, "annotations": {"org.opencontainers.image.title": title}} for title in titles
    ]
    document = {"config": {"mediaType": "application/vnd.oci.empty.v1+json"}, "layers": layers, **fields}
    return registry_pb2.GetManifestResponse(raw=json.dumps(document).encode(), digest=DIGEST)


def test_artifact_pull(daemon: FakeDaemon, capsys: Capture, tmp_path: Path) -> None:
    daemon.script |= {
        "GetManifest": artifact("report.txt", "docs/a.md"),
        "GetBlob": [registry_pb2.GetBlobResponse(data=data) for data in (b"ab", b"c")],
    }
    assert run(daemon, "artifact", "pull", NAME, str(tmp_path / "out")) == 0
    paths = [tmp_path / "out" / name for name in ("report.txt", "docs/a.md")]
    assert capsys.readouterr().out.split() == [str(path) for path in paths]
    assert [path.read_bytes() for path in paths] == [b"abc", b"abc"]
    asked = daemon.requests("GetBlob")[0]
    assert (asked.reference, asked.digest, asked.size_bytes) == (NAME, DIGEST, 3)
    daemon.script["GetBlob"] = Refusal("DATA_LOSS", "it came with another digest")
    (tmp_path / "out" / "report.txt").write_bytes(b"old")
    assert run(daemon, "artifact", "pull", NAME, str(tmp_path / "out")) == 1
    assert [path.name for path in (tmp_path / "out").iterdir() if path.is_file()] == ["report.txt"]
    assert paths[0].read_bytes() == b"old", "what does not come whole replaces nothing"


def test_what_no_artifact_is_made_of(daemon: FakeDaemon, capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    file = str(tmp_path / "file")
    for arguments, why in (
        ((f"{NAME}@{DIGEST}", file), "a digest follows from what is pushed"),
        ((NAME, str(tmp_path)), "is a directory"),
        ((NAME, f"{file}:text"), "is no media type"),
        ((NAME, file, f"{file}:text/plain"), "two files would have the name 'file'"),
        (("--artifact-type", "report", NAME, file), "is no media type"),
        (("-a", "by", NAME, file), "malformed annotation"),
        (("--subject", "registry.example/other:1", NAME, file), "is not in the repository"),
        ((NAME, str(tmp_path / "none")), "no such file or directory"),
        ((NAME,), "Missing argument"),
    ):
        assert run(daemon, "artifact", "push", *arguments) == 2
        assert why in " ".join(capsys.readouterr().err.split())
    assert not daemon.asked, "nothing is sent unless all can be"


def test_a_file_sent_as_it_is_asked_for(daemon: FakeDaemon, capsys: Capture, tmp_path: Path) -> None:
    """The daemon asks again after a break: what is sent then begins where it says."""
    data = bytes(range(256)) * (3 << 12)
    (tmp_path / "file").write_bytes(data)
    blob = hashlib.sha256(data).hexdigest()
    got: dict[str, list[tuple[int, bytes]]] = {}

    def serve(requests: Iterator[Any], context: Any) -> Iterator[Any]:
        opened = next(requests).open
        pieces = got.setdefault(opened.digest, [])
        for begins in (0, 5, 1 << 20):
            yield registry_pb2.PutBlobResponse(send_from=begins)
            while (piece := next(requests).piece).offset != begins:
                pass
            while True:
                pieces.append((piece.offset, piece.data))
                if begins == 0 or piece.offset + len(piece.data) >= opened.size_bytes:
                    break
                piece = next(requests).piece
        yield registry_pb2.PutBlobResponse(digest=opened.digest, stage=image_pb2.PUSH_STAGE_DONE)

    def opened_first(requests: Iterator[Any], context: Any) -> Iterator[Any]:
        first = next(requests)
        if first.open.size_bytes == 2:
            yield registry_pb2.PutBlobResponse(digest=first.open.digest, stage=image_pb2.PUSH_STAGE_EXISTS)
        else:
            yield from serve(chain([first], requests), context)

    daemon.script |= {"PutBlob": opened_first, "PutManifest": PUSHED}
    assert run(daemon, "artifact", "push", NAME, f"{tmp_path}/file:text/x") == 0
    out, err = capsys.readouterr()
    assert out == f"{NAME}: {DIGEST} (500B)\n" and "done" in err and "exists" in err
    (pieces,) = got.values()
    for begins in (0, 5, 1 << 20):
        assert (begins, data[begins : begins + (1 << 20)]) in pieces
    document = json.loads(daemon.requests("PutManifest")[0].raw)
    assert document["layers"][0]["digest"] == f"sha256:{blob}"


def test_artifact_pull_to_where_nothing_can_be_written(daemon: FakeDaemon, capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    daemon.script |= {
        "GetManifest": artifact("docs/a.md", "b"),
        "GetBlob": [registry_pb2.GetBlobResponse(data=b"abc")],
    }
    assert run(daemon, "artifact", "pull", NAME, str(tmp_path / "file" / "out")) == 1
    assert f"Error: cannot make {tmp_path}/file/out/docs: not a directory" in capsys.readouterr().err
    (tmp_path / "out" / "b").mkdir(parents=True)
    assert run(daemon, "artifact", "pull", NAME, str(tmp_path / "out")) == 1
    assert f"Error: cannot write {tmp_path}/out/b: is a directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("document", "why"),
    [
        (artifact("../../etc/passwd"), "leads out of the directory"),
        (artifact("/etc/passwd"), "leads out of the directory"),
        (artifact(config={"mediaType": "application/vnd.oci.image.config.v1+json"}), "`moorage pull` brings it"),
        (artifact(manifests=[]), "is an index"),
        (artifact(layers=["x"]), "is malformed"),
        (artifact(layers={"x": 1}, config=[]), "is malformed"),
        (artifact(layers=[{"digest": DIGEST, "size": 1, "annotations": ["x"]}]), "is malformed"),
    ],
)
def test_artifacts_that_are_none(daemon: FakeDaemon, capsys: Capture, tmp_path: Path, document: Any, why: str) -> None:
    daemon.script["GetManifest"] = document
    assert run(daemon, "artifact", "pull", NAME, str(tmp_path / "out")) == 1
    assert why in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_push(daemon: FakeDaemon, capsys: Capture) -> None:
    daemon.script["PushImage"] = STEPS
    assert run(daemon, "push", NAME) == 0
    out, err = capsys.readouterr()
    assert out == f"{NAME}: {DIGEST} (500B)\n"
    assert err.splitlines() == ["image: preparing", "abababababab: mounted 9B", "image: done"]
    assert run(daemon, "push", "-q", "app", NAME) == 0
    assert capsys.readouterr() == (f"{DIGEST}\n", "")
    assert run(daemon, "push", "--format", "json", NAME) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["digest"] == DIGEST and not err
    asked = daemon.requests("PushImage")
    assert (asked[1].reference, asked[1].destination) == ("app", NAME)
    assert not asked[0].HasField("auth")


def test_all_tags(daemon: FakeDaemon, capsys: Capture) -> None:
    """Of a repository here, and of one there; what is no image is passed over, and what fails does not keep the others."""
    repository = "registry.example/team/app"
    tags = [f"{repository}:{tag}" for tag in ("1", "2")]

    def pushed(request: Any, context: Any) -> Any:
        if request.reference == tags[0]:
            raise Refusal("UNAVAILABLE", "cannot push that")
        return STEPS

    def pulled(request: Any, context: Any) -> Any:
        if request.reference.endswith(":chart"):
            raise Refusal("UNIMPLEMENTED", "it is a chart", reason="NOT_AN_IMAGE")
        return [image_pb2.PullImageResponse(image=image_pb2.Image(id=DIGEST))]

    daemon.script |= {
        "ListImages": image_pb2.ListImagesResponse(images=[image_pb2.Image(tags=tags)]),
        "PushImage": pushed,
        "ListTags": registry_pb2.ListTagsResponse(tags=["1", "chart", "sha256-" + "a" * 64, f"sha256-{'a' * 64}.sig"]),
        "PullImage": pulled,
    }
    assert run(daemon, "push", "-aq", repository) == 1
    out, err = capsys.readouterr()
    assert out == f"{DIGEST}\n" and "cannot push that" in err
    assert [request.reference for request in daemon.requests("PushImage")] == tags
    assert run(daemon, "pull", "-aq", repository) == 0
    out, err = capsys.readouterr()
    assert out == f"{DIGEST}\n" and "chart is passed over: it is a chart" in err
    assert [request.reference for request in daemon.requests("PullImage")] == [tags[0], f"{repository}:chart"]
    daemon.script["ListImages"] = image_pb2.ListImagesResponse()
    assert run(daemon, "push", "-a", repository) == 1
    for words in (("push", "-a", NAME), ("push", "-a", repository, NAME), ("pull", "-a", NAME)):
        assert run(daemon, *words) == 2


def test_a_push_that_was_rewritten_says_so(daemon: FakeDaemon, capsys: Capture) -> None:
    pushed = image_pb2.Pushed(reference=NAME, digest=DIGEST, rewritten=True)
    daemon.script["PushImage"] = [image_pb2.PushImageResponse(pushed=pushed)]
    assert run(daemon, "push", "-q", NAME) == 0
    assert "packed again" in capsys.readouterr().err


def test_a_push_that_fails(daemon: FakeDaemon, capsys: Capture) -> None:
    daemon.script["PushImage"] = Refusal("PERMISSION_DENIED", "cannot push", hint="ask for it")
    assert run(daemon, "push", NAME) == 1
    assert capsys.readouterr().err.splitlines()[-2:] == ["moorage: cannot push", "hint: ask for it"]


def test_login_keeps_what_the_registry_took(
    daemon: FakeDaemon, capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    daemon.script["Authenticate"] = registry_pb2.AuthenticateResponse(asked=True)
    assert log_in(daemon, monkeypatch, "registry.example") == 0
    where = tmp_path / "docker" / "config.json"
    assert capsys.readouterr().out == f"logged in to registry.example; the credentials are in {where}\n"
    request = daemon.requests("Authenticate")[0]
    assert (request.registry, request.auth.username, request.auth.password) == ("registry.example", "me", "s3cret")
    daemon.script["PushImage"] = STEPS
    for name, known in ((NAME, True), ("other.example/app", False)):
        assert run(daemon, "push", "-q", name) == 0
        assert daemon.requests("PushImage")[-1].HasField("auth") == known
    auth = daemon.requests("PushImage")[0].auth
    assert (auth.username, auth.password, auth.registry) == ("me", "s3cret", "registry.example")
    assert run(daemon, "logout", "registry.example") == 0
    assert run(daemon, "logout", "registry.example") == 1
    assert json.loads(where.read_text()) == {"auths": {}}


def test_login_that_is_refused_keeps_nothing(
    daemon: FakeDaemon, capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    daemon.script["Authenticate"] = Refusal("UNAUTHENTICATED", "cannot log in")
    assert log_in(daemon, monkeypatch) == 1
    assert daemon.requests("Authenticate")[0].registry == "docker.io"
    assert not (tmp_path / "docker").exists()


def test_login_where_nobody_asks(daemon: FakeDaemon, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon.script["Authenticate"] = registry_pb2.AuthenticateResponse()
    assert log_in(daemon, monkeypatch, "registry.example") == 0
    assert "asks for no credentials" in capsys.readouterr().err


def test_an_empty_password_is_none(daemon: FakeDaemon, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    assert log_in(daemon, monkeypatch, "registry.example", password="") == 2
    assert "the password is empty" in capsys.readouterr().err
    assert daemon.asked == []


def test_login_needs_a_terminal_or_a_password(
    daemon: FakeDaemon, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert run(daemon, "login", "registry.example") == 2
    assert "stdin is not a terminal" in capsys.readouterr().err


def test_a_broken_docker_config_is_told_and_passed_over(daemon: FakeDaemon, capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker" / "config.json").write_text("{")
    daemon.script["PushImage"] = STEPS
    assert run(daemon, "push", "-q", NAME) == 0
    assert "is not JSON" in capsys.readouterr().err


def test_search(daemon: FakeDaemon, capsys: Capture) -> None:
    found = [
        registry_pb2.FoundRepository(name="nginx", description="A \x1b[31mserver " + "x" * 60, stars=9, official=True),
        registry_pb2.FoundRepository(name="my/nginx"),
    ]
    daemon.script["SearchRegistry"] = registry_pb2.SearchRegistryResponse(results=found)
    assert run(daemon, "search", "nginx", "--limit", "5", "-f", "is-official=true", "-f", "stars=3") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["NAME", "DESCRIPTION", "STARS", "OFFICIAL"]
    assert "\\x1b[31mserver" in lines[1] and "…" in lines[1] and lines[1].endswith("9       [OK]")
    request = daemon.requests("SearchRegistry")[0]
    assert (request.term, request.limit, request.official, request.min_stars) == ("nginx", 5, True, 3)
    assert run(daemon, "search", "-q", "nginx") == 0
    assert capsys.readouterr().out == "nginx\nmy/nginx\n"
    assert run(daemon, "search", "--format", "json", "nginx") == 0
    assert [entry["stars"] for entry in json.loads(capsys.readouterr().out)] == [9, 0]
    assert run(daemon, "search", "nginx", "-f", "stars=many") == 2


def test_lists_come_in_pages(daemon: FakeDaemon, capsys: Capture) -> None:
    daemon.script["ListTags"] = lambda request, context: registry_pb2.ListTagsResponse(
        tags=["2"] if request.page_token else ["1"], next_page_token="" if request.page_token else "more"
    )
    assert run(daemon, "registry", "tags", "registry.example/app") == 0
    assert capsys.readouterr().out == "1\n2\n"
    daemon.script["ListRepositories"] = registry_pb2.ListRepositoriesResponse(repositories=["a", "b/c"])
    assert run(daemon, "registry", "ls", "registry.example", "--format", "json") == 0
    assert json.loads(capsys.readouterr().out) == ["a", "b/c"]


def test_referrers(daemon: FakeDaemon, capsys: Capture) -> None:
    referrer = registry_pb2.Referrer(digest=DIGEST, artifact_type="application/x.sbom", size_bytes=1234)
    daemon.script["ListReferrers"] = registry_pb2.ListReferrersResponse(subject="s", referrers=[referrer])
    assert run(daemon, "registry", "referrers", NAME, "--artifact-type", "application/x.sbom") == 0
    assert capsys.readouterr().out.splitlines()[1].split() == [DIGEST, "application/x.sbom", "1.23kB"]
    assert daemon.requests("ListReferrers")[0].artifact_type == "application/x.sbom"
    assert run(daemon, "registry", "referrers", "-q", NAME) == 0
    assert capsys.readouterr().out == f"{DIGEST}\n"
    assert run(daemon, "registry", "referrers", "--format", "json", NAME) == 0
    assert json.loads(capsys.readouterr().out)["referrers"][0]["digest"] == DIGEST


def test_delete(daemon: FakeDaemon, capsys: Capture) -> None:
    gone = Refusal("NOT_FOUND", "it is not there")
    daemon.script["DeleteManifest"] = lambda request, context: (
        registry_pb2.DeleteManifestResponse(digest=DIGEST) if request.reference == NAME else gone
    )
    assert run(daemon, "registry", "rm", "registry.example/none:1", NAME) == 1
    assert capsys.readouterr() == (f"{NAME}\n", "moorage: it is not there\n")


def test_manifests(daemon: FakeDaemon, capsys: Capture) -> None:
    platform = image_pb2.Platform(os="linux", architecture="arm64", variant="v8")
    index = registry_pb2.Index(
        name=NAME, digest=DIGEST, entries=[registry_pb2.IndexEntry(digest=DIGEST, platform=platform)]
    )
    raw = b'{"schemaVersion": 2,\n"manifests": []}'
    daemon.script |= {
        "CreateIndex": index,
        "ListIndexes": registry_pb2.ListIndexesResponse(indexes=[index]),
        "GetManifest": registry_pb2.GetManifestResponse(raw=raw, digest=DIGEST),
        "PushIndex": STEPS,
        "RemoveIndex": registry_pb2.RemoveIndexResponse(),
    }
    assert run(daemon, "manifest", "create", NAME, "a", "b", "--annotation", "k=v=w") == 0
    request = daemon.requests("CreateIndex")[0]
    assert (list(request.images), dict(request.annotations)) == (["a", "b"], {"k": "v=w"})
    assert run(daemon, "manifest", "create", NAME, "a", "--annotation", "k") == 2
    assert run(daemon, "manifest", "ls") == 0
    assert capsys.readouterr().out.splitlines()[-1].split() == [NAME, "abababababab", "linux/arm64/v8"]
    assert run(daemon, "manifest", "ls", "-q") == 0
    assert capsys.readouterr().out == f"{NAME}\n"
    assert run(daemon, "manifest", "inspect", NAME) == 0
    assert json.loads(capsys.readouterr().out) == {"schemaVersion": 2, "manifests": []}
    assert run(daemon, "manifest", "inspect", "--raw", NAME) == 0
    assert capsys.readouterr().out == raw.decode()
    assert run(daemon, "manifest", "push", NAME, "other.example/app") == 0
    assert capsys.readouterr().out == f"{NAME}: {DIGEST}\n"
    assert daemon.requests("PushIndex")[0].destination == "other.example/app"
    assert run(daemon, "manifest", "rm", NAME) == 0
    assert capsys.readouterr().out == f"{NAME}\n"


@pytest.mark.parametrize("policy", ["always", "missing", "never"])
def test_pull_policies(daemon: FakeDaemon, policy: str) -> None:
    daemon.script["PullImage"] = [image_pb2.PullImageResponse(image=image_pb2.Image(id=DIGEST))]
    assert run(daemon, "pull", "-q", "--policy", policy, "app") == 0
    wanted = image_pb2.PullPolicy.Value(f"PULL_POLICY_{policy.upper()}")
    assert daemon.requests("PullImage")[0].policy == wanted
