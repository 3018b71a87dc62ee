"""The tar reader against archives made by `tarfile` and GNU tar, and against damaged ones."""

from __future__ import annotations

import io
import tarfile
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moorage.server.supervisor import tarstream
from moorage.server.supervisor.tarstream import TarError, TarStream, number, parse_records
from tests.archives import Archive, sparse_archive

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def read(data: bytes) -> list[tuple[tarstream.Entry, bytes]]:
    stream = TarStream(io.BufferedReader(io.BytesIO(data)))
    return [(entry, b"".join(stream.data())) for entry in stream]


COMPONENT = st.text(
    st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1, max_size=40
).filter(lambda name: name.strip(" ") == name)
NAME = st.lists(COMPONENT, min_size=1, max_size=8).map("/".join)


@st.composite
def members(draw: st.DrawFn, format: int) -> tuple[tarfile.TarInfo, bytes]:
    name = draw(NAME)
    if format == tarfile.USTAR_FORMAT:
        name = name.encode()[:60].decode(errors="ignore")
    info = tarfile.TarInfo(name or "x")
    info.type = draw(
        st.sampled_from(
            [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
        )
    )
    data = draw(st.binary(max_size=2000)) if info.type == tarfile.REGTYPE else b""
    large = 1 << 21 if format == tarfile.USTAR_FORMAT else 1 << 31
    info.size = len(data)
    info.mode = draw(st.integers(0, 0o7777))
    info.uid, info.gid = draw(st.integers(0, large - 1)), draw(st.integers(0, large - 1))
    info.mtime = draw(st.integers(0, 1 << 33 if format != tarfile.USTAR_FORMAT else 1 << 32))
    if info.type in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        info.linkname = draw(NAME)
        if format == tarfile.USTAR_FORMAT:
            info.linkname = info.linkname.encode()[:60].decode(errors="ignore")
    if info.type == tarfile.CHRTYPE:
        info.devmajor, info.devminor = draw(st.integers(0, 4095)), draw(st.integers(0, 1 << 20))
    if format == tarfile.PAX_FORMAT and draw(st.booleans()):
        info.pax_headers = {f"SCHILY.xattr.user.{draw(COMPONENT)}".replace("=", "."): draw(COMPONENT)}
    return info, data


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
@given(content=st.data())
@settings(max_examples=60, deadline=None)
def test_it_reads_what_tarfile_writes(format: int, content: st.DataObject) -> None:
    expected = content.draw(st.lists(members(format), max_size=6))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for info, data in expected:
            tar.addfile(info, io.BytesIO(data))
    found = read(buffer.getvalue())
    assert len(found) == len(expected)
    for (entry, data), (info, original) in zip(found, expected, strict=True):
        assert data == original
        assert entry.name.rstrip(b"/") == info.name.encode().rstrip(b"/")
        assert (entry.kind, entry.mode, entry.uid, entry.gid) == (info.type, info.mode, info.uid, info.gid)
        assert entry.mtime_ns == int(info.mtime) * 10**9
        assert entry.link == info.linkname.encode()
        assert (entry.major, entry.minor) == (info.devmajor, info.devminor)
        assert entry.real_size == entry.size == len(original)
        xattrs = {key[13:].encode(): value.encode() for key, value in info.pax_headers.items()}
        assert entry.xattrs == xattrs


@pytest.mark.parametrize(
    "options",
    [["--format=gnu"], *(["--format=posix", f"--sparse-version={version}"] for version in ("0.0", "0.1", "1.0"))],
    ids=["gnu", "pax-0.0", "pax-0.1", "pax-1.0"],
)
def test_sparse_maps_in_every_notation(options: list[str]) -> None:
    # More pieces than one header block can name.
    pieces = {piece << 17: b"%04d" % piece * 1024 for piece in range(0, 100, 2)}
    ((entry, data),) = read(sparse_archive("name", pieces, 100 << 17, *options))
    assert entry.name == b"name"
    assert entry.real_size == 100 << 17
    content, position = {}, 0
    for offset, length in entry.segments or ():
        content[offset] = data[position : position + length]
        position += length
    assert {offset: piece for offset, piece in content.items() if piece} == pieces


@given(st.binary(max_size=3000))
@settings(max_examples=200, deadline=None)
def test_garbage_is_an_error_or_nothing(data: bytes) -> None:
    try:
        read(data)
    except TarError as error:
        assert "offset" in str(error)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_a_flipped_byte_never_does_more_than_fail(content: st.DataObject) -> None:
    archive = bytearray(
        Archive().add("a" * 150, data=b"x" * 600, xattrs={"user.a": b"b"}).add("b", "symlink", to="c").bytes
    )
    archive[content.draw(st.integers(0, len(archive) - 1))] ^= 1 << content.draw(st.integers(0, 7))
    try:
        assert len(read(bytes(archive))) <= 2
    except TarError as error:
        assert "offset" in str(error)


@pytest.mark.parametrize("cut", [1, 511, 513, 1023, 1300, 2047])
def test_a_cut_archive_names_entry_and_offset(cut: int) -> None:
    archive = Archive(tarfile.GNU_FORMAT).add("first", data=b"x" * 1000).add("second", data=b"y" * 1000).bytes
    with pytest.raises(
        TarError, match=r'archive ends inside (the header at offset \d+|entry "first" at offset 0).*'
    ) as caught:
        read(archive[:cut])
    if 512 < cut < 1536:
        assert f"offset {cut}" in str(caught.value)


def test_an_extended_header_without_an_entry_is_damage() -> None:
    archive = Archive().add("n" * 300).bytes
    with pytest.raises(TarError, match="archive ends after an extended header at offset 0"):
        read(archive[:1024])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"0000644\0", 0o644),
        (b"   644 \0", 0o644),
        (b"644     ", 0o644),
        (b"\0" * 8, 0),
        (b"\x80\0\0\0\0\0\0\x01", 1),
        (b"\x80\0\0\x01\0\0\0\0\0\0\0\0", 1 << 64),
        (b"\xff" * 12, -1),
    ],
)
def test_numbers(text: bytes, value: int) -> None:
    assert number(text) == value


