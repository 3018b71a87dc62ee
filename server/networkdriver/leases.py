"""Leases: the addresses and host ports that containers hold, in the GraphDB.

Edges `address` "<network id>/<ip>" and `port` "tcp/0.0.0.0/8080" lead to the container's ID. What is free is worked out in memory under
one lock; a lease counts once its transaction is committed.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from typing import Any, Protocol

from moorage.server.errors import NotFound
from moorage.server.model import Endpoint, Network, PortMapping
from moorage.server.networkdriver.ipam import AddressPool
from moorage.server.networkdriver.ports import HostPort, PortAllocator

NETWORK = "network"
NETWORK_NAME = "network-name"
ADDRESS = "address"
PORT = "port"


class Transaction(Protocol):
    """What is used of a transaction of the GraphDB."""

    def link(self, edge: str, name: str, target: str, source: str = "") -> None: ...
    def unlink(self, edge: str, name: str) -> None: ...
    def lookup(self, edge: str, name: str) -> str | None: ...
    def names(self, edge: str, target: str) -> list[str]: ...
    def put(self, kind: str, id: str, value: object) -> None: ...
    def delete(self, kind: str, id: str) -> None: ...


class Store(Protocol):
    """What is used of the GraphDB."""

    def transaction(self) -> AbstractContextManager[Transaction]: ...
    def edges(self, edge: str) -> dict[str, str]: ...
    def lookup(self, edge: str, name: str) -> str | None: ...
    def names(self, edge: str, target: str) -> list[str]: ...
    def all(self, kind: str, type: type[Any]) -> list[Any]: ...
    def get(self, kind: str, id: str, type: type[Any]) -> Any: ...


@dataclass(frozen=True)
class Lease:
    """What a container was given: its address with the prefix length of the network, and its ports with none left open."""

    address: IPv4Interface
    ports: tuple[PortMapping, ...]


class Leases:
    """Thread-safe."""

    def __init__(self, store: Store, allocator: PortAllocator | None = None) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._pools: dict[str, AddressPool] = {}
        self._ports = PortAllocator() if allocator is None else allocator
        for name, owner in store.edges(PORT).items():
            self._ports.table.take(HostPort.parse(name), owner)

    def add_network(self, network: Network) -> None:
        """Know a network, and what is leased in it; a known one is fine."""
        gateway = IPv4Address(network.gateway)
        with self._lock:
            if network.id in self._pools:
                return
            pool = AddressPool(IPv4Interface(network.subnet).network, [gateway])
            for name in self._store.edges(ADDRESS):
                network_id, address = _parse_address(name)
                if network_id == network.id:
                    pool.claim(address)
            self._pools[network.id] = pool

    def remove_network(self, network_id: str) -> None:
        with self._lock:
            self._pools.pop(network_id, None)

    def used(self, network_id: str) -> int:
        """How many addresses of a network are leased."""
        with self._lock:
            pool = self._pools.get(network_id)
            return len(pool) if pool else 0

    def addresses(self, network_id: str, container_id: str) -> list[str]:
        """The addresses that a container holds in a network."""
        held = map(_parse_address, self._store.names(ADDRESS, container_id))
        return [str(address) for held_in, address in held if held_in == network_id]

    def take(self, network: Network, container_id: str, ports: Iterable[PortMapping]) -> Lease:
        """Lease an address and ports, all or nothing. Raises ResourceExhausted, AlreadyExists, InvalidArgument."""
        with ExitStack() as undo:
            with self._lock:
                pool = self._pool(network)
                given = self._ports.take(ports, container_id)
                undo.callback(self._give_back, network.id, None, given, container_id)
                address = pool.take()
                undo.callback(self._give_back, network.id, address, (), container_id)
            with self._store.transaction() as tx:
                tx.link(ADDRESS, f"{network.id}/{address}", container_id, network.id)
                for mapping in given:
                    tx.link(PORT, str(HostPort.of(mapping)), container_id)
            undo.pop_all()
        return Lease(IPv4Interface((address, pool.subnet.prefixlen)), given)

    def release(self, network_id: str, container_id: str) -> None:
        """Give back all a container holds in a network, and its ports; nothing held is fine."""
        addresses = [f"{network_id}/{address}" for address in self.addresses(network_id, container_id)]
        ports = self._store.names(PORT, container_id)
        if not addresses and not ports:
            return
        self._unlink(
            {(ADDRESS, name): container_id for name in addresses} | {(PORT, name): container_id for name in ports}
        )

    def reconcile(self, networks: Iterable[Network], live: Mapping[str, Endpoint]) -> int:
        """Make the leases those of the `live` endpoints; answer how many others were released."""
        ids = {network.id for network in networks}
        wanted: dict[tuple[str, str], str] = {}
        for container_id, endpoint in live.items():
            if endpoint.network_id in ids and endpoint.address:
                ip = IPv4Interface(endpoint.address).ip
                wanted[(ADDRESS, f"{endpoint.network_id}/{ip}")] = container_id
                wanted |= {(PORT, str(HostPort.of(mapping))): container_id for mapping in endpoint.ports}
        held = {(edge, name): owner for edge in (ADDRESS, PORT) for name, owner in self._store.edges(edge).items()}
        stale = {key: owner for key, owner in held.items() if wanted.get(key) != owner}
        self._unlink(stale)
        self._restore({key: owner for key, owner in wanted.items() if held.get(key) != owner})
        return len(stale)

    def _unlink(self, leases: Mapping[tuple[str, str], str]) -> None:
        """Release leases, each only while its container still holds it."""
        if not leases:
            return
        with self._store.transaction() as tx:
            held = {key: owner for key, owner in leases.items() if tx.lookup(*key) == owner}
            for edge, name in held:
                tx.unlink(edge, name)
        with self._lock:
            for (edge, name), owner in held.items():
                if edge == PORT:
                    self._ports.table.release(HostPort.parse(name), owner)
                else:
                    self._give_back_address(*_parse_address(name))

    def _restore(self, leases: Mapping[tuple[str, str], str]) -> None:
        if not leases:
            return
        with self._store.transaction() as tx:
            for (edge, name), owner in leases.items():
                tx.link(edge, name, owner, name.partition("/")[0] if edge == ADDRESS else "")
        with self._lock:
            for (edge, name), owner in leases.items():
                if edge == PORT:
                    self._ports.table.take(HostPort.parse(name), owner)
                else:
                    network_id, address = _parse_address(name)
                    self._pools[network_id].claim(address)

    def _pool(self, network: Network) -> AddressPool:
        try:
            return self._pools[network.id]
        except KeyError:
            raise NotFound(f'network "{network.name}" does not exist', network=network.id) from None

    def _give_back(
        self, network_id: str, address: IPv4Address | None, ports: tuple[PortMapping, ...], container_id: str
    ) -> None:
        with self._lock:
            self._ports.release(ports, container_id)
            if address is not None:
                self._give_back_address(network_id, address)

    def _give_back_address(self, network_id: str, address: IPv4Address) -> None:
        pool = self._pools.get(network_id)
        if pool is not None:
            pool.release(address)


def _parse_address(name: str) -> tuple[str, IPv4Address]:
    network_id, _, address = name.partition("/")
    return network_id, IPv4Address(address)
