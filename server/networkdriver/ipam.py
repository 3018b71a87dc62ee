"""Address management, pure: which subnet a network gets, and which address of it a container gets.

Nothing here touches the host or the GraphDB; `leases.py` makes it last.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from moorage.server.errors import FailedPrecondition, InvalidArgument, ResourceExhausted

DEFAULT_POOLS = (IPv4Network("10.210.0.0/16"), IPv4Network("10.211.0.0/16"), IPv4Network("172.30.0.0/16"))
"""Where subnets come from when none is asked for: 48 networks of 4,093 containers. Two ranges of different private blocks (RFC 1918),
so that a host with a route to all of 10.0.0.0/8 still has room."""
DEFAULT_PREFIX = 20
LONGEST_PREFIX = 29
UNROUTABLE = tuple(map(IPv4Network, ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4")))
"""RFC 6890: this network, loopback, link-local, multicast, reserved."""


class AddressPool:
    """The addresses of one subnet. Not thread-safe.

    The first address free after the one given out last: an address just released is the last to come back, so that neither a
    neighbour's ARP entry nor a connection of the container before meets the one after.
    """

    def __init__(self, subnet: IPv4Network, reserved: Iterable[IPv4Address] = ()) -> None:
        """`reserved` addresses are never given out, nor are those of the network and of broadcast."""
        self.subnet = subnet
        self._base = int(subnet.network_address)
        self._size = subnet.num_addresses
        self._reserved = {0, self._size - 1} | {int(address) - self._base for address in reserved}
        self._taken = set(self._reserved)
        self._cursor = 0

    def __len__(self) -> int:
        """How many addresses are given out."""
        return len(self._taken) - len(self._reserved)

    def take(self) -> IPv4Address:
        """Give out a free address. Raises ResourceExhausted."""
        if len(self._taken) >= self._size:
            raise ResourceExhausted(
                f"no address is free in {self.subnet}: {len(self)} are in use",
                hint="remove containers, or make a network with a larger subnet",
                subnet=self.subnet,
            )
        while self._cursor in self._taken:
            self._cursor = (self._cursor + 1) % self._size
        self._taken.add(self._cursor)
        address = IPv4Address(self._base + self._cursor)
        self._cursor = (self._cursor + 1) % self._size
        return address

    def claim(self, address: IPv4Address) -> bool:
        """Give out a certain address; False when it is given out or reserved, or of another subnet."""
        number = int(address) - self._base
        if number in self._taken or not 0 <= number < self._size:
            return False
        self._taken.add(number)
        return True

    def release(self, address: IPv4Address) -> None:
        """Take an address back; one that is not given out is fine."""
        number = int(address) - self._base
        if number not in self._reserved:
            self._taken.discard(number)


def choose_subnet(used: Iterable[IPv4Network], pools: Sequence[IPv4Network], prefix: int) -> IPv4Network:
    """The first subnet of `pools`, `prefix` bits long, that overlaps none in `used`. Raises ResourceExhausted."""
    busy = list(used)
    for pool in pools:
        for candidate in pool.subnets(new_prefix=max(prefix, pool.prefixlen)):
            if not any(candidate.overlaps(other) for other in busy):
                return candidate
    raise ResourceExhausted(
        f"no subnet is free in {', '.join(map(str, pools)) or 'the pools: there are none'}",
        hint="remove networks, name a subnet, or give the daemon more address pools",
    )


def check_free(subnet: IPv4Network, networks: Iterable[IPv4Network], host: Iterable[IPv4Network]) -> None:
    """Raise FailedPrecondition when `subnet` overlaps one of another network, or a route or address of the host."""
    for others, whose in ((networks, "the network of"), (host, "the host's route to")):
        for other in others:
            if subnet.overlaps(other):
                raise FailedPrecondition(
                    f"subnet {subnet} overlaps {whose} {other}", hint="name another subnet", subnet=subnet
                )


def parse_subnet(subnet: str) -> IPv4Network:
    """Read a subnet as a caller wrote it. Raises InvalidArgument."""
    try:
        parsed = ipaddress.ip_network(subnet)
    except ValueError as error:
        raise InvalidArgument(f'subnet "{subnet}" is not valid: {error}') from error
    if not isinstance(parsed, IPv4Network):
        raise InvalidArgument(f"subnet {subnet} is not valid: only IPv4 subnets are given to networks")
    if parsed.prefixlen > LONGEST_PREFIX or parsed.prefixlen < 8:
        raise InvalidArgument(f"subnet {subnet} is not valid: its prefix must be between 8 and {LONGEST_PREFIX} bits")
    if any(parsed.overlaps(other) for other in UNROUTABLE):
        raise InvalidArgument(f"subnet {subnet} is not valid: such addresses cannot be routed")
    return parsed


def gateway_of(subnet: IPv4Network, gateway: str) -> IPv4Interface:
    """The bridge's address in `subnet`: the one asked for, or the first. Raises InvalidArgument."""
    if not gateway:
        return IPv4Interface((subnet.network_address + 1, subnet.prefixlen))
    try:
        address = IPv4Address(gateway)
    except ValueError as error:
        raise InvalidArgument(f'gateway "{gateway}" is not valid: {error}') from error
    if address not in subnet or address in (subnet.network_address, subnet.broadcast_address):
        raise InvalidArgument(f"gateway {gateway} is not valid: not a host address of {subnet}")
    return IPv4Interface((address, subnet.prefixlen))
