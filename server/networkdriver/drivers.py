"""The table of network drivers, and the networks that are always there."""

from __future__ import annotations

from collections.abc import Mapping

from moorage.server.errors import Unimplemented
from moorage.server.model import Network
from moorage.server.networkdriver.base import NetworkDriver
from moorage.server.networkdriver.leases import NETWORK, NETWORK_NAME, Store
from moorage.server.networkdriver.passive import PassiveDriver

BUILT_IN = ("bridge", "host", "none", "cni")
"""Networks that are made by the daemon itself, each of the driver of its name; `cni` where pods join it."""


def table(store: Store, bridge: NetworkDriver, *others: NetworkDriver) -> dict[str, NetworkDriver]:
    """All drivers by name."""
    passive = PassiveDriver(store, "host"), PassiveDriver(store, "none")
    return {driver.name: driver for driver in (bridge, *passive, *others)}


def choose(drivers: Mapping[str, NetworkDriver], network: Network) -> NetworkDriver:
    """The driver of a network. Raises Unimplemented."""
    try:
        return drivers[network.driver]
    except KeyError:
        raise Unimplemented(f'network "{network.name}" is of driver "{network.driver}", which is not there') from None


def ensure_defaults(store: Store, drivers: Mapping[str, NetworkDriver], pods: str = "bridge") -> list[Network]:
    """Make those built-in networks that are missing, and answer all that there are; `pods` is the one that pods join."""
    for name in BUILT_IN:
        if name == "cni" and pods != "cni":
            continue
        if store.lookup(NETWORK_NAME, name) is None:
            drivers[name].create_network(name, subnet="", gateway="", internal=False, labels={})
    return [network for network in store.all(NETWORK, Network) if network.name in BUILT_IN]
