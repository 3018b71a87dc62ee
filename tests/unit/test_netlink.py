"""Netlink messages, and what of the kernel's answers needs no root."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage.server.errors import FailedPrecondition
from moorage.server.networkdriver import counters, links, nftables
from moorage.server.networkdriver.netlink import Netlink, attribute, attributes, nested


@given(st.dictionaries(st.integers(1, 0x3FFF), st.binary(max_size=40)))
def test_attributes_read_back(values: dict[int, bytes]) -> None:
    data = b"".join(attribute(kind, value) for kind, value in values.items())
    assert len(data) % 4 == 0 and attributes(data) == values
    assert attributes(attributes(nested(7, data))[7]) == values


@given(st.binary(max_size=60))
def test_any_bytes_are_read(data: bytes) -> None:
    assert all(len(value) <= len(data) for value in attributes(data).values())


def test_loopback_is_found_and_nothing_else_by_a_name_not_there() -> None:
    sock = Netlink()
    try:
        found = links.link(sock, "lo")
        assert found is not None and found in links.links(sock)
        assert links.link(sock, "mvethmissing") is None
        with pytest.raises(OSError) as raised:
            links.index_of(sock, "mvethmissing")
        assert raised.value.errno == errno.ENODEV
    finally:
        sock.close()


def test_addresses_and_routes_are_read() -> None:
    sock = Netlink()
    try:
        assert "127.0.0.0/8" in map(str, links.addresses(sock))
        assert all(route.prefixlen for route in links.routes(sock))
        assert links.default_mtu(sock) >= 68
    finally:
        sock.close()


DEVICES = """\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0
mveth0123456789:1000      10    1    0    0     0          0         0     2000      20    2    0    0     0       0          0
"""


def test_counters_are_swapped(tmp_path: Path) -> None:
    file = tmp_path / "dev"
    file.write_text(DEVICES)
    assert counters.read_counters(file)["mveth0123456789"] == counters.Counters(2000, 20, 2, 1000, 10, 1)


def test_missing_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nftables, "LIBRARY", "libmoorage-missing.so.1")
    nftables._library.cache_clear()
    try:
        with pytest.raises(FailedPrecondition, match=r"cannot load libmoorage-missing\.so\.1") as raised:
            nftables.LibNftables()
        assert "install nftables" in raised.value.hint
    finally:
        nftables._library.cache_clear()
