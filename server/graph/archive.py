"""Image archives on the way out: one tar that is an OCI image layout (OCI image spec, image-layout.md) and that `docker load` reads too,
or the older form of `docker save`. The same images give the same bytes.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from moorage.server.graph import documents
from moorage.server.model import LayerBlob

CHUNK = 1 << 20
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
REFERENCE = "org.opencontainers.image.ref.name"
FULL_NAME = "io.containerd.image.name"

Opener = Callable[[LayerBlob], BinaryIO]


@dataclass(frozen=True)
class Packaged:
    """One image to write: its names in full (`repository:tag`), its documents, and its layers' blobs, all at hand."""

    names: tuple[str, ...]
    config: bytes
    manifest: bytes
    media_type: str
    blobs: tuple[LayerBlob, ...]


def oci_layout(images: Sequence[Packaged], open_blob: Opener) -> Iterator[bytes]:
    """The layout as a tar stream, with Docker's manifest.json beside it."""
    written: set[str] = set()
    for image in images:
        for data in (image.config, image.manifest):
            if (digest := documents.digest_of(data)) not in written:
                written.add(digest)
                yield from _file(_blob_name(digest), data)
        for blob in image.blobs:
            if blob.digest not in written:
                written.add(blob.digest)
                with open_blob(blob) as file:
                    yield from _stream(_blob_name(blob.digest), blob.size, _pieces(file))
    manifests = [
        entry
        for image in images
        for entry in _named(image.names, image.media_type, documents.digest_of(image.manifest), len(image.manifest))
    ]
    index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": manifests}
    docker = [
        {
            "Config": _blob_name(documents.digest_of(image.config)),
            "RepoTags": list(image.names) or None,
            "Layers": [_blob_name(blob.digest) for blob in image.blobs],
        }
        for image in images
    ]
    yield from _file("manifest.json", documents.encode_list(docker))
    yield from _layout(index)


@dataclass(frozen=True)
class Tree:
    """An index to write: its names in full, and all that it lists: documents by digest, the index's among them, and sizes of blobs."""

    names: tuple[str, ...]
    digest: str
    media_type: str
    documents: Mapping[str, bytes]
    blobs: Mapping[str, int]


def index_layout(trees: Sequence[Tree], open_blob: Callable[[str], Iterator[bytes]]) -> Iterator[bytes]:
    """An OCI image layout whose index.json lists indexes, as a tar stream. `open_blob` gives a blob's bytes."""
    written: set[str] = set()
    for tree in trees:
        for digest, data in tree.documents.items():
            if digest not in written:
                written.add(digest)
                yield from _file(_blob_name(digest), data)
        for digest, size in tree.blobs.items():
            if digest not in written:
                written.add(digest)
                yield from _stream(_blob_name(digest), size, open_blob(digest))
    entries = [
        entry
        for tree in trees
        for entry in _named(tree.names, tree.media_type, tree.digest, len(tree.documents[tree.digest]))
    ]
    yield from _layout({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": entries})


def docker_archive(images: Sequence[Packaged], open_plain: Opener) -> Iterator[bytes]:
    """The form of `docker save` before OCI layouts; `open_plain` gives a layer's uncompressed tar, each time anew."""
    written: set[str] = set()
    listed = []
    for image in images:
        config = f"{documents.digest_of(image.config)[7:]}.json"
        if config not in written:
            written.add(config)
            yield from _file(config, image.config)
        for blob in image.blobs:
            if (name := _layer_name(blob)) not in written:
                written.add(name)
                with open_plain(blob) as counted:
                    size = sum(len(piece) for piece in _pieces(counted))
                with open_plain(blob) as file:
                    yield from _stream(name, size, _pieces(file))
        listed.append(
            {
                "Config": config,
                "RepoTags": list(image.names) or None,
                "Layers": [_layer_name(blob) for blob in image.blobs],
            }
        )
    yield from _file("manifest.json", documents.encode_list(listed))
    yield bytes(2 * tarfile.BLOCKSIZE)


def joined(pieces: Iterable[bytes], size: int = CHUNK) -> Iterator[bytes]:
    """Small pieces put together to about `size`."""
    pending: list[bytes] = []
    length = 0
    for piece in pieces:
        pending.append(piece)
        length += len(piece)
        if length >= size:
            yield b"".join(pending)
            pending, length = [], 0
    if pending:
        yield b"".join(pending)


def _layout(index: dict[str, object]) -> Iterator[bytes]:
    """The end of a layout."""
    yield from _file("index.json", documents.encode(index))
    yield from _file("oci-layout", documents.encode({"imageLayoutVersion": "1.0.0"}))
    yield bytes(2 * tarfile.BLOCKSIZE)


def _named(names: Sequence[str], media_type: str, digest: str, size: int) -> Iterator[dict[str, object]]:
    """What index.json says of a document: once for every name."""
    plain: dict[str, object] = {"mediaType": media_type, "digest": digest, "size": size}
    if not names:
        yield plain
    for name in names:
        yield {**plain, "annotations": {FULL_NAME: name, REFERENCE: name.rpartition(":")[2]}}


def _blob_name(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _layer_name(blob: LayerBlob) -> str:
    return f"{blob.diff_id[7:]}/layer.tar"


def _file(name: str, data: bytes) -> Iterator[bytes]:
    yield _header(name, len(data))
    yield data
    yield bytes(-len(data) % tarfile.BLOCKSIZE)


def _stream(name: str, size: int, pieces: Iterator[bytes]) -> Iterator[bytes]:
    yield _header(name, size)
    yield from pieces
    yield bytes(-size % tarfile.BLOCKSIZE)


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    while piece := file.read(CHUNK):
        yield piece


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o444
    return info.tobuf(tarfile.PAX_FORMAT)
