"""The instance's own nftables table: built, changed by elements, watched and restored. No other table is touched."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable

from moorage.server.errors import Internal, MoorageError
from moorage.server.networkdriver import rules
from moorage.server.networkdriver.nftables import Nftables
from moorage.server.networkdriver.rules import Forwarding, NetworkRules


class Firewall:
    """Thread-safe. What should be there is in memory; each change is one transaction of the kernel."""

    def __init__(self, nft: Nftables, table: str) -> None:
        self._nft = nft
        self._table = table
        self._lock = threading.Lock()
        self._networks: dict[str, NetworkRules] = {}
        self._ports: dict[tuple[str, str], Forwarding] = {}
        self._structure = ""
        self._generation: int | None = None
        """The ruleset's generation when the table was last known to be right."""

    def reset(self, networks: dict[str, NetworkRules], ports: Iterable[Forwarding]) -> None:
        """Build the table from nothing but these networks, by ID, and published ports."""
        with self._lock:
            self._networks = dict(networks)
            self._ports = {(port.map, port.key): port for port in ports}
            self._build()

    def add_network(self, network_id: str, network: NetworkRules) -> None:
        """Let a network in; rebuilds the table in one transaction, which no packet notices."""
        with self._lock:
            before = dict(self._networks)
            self._networks[network_id] = network
            try:
                self._build()
            except Exception:
                self._networks = before
                raise

    def remove_network(self, network_id: str) -> None:
        """Forget a network; an unknown one is fine."""
        with self._lock:
            if self._networks.pop(network_id, None) is not None:
                self._build()

    def publish(self, ports: Iterable[Forwarding]) -> None:
        """Add published ports, all or none."""
        added = {(port.map, port.key): port for port in ports}
        if not added:
            return
        with self._lock:
            self._ports.update(added)
            try:
                self._change(rules.add_text(self._table, added.values()))
            except Exception:
                for key in added:
                    del self._ports[key]
                raise

    def withdraw(self, ports: Iterable[Forwarding]) -> list[Forwarding]:
        """Take published ports out, each only if it still leads where it says, and answer which; missing is fine."""
        with self._lock:
            gone = [port for port in ports if self._ports.get((port.map, port.key)) == port]
            for port in gone:
                del self._ports[(port.map, port.key)]
            if gone:
                self._change(rules.delete_text(self._table, gone))
            return gone

    def leading_to(self, addresses: Collection[str]) -> list[Forwarding]:
        """The published ports of the containers with these addresses."""
        with self._lock:
            return [port for port in self._ports.values() if port.address in addresses]

    def check(self) -> bool:
        """Restore the table if somebody changed or flushed it; answer whether that was so.

        Costs one netlink message (some 30 µs) while nobody changes any table of the host.
        """
        with self._lock:
            generation = self._nft.generation()
            if generation == self._generation:
                return False
            if self._intact():
                self._generation = generation
                return False
            self._build()
            return True

    def obstacle(self) -> str:
        """Why rules cannot be made, empty when the kernel answers for them."""
        try:
            self._nft.generation()
        except (MoorageError, OSError) as error:
            return f"nftables does not answer: {error}"
        return ""

    def delete(self) -> None:
        """Delete the table; missing is fine."""
        with self._lock:
            self._nft.run(f"add table inet {self._table}\ndelete table inet {self._table}\n")
            self._networks, self._ports, self._generation = {}, {}, None

    def _build(self) -> None:
        self._commit(
            rules.table_text(self._table, self._networks.values(), self._ports.values()), self._nft.generation()
        )
        self._structure = rules.without_elements(self._listing())

    def _change(self, commands: str) -> None:
        """Change elements; where that fails because somebody changed the table, rebuild it with the change in it."""
        try:
            self._commit(commands, self._generation)
        except Internal:
            if not self._intact():
                self._build()

    def _commit(self, commands: str, before: int | None) -> None:
        self._nft.run(commands)
        # One commit of ours raises the generation by one. More than that, and somebody else's came between: the next check must look.
        now = self._nft.generation()
        self._generation = now if before is not None and now == before + 1 else None

    def _intact(self) -> bool:
        try:
            listing = self._listing()
        except Internal:
            return False
        expected = rules.collections(self._networks.values(), self._ports.values())
        listed = rules.listed_elements(listing)
        same_elements = all(listed.get(item.name) == item.elements for item in expected)
        return same_elements and rules.without_elements(listing) == self._structure

    def _listing(self) -> str:
        return self._nft.run(f"list table inet {self._table}")
