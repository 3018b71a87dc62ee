"""Addresses for interfaces: what is none is refused before anything is set."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from moorage.server.libcontainer import interfaces


@pytest.fixture
def inet() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        yield sock


@pytest.mark.parametrize("address", ["", "10.0.0.1", "10.0.0.1/33", "10.0.0.1/-1", "10.0.1/8", "::1/8", "10.0.0.1/x"])
def test_what_is_no_address_is_refused(inet: socket.socket, address: str) -> None:
    with pytest.raises(ValueError):
        interfaces.configure(inet, {"name": "moorage-none", "address": address})


def test_what_is_no_gateway_is_refused(inet: socket.socket) -> None:
    with pytest.raises(ValueError, match="'nowhere' is not an IPv4 address"):
        interfaces.configure(inet, {"name": "moorage-none", "address": "10.0.0.1/8", "gateway": "nowhere"})
