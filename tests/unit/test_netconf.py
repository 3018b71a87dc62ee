"""Addresses for interfaces: what is none is refused before anything is set."""

from __future__ import annotations

import pytest

from moorage.server.supervisor import netconf


@pytest.mark.parametrize("address", ["", "10.0.0.1", "10.0.0.1/33", "10.0.0.1/-1", "10.0.1/8", "::1/8", "10.0.0.1/x"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError):
        netconf.configure({"name": "moorage-none", "address": address})


def test_what_is_no_gateway_is_refused() -> None:
    with pytest.raises(ValueError, match="'nowhere' is not an IPv4 address"):
        netconf.configure({"name": "moorage-none", "address": "10.0.0.1/8", "gateway": "nowhere"})
