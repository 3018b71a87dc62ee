"""The bridges of an instance: named, made, found again and removed. A network's bridge carries the network's ID in its alias, so that
what a crash left behind is known for ours."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network
from pathlib import Path

from moorage.server.errors import AlreadyExists, Internal
from moorage.server.model import Network
from moorage.server.networkdriver import ipam, links
from moorage.server.networkdriver.netlink import Netlink

SUBNET_LOCK = Path("/run/moorage-subnets.lock")
DEFAULT_INSTANCE = "moorage"
DEFAULT_NETWORK = "bridge"


@dataclass(frozen=True)
class Segment:
    """A bridge as it is on the host."""

    name: str
    index: int
    mtu: int


class Segments:
    """Makes and removes bridges. The caller serialises calls for one network."""

    def __init__(self, sock: Netlink, instance: str, lock: Path = SUBNET_LOCK) -> None:
        self._sock = sock
        self._instance = instance
        self._lock = lock

    def name_for(self, network_id: str, network_name: str) -> str:
        """The name of a network's bridge; an interface name has at most 15 bytes."""
        if network_name != DEFAULT_NETWORK:
            return f"moor{network_id[:6]}"
        return f"{DEFAULT_INSTANCE}0" if self._instance == DEFAULT_INSTANCE else self._instance[:15]

    def create(
        self, network_id: str, bridge: str, gateway: str, choose: Callable[[list[IPv4Network]], IPv4Network]
    ) -> IPv4Interface:
        """Have a subnet chosen, and make the bridge with its address; answer that address.

        `choose` is given the subnets of the host's routes and addresses. It and the making are under a lock of the whole host: once the
        bridge has its address, another daemon sees the subnet as taken.
        """
        with _locked(self._lock), _link_errors(f"cannot create bridge {bridge}"):
            subnet = choose(self.host_subnets(apart_from=bridge))
            address = ipam.gateway_of(subnet, gateway)
            self._make(network_id, bridge, address)
        return address

    def ensure(self, network: Network) -> Segment:
        """Make what is missing of a network's bridge: all of it after a reboot of the host."""
        address = ipam.gateway_of(IPv4Network(network.subnet), network.gateway)
        with _link_errors(f"cannot create bridge {network.bridge}"):
            found = links.link(self._sock, network.bridge)
            if found is None or found.kind != "bridge" or not found.up:
                self._make(network.id, network.bridge, address)
            elif not links.has_address(self._sock, found.index, address):
                links.add_address(self._sock, found.index, address)
        return self.find(network)

    def find(self, network: Network) -> Segment:
        """The bridge of a network as it is. Raises Internal when it is missing."""
        with _link_errors(f"cannot find bridge {network.bridge} of network {network.name}"):
            found = links.link(self._sock, network.bridge)
            if found is None:
                raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
            return Segment(found.name, found.index, found.mtu)

    def remove(self, bridge: str) -> None:
        """Delete a bridge; missing is fine."""
        with _link_errors(f"cannot delete bridge {bridge}"):
            links.delete(self._sock, bridge)

    def owned(self) -> dict[str, str]:
        """The bridges of this instance on the host: name to network ID."""
        with _link_errors("cannot list bridges"):
            found = links.links(self._sock)
        ours = {item.name: self._network_of(item) for item in found if item.kind == "bridge"}
        return {name: network_id for name, network_id in ours.items() if network_id}

    def ports(self, bridges: Iterable[int]) -> set[str]:
        """The names of the links on bridges, given by index."""
        indexes = set(bridges)
        with _link_errors("cannot list links"):
            return {item.name for item in links.links(self._sock) if item.master in indexes}

    def host_subnets(self, apart_from: str) -> list[IPv4Network]:
        """Where the host's addresses and routes lead, but for those of the link `apart_from`."""
        own = links.link(self._sock, apart_from)
        index = own.index if own else 0
        return links.addresses(self._sock, index) + links.routes(self._sock, index)

    def _make(self, network_id: str, bridge: str, address: IPv4Interface) -> None:
        left = links.link(self._sock, bridge)
        if left is not None:
            if left.kind != "bridge" or not self._network_of(left):
                raise AlreadyExists(
                    f"cannot create bridge {bridge}: a link of that name exists and is not of this daemon",
                    hint=f"`ip link delete {bridge}`, if nothing else uses it",
                    stage="link",
                )
            links.delete(self._sock, bridge)
        links.add_bridge(self._sock, bridge, self._alias(network_id), address, links.default_mtu(self._sock))

    def _alias(self, network_id: str) -> str:
        return f"{self._instance} network {network_id}"

    def _network_of(self, link: links.Link) -> str:
        prefix = self._alias("")
        return link.alias.removeprefix(prefix) if link.alias.startswith(prefix) else ""


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock file, which is gone again afterwards."""
    try:
        fd = _lock(path)
    except OSError as error:
        raise Internal(f"cannot lock {path}: {error.strerror}", stage="lease", path=path, errno=error.errno) from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(fd)


def _lock(path: Path) -> int:
    while True:
        fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
        # Who held it before has deleted the file: others lock a new one by now.
        if os.fstat(fd).st_nlink:
            return fd
        os.close(fd)


@contextmanager
def _link_errors(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Internal(f"{what}: {error.strerror}", stage="link", errno=error.errno) from error
