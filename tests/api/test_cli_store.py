"""The verbs of the image store against a scripted daemon: what they ask, what they print, how they exit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from moorage.client.main import main
from moorage.v1 import image_pb2, runtime_pb2
from tests.api.fake_daemon import FakeDaemon, Refusal

Capture = pytest.CaptureFixture[str]
DIGEST = "sha256:" + "ab" * 32

IMAGE = image_pb2.Image(id=DIGEST, tags=["docker.io/library/app:1"], size_bytes=12_300_000)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    daemon = FakeDaemon(tmp_path)
    with daemon.serving():
        yield daemon


def run(daemon: FakeDaemon, *arguments: str) -> int:
    return main(["-H", daemon.url, *arguments])


def asked(daemon: FakeDaemon, name: str) -> Any:
    (request,) = daemon.requests(name)
    return request


def test_commit_sends_everything_and_prints_the_id(daemon: FakeDaemon, capfd: Capture) -> None:
    daemon.script["CommitContainer"] = runtime_pb2.CommitContainerResponse(image_id=DIGEST, layer_size_bytes=1500)
    words = ("commit", "-a", "me", "-m", "why", "-c", "CMD x", "-c", "USER y", "--no-pause", "--compression", "zstd")
    assert run(daemon, *words, "box", "app:2") == 0
    assert capfd.readouterr() == (f"{DIGEST}\n", "new layer: 1.5kB\n")
    assert asked(daemon, "CommitContainer") == runtime_pb2.CommitContainerRequest(
        id="box",
        reference="app:2",
        author="me",
        message="why",
        changes=["CMD x", "USER y"],
        without_pause=True,
        compression="zstd",
    )
    assert run(daemon, "commit", "-q", "box") == 0
    assert capfd.readouterr() == (f"{DIGEST}\n", "")


def test_tag_is_silent(daemon: FakeDaemon, capfd: Capture) -> None:
    daemon.script["TagImage"] = IMAGE
    assert run(daemon, "tag", "app:1", "other") == 0
    assert capfd.readouterr() == ("", "")
    assert asked(daemon, "TagImage") == image_pb2.TagImageRequest(source="app:1", target="other")
    daemon.script["TagImage"] = Refusal("NOT_FOUND", "image app:1 is not here")
    assert run(daemon, "tag", "app:1", "other") == 1
    assert "image app:1 is not here" in capfd.readouterr().err


def test_history_prints_steps(daemon: FakeDaemon, capfd: Capture) -> None:
    daemon.script["GetImageHistory"] = image_pb2.GetImageHistoryResponse(
        entries=[
            image_pb2.ImageHistoryEntry(created_by="CMD \x1b[31m", created_at=Timestamp(seconds=1)),
            image_pb2.ImageHistoryEntry(created_by="ADD " + "x" * 60, diff_id=DIGEST, size_bytes=2048, comment="c"),
        ]
    )
    assert run(daemon, "history", "app:1") == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].split() == ["LAYER", "CREATED", "CREATED", "BY", "SIZE", "COMMENT"]
    assert lines[1].startswith("- ") and "\x1b" not in lines[1]
    assert lines[2].startswith("abababababab ") and "…" in lines[2] and "2.05kB" in lines[2]
    assert run(daemon, "history", "-q", "--no-trunc", "app:1") == 0
    assert capfd.readouterr().out == f"{DIGEST}\n"
    assert run(daemon, "history", "--format", "json", "app:1") == 0
    assert json.loads(capfd.readouterr().out)[1]["size_bytes"] == 2048
