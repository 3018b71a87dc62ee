"""The stream of a layer: decompressed piece by piece, held to its limits, verified before its end is told."""

from __future__ import annotations

import gzip
import io
import random
from collections.abc import Iterator

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from moorage.server.errors import DataLoss, ResourceExhausted, Unavailable, Unimplemented
from moorage.server.registry.layerstream import (
    CHUNK,
    SMALL,
    Compression,
    LayerStream,
    TooLarge,
    Undecodable,
    compression_of,
)
from tests.images import compress

TAR = b"\0" * 512 + random.Random(2).randbytes(3 << 20) + b"text" * 100_000


class Pieces:
    """A source that gives `data` in pieces, and counts."""

    def __init__(self, data: bytes, piece: int = 1 << 16) -> None:
        self._rest = memoryview(data)
        self._piece = piece
        self.finished = 0
        self.discarded = 0
        self.taken = 0

    def chunk(self) -> bytes:
        data, self._rest = self._rest[: self._piece], self._rest[self._piece :]
        self.taken += len(data)
        return bytes(data)

    def finish(self) -> None:
        assert not self._rest
        self.finished += 1

    def discard(self) -> None:
        self.discarded += 1


def stream(source: Pieces, compression: Compression, size: int = 1 << 20, max_size: int = 1 << 40) -> LayerStream:
    return LayerStream(source, "sha256:x", size, compression, max_size, 400)


def read_all(layer: LayerStream, size: int = 1 << 18) -> bytes:
    parts = []
    while part := layer.read(size):
        assert len(part) <= size
        parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
@pytest.mark.parametrize("piece", [1, 1000, CHUNK, 1 << 30])
def test_any_pieces_give_the_tar(compression: Compression, piece: int) -> None:
    tar = TAR if piece > 1 else b"\0" * 512 + b"tar" * 1000
    source = Pieces(compress(tar, compression), piece)
    assert read_all(stream(source, compression)) == tar
    assert source.finished == 1


@given(st.lists(st.binary(max_size=200), max_size=5), st.integers(1, 300), st.integers(1, 300))
@settings(max_examples=60)
def test_members_of_gzip_and_frames_of_zstd_follow_one_another(parts: list[bytes], piece: int, size: int) -> None:
    plain = b"".join(parts)
    gz = b"".join(gzip.compress(part) for part in parts) or gzip.compress(b"")
    assert read_all(stream(Pieces(gz, piece), "gzip"), size) == plain
    frame = zstandard.ZstdCompressor().compress
    zst = b"".join(frame(part) for part in parts) or frame(b"")
    assert read_all(stream(Pieces(zst, piece), "zstd"), size) == plain


def test_zeros_may_pad_gzip() -> None:
    source = Pieces(gzip.compress(b"tar") + b"\0" * 100_000)
    assert read_all(stream(source, "gzip")) == b"tar"
    assert source.finished == 1


def test_the_end_is_told_after_the_verdict_only() -> None:
    class Wrong(Pieces):
        def finish(self) -> None:
            raise DataLoss("not its digest")

    layer = stream(Wrong(compress(TAR, "gzip")), "gzip")
    with pytest.raises(DataLoss, match="not its digest") as caught:
        read_all(layer)
    assert layer.failure is caught.value


def test_it_is_a_binary_file() -> None:
    with io.BufferedReader(stream(Pieces(compress(TAR, "gzip")), "gzip")) as file:
        assert file.read(10) == TAR[:10]
        assert file.read() == TAR[10:]


def test_what_is_left_is_drained_and_verified() -> None:
    source = Pieces(compress(TAR, "gzip"))
    layer = stream(source, "gzip")
    before = layer.begun
    layer.read(10)
    assert (before, layer.begun) == (False, True)
    layer.drain()
    layer.drain()
    assert source.finished == 1
    assert layer.read(10) == b""


