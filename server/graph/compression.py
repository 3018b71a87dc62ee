"""Compression of layers, the same bytes for the same input."""

from __future__ import annotations

from typing import BinaryIO, Literal, Protocol, cast

import zstandard
from isal import igzip, isal_zlib

Compression = Literal["gzip", "zstd", "none"]

MEDIA_TYPES: dict[Compression, str] = {
    "gzip": "application/vnd.oci.image.layer.v1.tar+gzip",
    "zstd": "application/vnd.oci.image.layer.v1.tar+zstd",
    "none": "application/vnd.oci.image.layer.v1.tar",
}

_GZIP_WINDOW = 31
"""15 bits of window, in a gzip wrapper (zlib's notation)."""
_GZIP_LEVEL = 2
_GZIP_PIECE = 1 << 18
_ZSTD_LEVEL = 3


class Compressor(Protocol):
    """Takes the plain bytes piece by piece."""

    def compress(self, data: bytes) -> bytes: ...

    def flush(self) -> bytes: ...


class _Gzip:
    """isal's stream depends on how its input is cut into pieces: it is given pieces of one size, whatever those are that come."""

    def __init__(self) -> None:
        self._stream = isal_zlib.compressobj(_GZIP_LEVEL, isal_zlib.DEFLATED, _GZIP_WINDOW)
        self._pending = bytearray()

    def compress(self, data: bytes) -> bytes:
        self._pending += data
        whole = len(self._pending) // _GZIP_PIECE * _GZIP_PIECE
        with memoryview(self._pending) as view:
            pieces = [self._stream.compress(view[at : at + _GZIP_PIECE]) for at in range(0, whole, _GZIP_PIECE)]
        del self._pending[:whole]
        return b"".join(pieces)

    def flush(self) -> bytes:
        return self._stream.compress(self._pending) + self._stream.flush()


class _Plain:
    def compress(self, data: bytes) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


def compressor(kind: Compression) -> Compressor:
    """A new stream of that kind."""
    match kind:
        case "gzip":
            return _Gzip()
        case "zstd":
            return zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compressobj()
        case _:
            return _Plain()


def decompressed(file: BinaryIO, media_type: str) -> BinaryIO:
    """The plain bytes of a layer's blob that was packed here, or verified when it came."""
    if media_type.endswith("gzip"):
        return cast(BinaryIO, igzip.IGzipFile(fileobj=file))  # type: ignore[no-untyped-call]
    if media_type.endswith("zstd"):
        return cast(BinaryIO, zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True))
    return file
