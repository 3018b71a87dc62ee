"""Archives of images from strangers: refused with entry and offset, and nothing of them stays."""

from __future__ import annotations

import gzip
import io
import json
import re
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard

from moorage.server.cancel import CancelToken
from moorage.server.engine.archives import Archive as ImageArchive
from moorage.server.engine.archives import Found
from moorage.server.errors import Cancelled, MoorageError, ResourceExhausted
from moorage.server.graph import unarchive
from moorage.server.model import Platform
from tests.archives import Archive
from tests.graphhouse import House, digest


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.db.close()


def load(house: House, archive: bytes) -> list[Found]:
    contents = unarchive.read(io.BytesIO(archive), house.content, CancelToken(), lambda _: None)
    try:
        return ImageArchive(house.graph, contents).images(Platform())
    finally:
        house.graph.discard(contents.added)


def hostile(*entries: tuple[str, bytes], **links: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in entries:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for name, target in links.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
    return buffer.getvalue()


def listing(config: str, *layers: str) -> bytes:
    return json.dumps([{"Config": config, "RepoTags": ["x:1"], "Layers": list(layers)}]).encode()


CONFIG = json.dumps(
    {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": ["sha256:" + "0" * 64]}}
)
ESCAPE = Archive().add("fine", data=b"x").add("../escape", data=b"x").bytes


@pytest.mark.parametrize(
    ("archive", "message"),
    [
        (hostile(("../../etc/passwd", b"x")), r'entry "../../etc/passwd" at offset 0: its name leads out'),
        (hostile(("a", b"1"), ("/etc/passwd", b"x")), r'entry "/etc/passwd" at offset 1024: its name leads out'),
        (hostile(link="../../../etc"), "it links out of the archive"),
        (hostile(("blobs/sha256/" + "0" * 64, b"x")), "at offset 0: its digest is sha256:"),
        (hostile(("a", b"1"), ("a", b"2")), "it is there twice"),
        (hostile(("a", b"x")), "neither index.json nor manifest.json"),
        (hostile(("index.json", b"[")), "index.json is malformed"),
        (hostile(("manifest.json", listing("c.json"))), "its config 'c.json' is not in it"),
        (
            hostile(("manifest.json", listing("c.json", "l/layer.tar")), ("c.json", CONFIG.encode())),
            "layer 'l/layer.tar' is not",
        ),
        (
            hostile(
                ("manifest.json", listing("c.json", "l/layer.tar")),
                ("c.json", CONFIG.encode()),
                ("l/layer.tar", ESCAPE),
            ),
            "its layers are not those that its config lists",
        ),
        (hostile(("index.json", json.dumps({"manifests": [{"digest": "sha256:../x"}]}).encode())), "malformed"),
        (b"\x1f\x8b" + bytes(600), "cannot decompress the archive"),
        (bytes([7]) * 2000, "damaged header at offset 0"),
        (hostile(("blobs/sha256/" + "0" * 64, bytes(5000)))[:2048], "archive ends inside"),
    ],
)
def test_hostile_archives_are_refused_and_leave_nothing(house: House, archive: bytes, message: str) -> None:
    with pytest.raises(MoorageError, match=re.escape(message)):
        load(house, archive)
    assert house.content.digests() == set()
    assert list((house.root / "content" / "drafts").iterdir()) == []


def test_an_older_archive_with_links_and_compressed_layers(house: House) -> None:
    layers = [Archive().add(name).bytes for name in ("a", "b")]
    config = json.dumps(
        {
            "os": "linux",
            "architecture": "amd64",
            "rootfs": {"type": "layers", "diff_ids": [digest(layers[0]), digest(layers[1]), digest(layers[0])]},
        }
    ).encode()
    archive = hostile(
        ("one/layer.tar", layers[0]),
        ("two/layer.tar", gzip.compress(layers[1])),
        ("c.json", config),
        ("manifest.json", listing("c.json", "one/layer.tar", "two/layer.tar", "three/layer.tar")),
        **{"three/layer.tar": "../one/layer.tar"},
    )
    (found,) = load(house, archive)
    assert [blob.diff_id for blob in found.blobs] == [digest(layers[0]), digest(layers[1]), digest(layers[0])]
    assert found.names == ("docker.io/library/x:1",)


@pytest.mark.parametrize("compress", [lambda data: gzip.compress(data, 9), zstandard.ZstdCompressor().compress])
def test_a_bomb_is_refused_before_it_fills_the_disk(house: House, compress: Callable[[bytes], bytes]) -> None:
    bomb = compress(hostile(("blobs/sha256/" + "0" * 64, bytes(100 << 20))))
    with pytest.raises(ResourceExhausted, match="more than 400 times its size"):
        load(house, bomb)
    assert house.content.digests() == set()
    assert list((house.root / "content" / "drafts").iterdir()) == []


def test_a_cancelled_load_leaves_nothing(house: House) -> None:
    cancel = CancelToken()
    data = b"some blob"
    archive = hostile((f"blobs/sha256/{digest(data)[7:]}", data), ("index.json", b"{}"))

    def progress(count: int) -> None:
        cancel.cancel("the caller hung up")

    with pytest.raises(Cancelled):
        unarchive.read(io.BytesIO(archive), house.content, cancel, progress)
    assert house.content.digests() == set()
