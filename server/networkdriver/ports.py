"""Host ports: who holds which, which are free, and whether a process of the host listens there."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from moorage.server.errors import AlreadyExists, Internal, InvalidArgument, ResourceExhausted
from moorage.server.model import PortMapping

ANY = "0.0.0.0"
DYNAMIC = range(49153, 65536)
LOCAL_PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")

_SOCKET_TYPES = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


@dataclass(frozen=True)
class HostPort:
    """A port of the host. Its text, `tcp/0.0.0.0/8080`, is its name in the GraphDB."""

    protocol: str
    address: str
    port: int

    def __str__(self) -> str:
        return f"{self.protocol}/{self.address}/{self.port}"

    @staticmethod
    def parse(text: str) -> HostPort:
        protocol, address, port = text.split("/")
        return HostPort(protocol, address, int(port))

    @staticmethod
    def of(mapping: PortMapping) -> HostPort:
        return HostPort(mapping.protocol, mapping.host_ip or ANY, mapping.host_port)


class PortTable:
    """Which container holds which port, pure. A port of all addresses and the same port of one address exclude each other."""

    def __init__(self) -> None:
        self._holders: dict[tuple[str, int], dict[str, str]] = {}

    def holder(self, wanted: HostPort) -> str:
        """The ID of a container that holds the port or part of it; empty when it is free."""
        held = self._holders.get((wanted.protocol, wanted.port), {})
        if wanted.address == ANY:
            return next(iter(held.values()), "")
        return held.get(wanted.address, "") or held.get(ANY, "")

    def take(self, port: HostPort, owner: str) -> None:
        """Give a port to a container. Raises AlreadyExists when it is held."""
        holder = self.holder(port)
        if holder:
            raise AlreadyExists(
                f"port {port.address}:{port.port}/{port.protocol} is in use by container {holder}",
                reason="PORT_IN_USE",
                hint="choose another host port, or leave it out to have one chosen",
                port=port,
                container=holder,
            )
        self._holders.setdefault((port.protocol, port.port), {})[port.address] = owner

    def release(self, port: HostPort, owner: str) -> None:
        """Take a port back, if `owner` holds it."""
        key = (port.protocol, port.port)
        held = self._holders.get(key, {})
        if held.get(port.address) == owner:
            del held[port.address]
            if not held:
                del self._holders[key]


class PortAllocator:
    """Gives out ports of the host. Not thread-safe."""

    def __init__(self, candidates: Sequence[int] | None = None) -> None:
        """`candidates`: the ports to choose from, best first, where none is asked for."""
        self.table = PortTable()
        self._candidates = dynamic_ports() if candidates is None else candidates
        self._cursor = 0

    def take(self, mappings: Iterable[PortMapping], owner: str) -> tuple[PortMapping, ...]:
        """Give `owner` the ports it asks for, and choose those left open, all or nothing.

        Raises AlreadyExists (naming who holds the port), InvalidArgument, ResourceExhausted.
        """
        taken = []
        with ExitStack() as undo:
            for mapping in mappings:
                check_mapping(mapping)
                found = self._take_one(mapping, owner)
                undo.callback(self.table.release, HostPort.of(found), owner)
                taken.append(found)
            undo.pop_all()
        return tuple(taken)

    def release(self, mappings: Iterable[PortMapping], owner: str) -> None:
        """Take back those of these ports which `owner` holds."""
        for mapping in mappings:
            self.table.release(HostPort.of(mapping), owner)

    def _take_one(self, mapping: PortMapping, owner: str) -> PortMapping:
        mapping = replace(mapping, host_ip=mapping.host_ip or ANY)
        if not mapping.host_port:
            mapping = replace(mapping, host_port=self._choose(mapping))
            self.table.take(HostPort.of(mapping), owner)
            return mapping
        port = HostPort.of(mapping)
        self.table.take(port, owner)
        try:
            check_unbound(port)
        except Exception:
            self.table.release(port, owner)
            raise
        return mapping

    def _choose(self, mapping: PortMapping) -> int:
        count = len(self._candidates)
        for step in range(count):
            place = (self._cursor + step) % count
            candidate = HostPort(mapping.protocol, mapping.host_ip, self._candidates[place])
            if not self.table.holder(candidate) and not is_bound(candidate):
                self._cursor = (place + 1) % count
                return candidate.port
        raise ResourceExhausted(
            f"no {mapping.protocol} port is free on {mapping.host_ip}: all {count} dynamic ports are in use",
            hint="remove containers with published ports, or name host ports",
        )


def dynamic_ports(path: Path = LOCAL_PORT_RANGE) -> list[int]:
    """The dynamic ports (RFC 6335: 49152 and up), those first that the kernel does not give to the host's own connections."""
    low, high = (int(number) for number in path.read_text().split())
    return sorted(DYNAMIC, key=lambda port: low <= port <= high)


def check_mapping(mapping: PortMapping) -> None:
    """Raise InvalidArgument for what is no port, no protocol or no IPv4 address."""
    if mapping.protocol not in _SOCKET_TYPES:
        raise InvalidArgument(f'protocol "{mapping.protocol}" cannot be published: only tcp and udp can')
    if not 1 <= mapping.container_port <= 65535:
        raise InvalidArgument(f"container port {mapping.container_port} is not between 1 and 65535")
    if not 0 <= mapping.host_port <= 65535:
        raise InvalidArgument(f"host port {mapping.host_port} is not between 1 and 65535")
    try:
        version = ipaddress.ip_address(mapping.host_ip or ANY).version
    except ValueError as error:
        raise InvalidArgument(f'host address "{mapping.host_ip}" is not valid: {error}') from error
    if version != 4:
        raise InvalidArgument(f'host address "{mapping.host_ip}" is of IPv6: ports are published on IPv4 only')


def is_bound(port: HostPort) -> bool:
    """Whether a process of the host has the port. Raises InvalidArgument when the address is not the host's.

    Asked with bind(2) and let go at once: a socket that holds the port would die with the daemon, the mapping does not. TCP is asked
    with SO_REUSEADDR, which conflicts with listeners but not with old connections in TIME_WAIT; with UDP it would conflict with nobody.
    """
    with socket.socket(socket.AF_INET, _SOCKET_TYPES[port.protocol] | socket.SOCK_CLOEXEC) as probe:
        if port.protocol == "tcp":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((port.address, port.port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return True
            where = f"{port.address}:{port.port}/{port.protocol}"
            if error.errno == errno.EADDRNOTAVAIL:
                raise InvalidArgument(f"cannot publish {where}: {port.address} is no address of this host") from error
            raise Internal(f"cannot publish {where}: {error.strerror}", errno=error.errno, stage="lease") from error
    return False


def check_unbound(port: HostPort) -> None:
    """Raise AlreadyExists when a process of the host has the port."""
    if is_bound(port):
        raise AlreadyExists(
            f"port {port.address}:{port.port}/{port.protocol} is in use by a process of the host",
            reason="PORT_IN_USE",
            hint=f"`ss -lnp 'sport = :{port.port}'` shows the process",
            port=port,
        )
