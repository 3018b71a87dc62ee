"""The interface of a network driver: puts a pod's network namespace into a network, and takes it out again.

`attach` does all that is done on the host (lease, link, firewall); what is left to do inside the namespace is answered as data
(`Attachment.interfaces`) and done there by the pod's supervisor, which needs no netlink for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from moorage.server.model import Endpoint, Network, PortMapping


@dataclass(frozen=True)
class InterfaceConfig:
    """What the supervisor sets up inside the namespace: the interface exists there already, down and without address."""

    name: str
    address: str
    """With prefix length: `10.210.0.2/20`."""
    gateway: str
    """Default gateway; empty for none."""
    mtu: int


@dataclass(frozen=True)
class Attachment:
    """What `attach` made: the endpoint to remember, and what is left to do inside the namespace."""

    endpoint: Endpoint
    interfaces: tuple[InterfaceConfig, ...] = ()


class NetworkDriver(Protocol):
    """One kind of network. Thread-safe; the caller serialises work on one container."""

    name: str

    def create_network(
        self, name: str, *, subnet: str, gateway: str, internal: bool, labels: dict[str, str]
    ) -> Network:
        """Choose what was left open, make the network on the host and in the GraphDB, all or nothing."""
        ...

    def remove_network(self, network: Network) -> None:
        """Undo `create_network`; half made or missing is fine."""
        ...

    def attach(
        self,
        network: Network,
        container_id: str,
        netns_pid: Callable[[], int],
        ports: Iterable[PortMapping],
        stage: Callable[[str], None],
    ) -> Attachment:
        """Put the network namespace of a process into `network`, all or nothing; `netns_pid` waits for it, where it has to be there."""
        ...

    def detach(self, network: Network, container_id: str, endpoint: Endpoint | None) -> None:
        """Take a container out: firewall, link, lease. Partly there or missing is fine; the namespace may be gone."""
        ...

    def reconcile(self, networks: Iterable[Network], live: dict[str, Endpoint]) -> int:
        """At start: make the host match `networks` and the endpoints of the `live` containers; release what is of this instance and of
        neither; answer how many things were released."""
        ...

    def destroy(self) -> None:
        """Remove from the host all that the driver keeps there for its networks; the GraphDB stays, and `reconcile` makes it again."""
        ...

    def check(self) -> bool:
        """Whether what the driver keeps on the host had gone (somebody flushed the rules) and has been put back. Cheap; called often."""
        ...

    def obstacle(self) -> str:
        """Why nothing can be attached now, empty when it can. Cheap: asked by a kubelet every few seconds."""
        ...
