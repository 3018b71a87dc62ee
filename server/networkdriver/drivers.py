"""The table of network drivers, and the networks that are always there."""

from __future__ import annotations

from collections.abc import Mapping

from moorage.server.errors import Unimplemented
from moorage.server.model import Network
from moorage.server.networkdriver.base import NetworkDriver
from moorage.server.networkdriver.leases import NETWORK, NETWORK_NAME, Store
from moorage.server.networkdriver.passive import PassiveDriver

BUILT_IN = ("bridge", "host", "none")
"""Networks that every daemon has; each is of the driver of its name."""


def table(store: Store, bridge: NetworkDriver) -> dict[str, NetworkDriver]:
    """All drivers by name."""
    return {"bridge": bridge, "host": PassiveDriver(store, "host"), "none": PassiveDriver(store, "none")}


def choose(drivers: Mapping[str, NetworkDriver], network: Network) -> NetworkDriver:
    """The driver of a network. Raises Unimplemented."""
    try:
        return drivers[network.driver]
    except KeyError:
        raise Unimplemented(f'network "{network.name}" is of driver "{network.driver}", which is not there') from None


def ensure_defaults(store: Store, drivers: Mapping[str, NetworkDriver]) -> list[Network]:
    """Make those built-in networks that are missing, and answer all three."""
    for name in BUILT_IN:
        if store.lookup(NETWORK_NAME, name) is None:
            drivers[name].create_network(name, subnet="", gateway="", internal=False, labels={})
    return [network for network in store.all(NETWORK, Network) if network.name in BUILT_IN]
