"""Setting up the interfaces of a network namespace by ioctl, see netdevice(7). No netlink is needed for one address."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Mapping
from typing import Any

from moorage.server.libcontainer import syscalls

SIOCADDRT = 0x890B
SIOCGIFFLAGS = 0x8913
SIOCSIFFLAGS = 0x8914
SIOCSIFADDR = 0x8916
SIOCSIFNETMASK = 0x891C
SIOCSIFMTU = 0x8922

IFF_UP = 1
RTF_UP = 1
RTF_GATEWAY = 2

_NAME = struct.Struct("16s24x")
_FLAGS = struct.Struct("16sh22x")
_INTEGER = struct.Struct("16si20x")
_ADDRESS = struct.Struct("16s16s8x")
"""struct ifreq, with the members of its union that are used here."""

_SOCKADDR = struct.Struct("H2x4s8x")
_ROUTE = struct.Struct("@L16s16s16sHhLBB3hhPLLH")
"""struct rtentry."""


def _sockaddr(address: bytes) -> bytes:
    return _SOCKADDR.pack(socket.AF_INET, address)


def _packed(address: str) -> bytes:
    """Four bytes of `1.2.3.4`. Raises ValueError."""
    try:
        return socket.inet_pton(socket.AF_INET, address)
    except OSError:
        raise ValueError(f"{address!r} is not an IPv4 address") from None


def _netmask(prefix: str) -> bytes:
    """Four bytes for a prefix length. Raises ValueError."""
    length = int(prefix)
    if not 0 <= length <= 32:
        raise ValueError(f"{prefix} is not the length of a prefix")
    return ((1 << 32) - (1 << 32 - length)).to_bytes(4)


def _up(sock: socket.socket, name: bytes) -> None:
    flags = _FLAGS.unpack(fcntl.ioctl(sock, SIOCGIFFLAGS, _NAME.pack(name)))[1]
    fcntl.ioctl(sock, SIOCSIFFLAGS, _FLAGS.pack(name, flags | IFF_UP))


def loopback_up() -> None:
    """Bring `lo` up; the kernel gives it its addresses."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        _up(sock, b"lo")


def socket_of(pid: int) -> socket.socket | None:
    """A socket in the network namespace of a process, where it stays; None where that is the caller's own.

    The calling thread is there for a moment. Raises OSError.
    """
    with (
        open("/proc/thread-self/ns/net", "rb", buffering=0) as own,
        open(f"/proc/{pid}/ns/net", "rb", buffering=0) as there,
    ):
        if os.path.sameopenfile(own.fileno(), there.fileno()):
            return None
        syscalls.setns(there.fileno(), syscalls.CLONE_NEWNET)
        try:
            return socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        finally:
            syscalls.setns(own.fileno(), syscalls.CLONE_NEWNET)


def configure(sock: socket.socket, interface: Mapping[str, Any]) -> None:
    """In the namespace of `sock`, give the interface `name` its `mtu` and `address` (with prefix length), bring it up, and lead the default
    route to `gateway`.

    Raises OSError; ValueError for what is no address.
    """
    name = interface["name"].encode()
    address, _, prefix = interface["address"].partition("/")
    own, mask = _packed(address), _netmask(prefix)
    gateway = _packed(interface["gateway"]) if interface.get("gateway") else None
    if interface.get("mtu"):
        fcntl.ioctl(sock, SIOCSIFMTU, _INTEGER.pack(name, interface["mtu"]))
    # The address first: it brings a classful mask along, which the mask then replaces.
    fcntl.ioctl(sock, SIOCSIFADDR, _ADDRESS.pack(name, _sockaddr(own)))
    fcntl.ioctl(sock, SIOCSIFNETMASK, _ADDRESS.pack(name, _sockaddr(mask)))
    _up(sock, name)
    if gateway is not None:
        _default_route(sock, gateway)


def _default_route(sock: socket.socket, gateway: bytes) -> None:
    anywhere = _sockaddr(bytes(4))
    flags = RTF_UP | RTF_GATEWAY
    route = (0, anywhere, _sockaddr(gateway), anywhere, flags, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    fcntl.ioctl(sock, SIOCADDRT, _ROUTE.pack(*route))
