"""The verbs of the image store against a scripted daemon: what they ask, what they print, how they exit."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from moorage.client.main import main
from moorage.v1 import image_pb2, runtime_pb2, system_pb2
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


def test_images_filters_and_digests(daemon: FakeDaemon, capfd: Capture) -> None:
    pulled = image_pb2.Image(
        id=DIGEST, tags=["docker.io/library/app:1", "r.example/app:1"], digests=[f"docker.io/library/app@{DIGEST}"]
    )
    daemon.script["ListImages"] = image_pb2.ListImagesResponse(images=[pulled])
    words = [
        word
        for each in ("dangling=false", "label=a=b", "label=c", "since=x", "before=y", "reference=app*")
        for word in ("-f", each)
    ]
    assert run(daemon, "images", "--digests", *words) == 0
    header, one, other = capfd.readouterr().out.splitlines()
    assert header.split()[:3] == ["REPOSITORY", "TAG", "DIGEST"]
    assert one.split()[2] == DIGEST and other.split()[2] == "<none>"
    assert asked(daemon, "ListImages") == image_pb2.ListImagesRequest(
        dangling=False, labels={"a": "b", "c": ""}, since="x", before="y", patterns=["app*"]
    )
    for word, why in (("nosuch=1", "no such filter: nosuch; there are dangling"), ("dangling=no", "not 'no'")):
        assert run(daemon, "images", "-f", word) == 2
        assert why in capfd.readouterr().err


def test_what_is_done_with_images_has_words_below_image_too(daemon: FakeDaemon, capfd: Capture) -> None:
    daemon.script |= {
        "ListImages": image_pb2.ListImagesResponse(images=[image_pb2.Image(id=DIGEST)]),
        "GetImage": image_pb2.Image(id=DIGEST),
        "RemoveImage": image_pb2.RemoveImageResponse(),
        "TagImage": image_pb2.Image(id=DIGEST),
    }
    assert run(daemon, "image", "ls", "-aq") == 0
    assert capfd.readouterr().out.strip() == DIGEST[7:19]
    assert run(daemon, "image", "inspect", "--format", "json", "app") == 0
    assert json.loads(capfd.readouterr().out)["id"] == DIGEST
    assert [name for name, _ in daemon.asked] == ["ListImages", "GetImage"], "no container of that name is looked for"
    assert run(daemon, "image", "tag", "app", "app:2") == 0
    assert run(daemon, "image", "rm", "app") == 0
    assert asked(daemon, "RemoveImage").reference == "app"
    for verb in ("build", "history", "import", "load", "prune", "pull", "push", "save"):
        assert run(daemon, "image", verb, "--help") == 0


def test_rmi_by_force(daemon: FakeDaemon) -> None:
    daemon.script["RemoveImage"] = image_pb2.RemoveImageResponse()
    assert run(daemon, "rmi", "-f", "app") == 0
    assert asked(daemon, "RemoveImage") == image_pb2.RemoveImageRequest(reference="app", force=True)


def test_image_prune_asks_unless_forced(daemon: FakeDaemon, capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon.script["PruneImages"] = image_pb2.PruneImagesResponse(untagged=["a:1"], deleted=["x"], reclaimed_bytes=3000)
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert run(daemon, "image", "prune") == 1
    assert daemon.requests("PruneImages") == []
    capfd.readouterr()
    assert run(daemon, "image", "prune", "-af", "--filter", "label=a=b", "--filter", "until=1714564800") == 0
    assert capfd.readouterr() == ("untagged: a:1\ndeleted: x\n", "reclaimed 3kB\n")
    request = asked(daemon, "PruneImages")
    assert (request.all, request.labels, request.until.seconds) == (True, {"a": "b"}, 1714564800)


def test_df_shows_parts_and_total(daemon: FakeDaemon, capfd: Capture) -> None:
    part = system_pb2.DiskUsagePart(count=3, in_use=2, bytes=3000, reclaimable_bytes=1000)
    daemon.script["GetDiskUsage"] = system_pb2.GetDiskUsageResponse(
        layers=part, blobs=part, containers=part, other_bytes=5, total_bytes=9005, images=2, images_in_use=1
    )
    assert run(daemon, "df") == 0
    rows = [line.split() for line in capfd.readouterr().out.splitlines()]
    assert rows[1] == ["images", "2", "1", "6kB", "0B"]
    assert rows[2] == ["layers", "3", "2", "3kB", "1kB"]
    assert rows[-1] == ["total", "9.01kB"]
    assert run(daemon, "df", "--format", "json") == 0
    assert json.loads(capfd.readouterr().out)["layers"]["reclaimable_bytes"] == 1000


def test_viz_prints_the_pieces(daemon: FakeDaemon, capfd: Capture) -> None:
    daemon.script["StreamGraph"] = [system_pb2.StreamGraphResponse(text=text) for text in ("digraph {", "}\n")]
    assert run(daemon, "viz") == 0
    assert capfd.readouterr().out == "digraph {}\n"


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


def test_save_writes_a_whole_file_or_none(daemon: FakeDaemon, tmp_path: Path, capfd: Capture) -> None:
    file = tmp_path / "saved.tar"
    daemon.script["SaveImages"] = [image_pb2.SaveImagesResponse(data=data) for data in (b"one", b"two")]
    assert run(daemon, "save", "--format", "docker", "-o", str(file), "a", "b") == 0
    assert file.read_bytes() == b"onetwo"
    assert asked(daemon, "SaveImages") == image_pb2.SaveImagesRequest(
        references=["a", "b"], format=image_pb2.ARCHIVE_FORMAT_DOCKER
    )

    def broken(request: Any, context: Any) -> Iterator[image_pb2.SaveImagesResponse]:
        yield image_pb2.SaveImagesResponse(data=b"half")
        raise Refusal("DATA_LOSS", "blob is damaged")

    daemon.script["SaveImages"] = broken
    assert run(daemon, "save", "-o", str(file), "a") == 1
    assert "blob is damaged" in capfd.readouterr().err
    assert file.read_bytes() == b"onetwo"
    assert [path.name for path in tmp_path.glob("saved*")] == ["saved.tar"]
    assert run(daemon, "save", "-o", str(tmp_path / "nosuch" / "x"), "a") == 1
    assert "cannot write" in capfd.readouterr().err


def test_export_goes_to_stdout(daemon: FakeDaemon, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    daemon.script["ExportContainer"] = [runtime_pb2.ExportContainerResponse(data=bytes([0, 255, 10]))]
    assert run(daemon, "export", "--pause", "box") == 0
    assert capfdbinary.readouterr().out == bytes([0, 255, 10])
    assert asked(daemon, "ExportContainer") == runtime_pb2.ExportContainerRequest(id="box", pause=True)


def test_load_sends_the_file_in_pieces_and_tells_what_came(daemon: FakeDaemon, tmp_path: Path, capfd: Capture) -> None:
    def load(requests: Any, context: Any) -> Iterator[image_pb2.LoadImagesResponse]:
        assert b"".join(request.data for request in requests) == bytes(3 << 20)
        unpacking = image_pb2.LOAD_STAGE_UNPACKING
        yield image_pb2.LoadImagesResponse(stage=unpacking, digest=DIGEST, current_bytes=2000)
        yield image_pb2.LoadImagesResponse(stage=image_pb2.LOAD_STAGE_DONE, image=IMAGE, names=["app:1"])

    daemon.script["LoadImages"] = load
    file = tmp_path / "archive.tar"
    file.write_bytes(bytes(3 << 20))
    assert run(daemon, "load", "-i", str(file)) == 0
    assert capfd.readouterr() == ("loaded abababababab: app:1\n", "abababababab: unpacking 2kB\n")
    assert len(daemon.requests("LoadImages")) == 3
    assert run(daemon, "load", "-q", "-i", str(file)) == 0
    assert capfd.readouterr() == (f"{DIGEST}\n", "")
    assert run(daemon, "load", "-i", str(tmp_path / "nosuch")) == 1
    assert "no such file" in capfd.readouterr().err


def test_import_opens_and_prints_the_id(daemon: FakeDaemon, tmp_path: Path, capfd: Capture) -> None:
    def made(requests: Any, context: Any) -> Iterator[image_pb2.ImportImageResponse]:
        assert len(list(requests)) == 2
        yield image_pb2.ImportImageResponse(stage=image_pb2.LOAD_STAGE_DONE, image=IMAGE)

    daemon.script["ImportImage"] = made
    file = tmp_path / "rootfs.tar"
    file.write_bytes(b"tar")
    words = ("import", "-m", "why", "-c", "CMD x", "--platform", "linux/arm64/v8", str(file), "base:1")
    assert run(daemon, *words) == 0
    assert capfd.readouterr().out == f"{DIGEST}\n"
    opening, data = daemon.requests("ImportImage")
    assert data.data == b"tar"
    assert opening.open == image_pb2.ImportImageRequest.Open(
        reference="base:1",
        message="why",
        changes=["CMD x"],
        platform=image_pb2.Platform(os="linux", architecture="arm64", variant="v8"),
    )


def test_fsck_tells_what_is_wrong_and_fails_while_it_is(daemon: FakeDaemon, capfd: Capture) -> None:
    answer = system_pb2.CheckStoreResponse
    finding = answer.Finding(problem="damaged blob", id=DIGEST, detail="its digest is x", images=[DIGEST])
    summary = answer.Summary(blobs=3, layers=2, images=1, bytes=5000, problems=1, problems_left=1)
    daemon.script["CheckStore"] = [answer(current_bytes=5), answer(finding=finding), answer(summary=summary)]
    assert run(daemon, "fsck") == 1
    told, total = capfd.readouterr().out.splitlines()
    assert told == f"damaged blob {DIGEST}: its digest is x (image abababababab)"
    assert total == "checked 3 blobs (5kB), 2 layers, 1 images: 1 problems, 1 left"
    finding.outcome, finding.repaired, summary.problems_left = "pulled again", True, 0
    daemon.script["CheckStore"] = [answer(finding=finding), answer(summary=summary)]
    assert run(daemon, "fsck", "--repair", "--format", "json") == 0
    report = json.loads(capfd.readouterr().out)
    assert report["findings"][0]["outcome"] == "pulled again" and report["summary"]["problems"] == 1
    assert [request.repair for request in daemon.requests("CheckStore")] == [False, True]