@pytest.mark.parametrize(
    "body",
    [
        b"10 path=xx",
        b"99 path=x\n",
        b"8 path=x\n",
        b"0 a=b\n",
        b"-6 a=b\n",
        b"x a=b\n",
        b"6 =ab\n",
        b"6 abc\n",
        b"999999999999999999999 a=b\n",
    ],
)
def test_damaged_records_are_errors(body: bytes) -> None:
    with pytest.raises(TarError, match="damaged extended header at offset 7"):
        parse_records(body, 7)


@pytest.mark.parametrize(
    ("pax", "message"),
    [
        ({"size": "-1"}, "is not a number"),
        ({"uid": "1e9"}, "is not a number"),
        ({"mtime": "1.2.3"}, "is not a time"),
        ({"GNU.sparse.map": "0,1,2", "GNU.sparse.size": "9"}, "damaged sparse map"),
        ({"GNU.sparse.map": "5,3,0,3", "GNU.sparse.size": "9"}, "damaged sparse map"),
        ({"GNU.sparse.map": "0,6", "GNU.sparse.size": "3"}, "does not fit its size"),
        ({"GNU.sparse.map": "0,3", "GNU.sparse.size": "9"}, "does not fit its size"),
        ({"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9"}, "damaged sparse map"),
        ({"GNU.sparse.map": ",".join(["0,0"] * 100_001), "GNU.sparse.size": "9"}, "more than 100000 segments"),
    ],
)
def test_damaged_extensions_are_errors(pax: dict[str, Any], message: str) -> None:
    with pytest.raises(TarError, match=message):
        read(Archive().add("f", data=b"123456", **pax).bytes)


def test_a_huge_extended_header_is_refused_before_it_is_read() -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 1 << 40
    with pytest.raises(TarError, match="at most 1048576 allowed"):
        read(info.tobuf(tarfile.GNU_FORMAT))


def test_unknown_kinds_are_refused() -> None:
    info = tarfile.TarInfo("x")
    info.type = b"M"
    with pytest.raises(TarError, match='entry "x" at offset 0 has unsupported type'):
        read(info.tobuf(tarfile.GNU_FORMAT))


def test_names_in_messages_are_printable_and_short() -> None:
    assert tarstream.printable(b"a\xff\n\x1b" + b"b" * 300) == "a\\xff\\n\\x1b" + "b" * (200 - 11) + "…"