@pytest.mark.parametrize(
    ("data", "compression"),
    [
        (compress(TAR, "zstd"), "gzip"),
        (compress(TAR, "gzip"), "zstd"),
        (compress(TAR, "gzip"), "none"),
        (TAR, "gzip"),
        (TAR, "zstd"),
        (b"", "gzip"),
        (compress(TAR, "gzip")[:-9], "gzip"),
        (compress(TAR, "gzip") + b"rubbish", "gzip"),
        (compress(TAR, "zstd") + b"rubbish", "zstd"),
        (compress(TAR, "gzip")[:1000] + bytes(1000) + compress(TAR, "gzip")[2000:], "gzip"),
        (compress(TAR, "zstd")[:8] + b"\xff" * 8 + compress(TAR, "zstd")[16:], "zstd"),
    ],
)
def test_what_is_not_what_it_is_called(data: bytes, compression: Compression) -> None:
    source = Pieces(data)
    layer = stream(source, compression)
    with pytest.raises(Undecodable, match="sha256:x"):
        read_all(layer)
    assert source.finished == 1, "the blob's digest is looked at first, for the better message"
    with pytest.raises(Undecodable):
        layer.read(1)


def test_a_broken_connection_is_told_as_it_is() -> None:
    class Broken(Pieces):
        def chunk(self) -> bytes:
            if self.taken > 1 << 20:
                raise Unavailable("gone")
            return super().chunk()

    source = Broken(compress(TAR, "gzip"))
    layer = stream(source, "gzip")
    with pytest.raises(Unavailable, match="gone"):
        read_all(layer)
    assert isinstance(layer.failure, Unavailable)
    assert not source.finished


def zeros(total: int) -> Iterator[bytes]:
    for _ in range(total >> 20):
        yield bytes(1 << 20)


def bomb(compression: Compression, total: int = 256 << 20) -> bytes:
    buffer = io.BytesIO()
    if compression == "gzip":
        with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=9) as file:
            for part in zeros(total):
                file.write(part)
    else:
        with zstandard.ZstdCompressor().stream_writer(buffer, closefd=False) as writer:
            for part in zeros(total):
                writer.write(part)
    return buffer.getvalue()


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_a_bomb(compression: Compression) -> None:
    data = bomb(compression)
    source = Pieces(data)
    layer = stream(source, compression, len(data))
    produced = 0
    with pytest.raises(TooLarge, match="unpacks to more than") as caught:
        while part := layer.read(CHUNK):
            produced += len(part)
    assert produced <= max(SMALL, 400 * len(data))
    assert isinstance(caught.value, ResourceExhausted)
    assert "bomb" in caught.value.hint
    assert not source.finished


def test_a_layer_larger_than_allowed() -> None:
    with pytest.raises(TooLarge, match="more than 1000 bytes"):
        read_all(stream(Pieces(TAR), "none", len(TAR), max_size=1000))


def test_a_zstd_window_larger_than_allowed() -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=28, enable_ldm=False)
    compressor = zstandard.ZstdCompressor(compression_params=parameters)
    frame = compressor.compressobj()
    data = frame.compress(b"tar") + frame.flush()
    with pytest.raises(TooLarge, match="window"):
        read_all(stream(Pieces(data), "zstd"))


@pytest.mark.parametrize(
    ("media_type", "compression"),
    [
        ("application/vnd.oci.image.layer.v1.tar", "none"),
        ("application/vnd.oci.image.layer.v1.tar+gzip", "gzip"),
        ("application/vnd.oci.image.layer.v1.tar+zstd", "zstd"),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", "gzip"),
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "gzip"),
    ],
)
def test_media_types(media_type: str, compression: Compression) -> None:
    assert compression_of(media_type) == compression


def test_an_encrypted_layer() -> None:
    with pytest.raises(Unimplemented, match="encrypted"):
        compression_of("application/vnd.oci.image.layer.v1.tar+gzip+encrypted")
