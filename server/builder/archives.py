"""Local archives that ADD unpacks: known by their contents, decompressed in this process."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

import zstandard

from moorage.server.errors import InvalidArgument, ResourceExhausted

MAX_WINDOW = 128 << 20
"""Bytes that a zstd stream may have this process remember."""

MAX_RATIO = 500
"""Times its own size that an archive may unpack to, beyond MIN_SUSPECT bytes."""
MIN_SUSPECT = 64 << 20

_TAR_MAGIC = b"ustar"
_TAR_MAGIC_AT = 257


def _zstd(file: BinaryIO) -> BinaryIO:
    reader = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).stream_reader(file, read_across_frames=True)
    return cast(BinaryIO, reader)


def _gzip(file: BinaryIO) -> BinaryIO:
    return cast(BinaryIO, gzip.GzipFile(fileobj=file))


_KINDS: tuple[tuple[bytes, Callable[[BinaryIO], Any]], ...] = (
    (b"\x1f\x8b", _gzip),
    (b"BZh", bz2.BZ2File),
    (b"\xfd7zXZ\x00", lzma.LZMAFile),
    (b"\x28\xb5\x2f\xfd", _zstd),
)

_FAULTS = (OSError, EOFError, lzma.LZMAError, zstandard.ZstdError)


def is_archive(file: BinaryIO) -> bool:
    """Whether a file is a tar, compressed or not. It is read from its beginning, and left anywhere."""
    try:
        head = _opened(file).read(_TAR_MAGIC_AT + len(_TAR_MAGIC))
    except _FAULTS:
        return False
    return bool(head[_TAR_MAGIC_AT:] == _TAR_MAGIC)


@contextmanager
def plain_tar(file: BinaryIO, what: str) -> Iterator[BinaryIO]:
    """The tar in an archive. Raises InvalidArgument when it cannot be decompressed, ResourceExhausted for a bomb."""
    size = file.seek(0, os.SEEK_END)
    yield cast(BinaryIO, _Checked(_opened(file), what, max(MIN_SUSPECT, size * MAX_RATIO)))


def _opened(file: BinaryIO) -> Any:
    file.seek(0)
    head = file.read(8)
    file.seek(0)
    for magic, opener in _KINDS:
        if head.startswith(magic):
            return opener(file)
    return file


class _Checked:
    def __init__(self, stream: Any, what: str, limit: int) -> None:
        self._stream, self._what, self._left = stream, what, limit

    def read(self, size: int) -> bytes:
        try:
            data: bytes = self._stream.read(size)
        except _FAULTS as error:
            raise InvalidArgument(f"{self._what}: cannot decompress: {error}") from None
        self._left -= len(data)
        if self._left < 0:
            raise ResourceExhausted(f"{self._what}: it unpacks to more than {MAX_RATIO} times its size")
        return data
