"""The firewall as data: sets, maps and chains of one nftables table, and the text that `nft -f` reads.

What the rules do, in the order a packet meets them (nft(8), "address families" and "standard priority names"):

- `loopback` (before connection tracking): 127.0.0.0/8 never comes in from a wire. The bridges need `route_localnet` for ports published
  on 127.0.0.1, and that alone would open the host's loopback services to containers and neighbours (the class of CVE-2020-8558).
  Containers cannot send with an address the host would not route back to them.
- `inbound`, `local`: published ports lead to their container, for packets that arrive and for those of the host itself.
- `forward`: outside → container only where a published port led there or the container began; networks do not reach one another;
  `internal` networks reach nothing else.
- `outbound`: a container goes out with the host's address; a client keeps its own, but for two cases where the answer would not come
  back through the host: a client of the same network, and the host's own 127.0.0.1.

`accept` here ends only this table's verdict: an administrator's `drop` in a table of their own, at any priority, still counts.
The rules are the same however many networks and ports there are: those are elements of sets and maps.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

ANY = "0.0.0.0"


@dataclass(frozen=True)
class NetworkRules:
    """What the rules must know of a network."""

    bridge: str
    subnet: str
    internal: bool = False


@dataclass(frozen=True)
class Forwarding:
    """A published port: from the host's `host_ip` (0.0.0.0 for all of its addresses) to a container."""

    protocol: str
    host_ip: str
    host_port: int
    address: str
    port: int

    @property
    def map(self) -> str:
        return "published_any" if self.host_ip == ANY else "published"

    @property
    def key(self) -> str:
        port = f"{self.protocol} . {self.host_port}"
        return port if self.host_ip == ANY else f"{self.host_ip} . {port}"

    @property
    def element(self) -> str:
        return f"{self.key} : {self.address} . {self.port}"


@dataclass(frozen=True)
class Collection:
    """A set or map of the table, with its elements."""

    kind: str
    name: str
    type: str
    interval: bool = False
    elements: frozenset[str] = field(default=frozenset())

    def text(self) -> str:
        lines = [f"type {self.type}"]
        if self.interval:
            lines.append("flags interval")
        if self.elements:
            lines.append(f"elements = {{ {', '.join(sorted(self.elements))} }}")
        return _block(f"{self.kind} {self.name}", lines)


@dataclass(frozen=True)
class Chain:
    """A chain of the table at a hook."""

    name: str
    hook: str
    rules: tuple[str, ...]

    def text(self) -> str:
        return _block(f"chain {self.name}", [f"type {self.hook}; policy accept;", *self.rules])


CHAINS = (
    Chain(
        "loopback",
        "filter hook prerouting priority raw",
        (
            'iifname != "lo" ip daddr 127.0.0.0/8 drop',
            'iifname != "lo" ip saddr 127.0.0.0/8 drop',
            "iifname @bridges meta nfproto ipv4 fib saddr . iif oif missing drop",
        ),
    ),
    Chain(
        "inbound",
        "nat hook prerouting priority dstnat",
        (
            "dnat ip to ip daddr . meta l4proto . th dport map @published",
            "fib daddr type local dnat ip to meta l4proto . th dport map @published_any",
        ),
    ),
    Chain(
        "local",
        "nat hook output priority -100",
        (
            "dnat ip to ip daddr . meta l4proto . th dport map @published",
            "fib daddr type local dnat ip to meta l4proto . th dport map @published_any",
        ),
    ),
    Chain(
        "forward",
        "filter hook forward priority filter",
        (
            "ct state established,related accept",
            "iifname . oifname @same accept",
            "iifname @internal drop",
            "oifname @internal drop",
            "oifname @bridges ct status dnat accept",
            "oifname @bridges drop",
        ),
    ),
    Chain(
        "outbound",
        "nat hook postrouting priority srcnat",
        (
            "ct status dnat ip saddr . ip daddr @neighbours masquerade",
            "ip saddr 127.0.0.0/8 oifname @bridges masquerade",
            "ip saddr @translated oifname != @bridges masquerade",
        ),
    ),
)


def collections(networks: Iterable[NetworkRules], ports: Iterable[Forwarding]) -> tuple[Collection, ...]:
    """The sets and maps with what these networks and ports put into them."""
    known = list(networks)
    published: dict[str, set[str]] = {"published": set(), "published_any": set()}
    for port in ports:
        published[port.map].add(port.element)
    return (
        _set("bridges", "ifname", {_quoted(network.bridge) for network in known}),
        _set("internal", "ifname", {_quoted(network.bridge) for network in known if network.internal}),
        _set(
            "same", "ifname . ifname", {f"{_quoted(network.bridge)} . {_quoted(network.bridge)}" for network in known}
        ),
        _set("translated", "ipv4_addr", {network.subnet for network in known if not network.internal}, interval=True),
        _set(
            "neighbours",
            "ipv4_addr . ipv4_addr",
            {f"{network.subnet} . {network.subnet}" for network in known},
            interval=True,
        ),
        Collection(
            "map",
            "published",
            "ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service",
            elements=frozenset(published["published"]),
        ),
        Collection(
            "map",
            "published_any",
            "inet_proto . inet_service : ipv4_addr . inet_service",
            elements=frozenset(published["published_any"]),
        ),
    )


def table_text(table: str, networks: Iterable[NetworkRules], ports: Iterable[Forwarding]) -> str:
    """One transaction that replaces the table: made if missing so that the deletion finds it, deleted, and built."""
    parts = [item.text() for item in collections(networks, ports)] + [chain.text() for chain in CHAINS]
    return f"add table inet {table}\ndelete table inet {table}\n" + _block(f"table inet {table}", parts)


def add_text(table: str, ports: Iterable[Forwarding]) -> str:
    """One transaction that adds published ports."""
    return "".join(f"add element inet {table} {port.map} {{ {port.element} }}\n" for port in ports)


def delete_text(table: str, ports: Iterable[Forwarding]) -> str:
    """One transaction that deletes published ports."""
    return "".join(f"delete element inet {table} {port.map} {{ {port.key} }}\n" for port in ports)


_COLLECTION = re.compile(r"^\s*(?:set|map) (\S+) \{$(.*?)^\s*\}$", re.MULTILINE | re.DOTALL)
_ELEMENTS = re.compile(r"\s*elements = \{(.*?)\}", re.DOTALL)


def listed_elements(listing: str) -> dict[str, frozenset[str]]:
    """The elements of every set and map, by its name, in what `nft list table` says."""
    found = {}
    for name, body in _COLLECTION.findall(listing):
        match = _ELEMENTS.search(body)
        parts = match.group(1).split(",") if match else []
        found[name] = frozenset(" ".join(part.split()) for part in parts)
    return found


def without_elements(listing: str) -> str:
    """What `nft list table` says apart from the elements: sets, maps, chains and rules."""
    return _ELEMENTS.sub("", listing)


def _set(name: str, type: str, elements: set[str], *, interval: bool = False) -> Collection:
    return Collection("set", name, type, interval, frozenset(elements))


def _quoted(name: str) -> str:
    return f'"{name}"'


def _block(head: str, lines: Iterable[str]) -> str:
    body = "\n".join(lines)
    indented = "\n".join(f"\t{line}" for line in body.splitlines())
    return f"{head} {{\n{indented}\n}}\n"
