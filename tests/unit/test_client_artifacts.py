"""Artifacts made of local files: what a FILE[:TYPE] means, and the manifest that comes of it."""

from __future__ import annotations

import hashlib
import io
import json
import os
from pathlib import Path

import pytest

from moorage.client import artifacts


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "docs").mkdir()
    for name in ("report.txt", "docs/a.md", "odd:text/plain"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_files_and_their_names(here: Path) -> None:
    def found(text: str) -> tuple[str, str]:
        part = artifacts.part(text)
        assert part.path.read_text() in ("report.txt", "docs/a.md", "odd:text/plain")
        return part.title, part.media_type

    assert found("report.txt") == ("report.txt", "application/octet-stream")
    assert found("report.txt:text/plain") == ("report.txt", "text/plain")
    assert found("./docs/a.md:text/markdown") == ("docs/a.md", "text/markdown")
    assert found(f"{here}/docs/a.md") == ("a.md", "application/octet-stream")
    assert found("docs/../report.txt")[0] == "report.txt"
    assert found("odd:text/plain") == ("odd:text/plain", "application/octet-stream"), (
        "a file that has such a name is meant"
    )
    assert found("odd:text/plain:application/x") == ("odd:text/plain", "application/x")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("none.txt", "cannot read 'none.txt': no such file or directory"),
        ("none.txt:text/plain", "cannot read 'none.txt': no such file or directory"),
        ("docs", "'docs' is a directory"),
        ("report.txt:text", "'text' is no media type"),
        ("report.txt:text/plain; charset=utf-8", "is no media type"),
        ("report.txt:", "'' is no media type"),
        ("", "cannot read ''"),
        ("pipe", "is not a regular file"),
    ],
)
def test_what_is_no_file(here: Path, text: str, why: str) -> None:
    os.mkfifo(here / "pipe")
    with pytest.raises(ValueError, match=why):
        artifacts.part(text)


def test_two_files_of_one_name(here: Path) -> None:
    with pytest.raises(ValueError, match=r"two files would have the name 'report\.txt'"):
        artifacts.parts(["report.txt", f"{here}/report.txt:text/plain"])


def test_the_manifest(here: Path) -> None:
    data = b"x" * 100
    layer = artifacts.descriptor(io.BytesIO(data), "text/plain")
    assert layer == {
        "mediaType": "text/plain",
        "digest": f"sha256:{hashlib.sha256(data).hexdigest()}",
        "size": 100,
    }
    raw = artifacts.manifest([layer], "text/report", {"by": "hand"}, layer)
    assert raw == artifacts.manifest([layer], "text/report", {"by": "hand"}, layer)
    document = json.loads(raw)
    assert (document["artifactType"], document["layers"], document["subject"]) == ("text/report", [layer], layer)
    assert document["annotations"] == {"by": "hand"}
    # The digest that the specification gives for the empty descriptor.
    assert document["config"] == {
        "mediaType": "application/vnd.oci.empty.v1+json",
        "digest": "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
        "size": 2,
        "data": "e30=",
    }
    assert "subject" not in json.loads(artifacts.manifest([layer], "text/report", {}))
