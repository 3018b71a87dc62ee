"""The drivers that do nothing: `host` (the host's own network namespace) and `none` (a namespace with a loopback only)."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable
from typing import Literal

from moorage.server.errors import AlreadyExists, FailedPrecondition, InvalidArgument
from moorage.server.model import Endpoint, Network, PortMapping
from moorage.server.networkdriver.base import Attachment
from moorage.server.networkdriver.leases import NETWORK, NETWORK_NAME, Store


class PassiveDriver:
    """See `base.NetworkDriver`. There is one network of each, called as the driver. Ports are not published and not leased."""

    def __init__(self, store: Store, name: Literal["host", "none"]) -> None:
        self.name: str = name
        self._driver = name
        self._store = store

    def create_network(
        self, name: str, *, subnet: str, gateway: str, internal: bool, labels: dict[str, str]
    ) -> Network:
        """Raises AlreadyExists when it is there already, InvalidArgument for another name or for addresses."""
        if name != self.name:
            raise InvalidArgument(f'cannot make network "{name}": there is one network of driver {self.name} only')
        if subnet or gateway or internal:
            raise InvalidArgument(f'network "{name}" takes no subnet, gateway or internal: it has no addresses')
        if self._store.lookup(NETWORK_NAME, name):
            raise AlreadyExists(f'network "{name}" exists', reason="NAME_IN_USE", network=name)
        network = Network(secrets.token_hex(32), name, self._driver, time.time_ns(), labels=labels)
        with self._store.transaction() as tx:
            tx.link(NETWORK_NAME, name, network.id)
            tx.put(NETWORK, network.id, network)
        return network

    def remove_network(self, network: Network) -> None:
        """Raises FailedPrecondition: it is always there."""
        raise FailedPrecondition(f'cannot remove network "{network.name}": it is built in', network=network.name)

    def attach(
        self,
        network: Network,
        container_id: str,
        netns_pid: Callable[[], int],
        ports: Iterable[PortMapping],
        stage: Callable[[str], None],
    ) -> Attachment:
        """Answers an endpoint without address and interface."""
        return Attachment(Endpoint(network.name, network.id, interface=""))

    def detach(self, network: Network, container_id: str, endpoint: Endpoint | None) -> None:
        """Nothing was made, nothing is undone."""

    def reconcile(self, networks: Iterable[Network], live: dict[str, Endpoint]) -> int:
        return 0

    def check(self) -> bool:
        """Nothing is kept on the host."""
        return False

    def obstacle(self) -> str:
        """There is nothing to attach."""
        return ""

    def destroy(self) -> None:
        """Nothing is kept on the host."""
