"""Compression of layers: what comes out says what went in, and does not tell in which pieces."""

from __future__ import annotations

import gzip
import random
from collections.abc import Sequence

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from moorage.server.graph.compression import MEDIA_TYPES, Compression, compressor

DATA = b"".join(random.Random(4).randbytes(2000) + b"moorage " * 300 for _ in range(400))


def packed(kind: Compression, cuts: Sequence[int]) -> bytes:
    stream = compressor(kind)
    ends = sorted({*cuts, len(DATA)})
    pieces = [DATA[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
    return b"".join(map(stream.compress, pieces)) + stream.flush()


WHOLE = {kind: packed(kind, []) for kind in MEDIA_TYPES}


@pytest.mark.parametrize("kind", MEDIA_TYPES)
@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(0, len(DATA)), max_size=30))
def test_the_same_bytes_whatever_pieces_they_come_in(kind: Compression, cuts: list[int]) -> None:
    assert packed(kind, cuts) == WHOLE[kind]


def test_they_can_be_read_again() -> None:
    assert gzip.decompress(WHOLE["gzip"]) == DATA
    assert zstandard.ZstdDecompressor().decompressobj().decompress(WHOLE["zstd"]) == DATA
    assert WHOLE["none"] == DATA
    assert gzip.decompress(compressor("gzip").flush()) == b""
