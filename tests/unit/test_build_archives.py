"""Archives that ADD unpacks: known by their contents; damaged ones and bombs are refused."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
from collections.abc import Callable

import pytest
import zstandard

from moorage.server.builder import archives
from moorage.server.errors import InvalidArgument, ResourceExhausted

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstandard.compress,
}


def tar(size: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as made:
        info = tarfile.TarInfo("zeros")
        info.size = size
        made.addfile(info, io.BytesIO(bytes(size)))
    return buffer.getvalue()


def unpacked(data: bytes) -> bytes:
    found = b""
    with archives.plain_tar(io.BytesIO(data), "Dockerfile:2: ADD x") as stream:
        while piece := stream.read(1 << 20):
            found += piece
    return found


@pytest.mark.parametrize("how", list(PACKERS))
def test_what_is_an_archive(how: str) -> None:
    pack, plain = PACKERS[how], tar(1000)
    assert archives.is_archive(io.BytesIO(pack(plain)))
    assert unpacked(pack(plain)) == plain
    assert not archives.is_archive(io.BytesIO(pack(b"text" * 1000)))
    assert not archives.is_archive(io.BytesIO(pack(plain)[:20]))


def test_an_empty_file_is_no_archive() -> None:
    assert not archives.is_archive(io.BytesIO(b""))


@pytest.mark.parametrize("how", ["gzip", "bzip2", "xz", "zstd"])
def test_damage_is_told(how: str) -> None:
    data = bytearray(PACKERS[how](tar(100_000)))
    data[len(data) // 2] ^= 0xFF
    data[len(data) // 2 + 1] ^= 0xFF
    try:
        assert unpacked(bytes(data)) != tar(100_000)
    except InvalidArgument as error:
        assert error.message.startswith("Dockerfile:2: ADD x: cannot decompress: ")


@pytest.mark.parametrize("how", ["gzip", "bzip2", "xz", "zstd"])
def test_bombs_are_refused(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MIN_SUSPECT", 1 << 20)
    data = PACKERS[how](tar(8 << 20))
    with pytest.raises(ResourceExhausted, match="unpacks to more than 500 times its size"):
        unpacked(data)
