"""Compression of layers, the same bytes for the same input."""

from __future__ import annotations

from typing import Literal, Protocol

import zstandard
from isal import isal_zlib

Compression = Literal["gzip", "zstd", "none"]

MEDIA_TYPES: dict[Compression, str] = {
    "gzip": "application/vnd.oci.image.layer.v1.tar+gzip",
    "zstd": "application/vnd.oci.image.layer.v1.tar+zstd",
    "none": "application/vnd.oci.image.layer.v1.tar",
}

_GZIP_WINDOW = 31
"""15 bits of window, in a gzip wrapper (zlib's notation)."""
_GZIP_LEVEL = 2
_ZSTD_LEVEL = 3


class Compressor(Protocol):
    """Takes the plain bytes piece by piece."""

    def compress(self, data: bytes) -> bytes: ...

    def flush(self) -> bytes: ...


class _Plain:
    def compress(self, data: bytes) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


def compressor(kind: Compression) -> Compressor:
    """A new stream of that kind."""
    match kind:
        case "gzip":
            made: Compressor = isal_zlib.compressobj(_GZIP_LEVEL, isal_zlib.DEFLATED, _GZIP_WINDOW)
            return made
        case "zstd":
            return zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compressobj()
        case _:
            return _Plain()
