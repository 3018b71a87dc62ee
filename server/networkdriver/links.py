"""Links, addresses and routes of the host, as rtnetlink(7) knows them: what is made on attach, and what is read at start-up."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

from moorage.server.networkdriver import netlink
from moorage.server.networkdriver.netlink import Message, Netlink, attribute, attribute_text, attribute_u32, nested

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_GETADDR = 20, 22
RTM_GETROUTE = 26

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU = 1, 3, 4
IFLA_MASTER, IFLA_LINKINFO, IFLA_NET_NS_PID, IFLA_IFALIAS = 10, 18, 19, 20
IFLA_INFO_KIND, IFLA_INFO_DATA, IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA = 1, 2, 4, 5
IFLA_NUM_TX_QUEUES, IFLA_NUM_RX_QUEUES = 31, 32
IFLA_BRPORT_MODE = 4
VETH_INFO_PEER = 1
IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST = 1, 2, 4
RTA_DST, RTA_OIF = 1, 4
RTN_UNICAST = 1

IFF_UP = 1
DEFAULT_MTU = 1500

_ONE_QUEUE = attribute_u32(IFLA_NUM_TX_QUEUES, 1) + attribute_u32(IFLA_NUM_RX_QUEUES, 1)
"""A pair uses one of each. Where it is not said beforehand, the kernel makes one a processor and waits for two RCU grace periods to give
all but one up.
"""

_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBI")
_ROUTE = struct.Struct("=BBBBBBBBI")


@dataclass(frozen=True)
class Link:
    """A link of the host. `master` is the index of its bridge, 0 for none."""

    index: int
    name: str
    kind: str
    alias: str
    master: int
    mtu: int
    up: bool


def mac_of(address: IPv4Address) -> str:
    """The link address that belongs to an IPv4 address: locally administered (IEEE 802c), the same at each start."""
    return ":".join(f"{byte:02x}" for byte in b"\x0a\x6d" + address.packed)


def add_bridge(sock: Netlink, name: str, alias: str, address: IPv4Interface, mtu: int) -> None:
    """Make a bridge, up, with its address; `alias` says whose it is. EEXIST when the name is taken."""
    create = _head(flags=IFF_UP) + attribute_text(IFLA_IFNAME, name)
    # Without an address of its own a bridge takes the lowest of its ports', and the containers' ARP entries break when that changes.
    create += attribute(IFLA_ADDRESS, _mac(mac_of(address.ip)))
    create += nested(IFLA_LINKINFO, attribute_text(IFLA_INFO_KIND, "bridge"))
    sock.request((RTM_NEWLINK, netlink.NLM_F_CREATE | netlink.NLM_F_EXCL, create))
    try:
        settle = _head() + attribute_text(IFLA_IFNAME, name) + attribute_text(IFLA_IFALIAS, alias)
        # An MTU given on creation follows the ports', and is 1500 again when the last one leaves: one set by a change stays.
        settle += attribute_u32(IFLA_MTU, mtu)
        sock.request((RTM_SETLINK, 0, settle), _new_address(index_of(sock, name), address))
        _set_sysctls(name)
    except OSError:
        delete(sock, name)
        raise


def _new_address(index: int, address: IPv4Interface) -> Message:
    body = _ADDRESS.pack(socket.AF_INET, address.network.prefixlen, 0, 0, index)
    body += attribute(IFA_LOCAL, address.ip.packed) + attribute(IFA_ADDRESS, address.ip.packed)
    body += attribute(IFA_BROADCAST, address.network.broadcast_address.packed)
    return RTM_NEWADDR, netlink.NLM_F_CREATE | netlink.NLM_F_EXCL, body


def _set_sysctls(bridge: str) -> None:
    # A reply to 127.0.0.1 comes in on the bridge and is a martian without route_localnet.
    _sysctl(f"net/ipv4/conf/{bridge}/route_localnet", "1")
    # No IPv6 is given out yet: without this, link-local addresses would lead past the IPv4 rules to the host's services.
    with contextlib.suppress(FileNotFoundError):
        _sysctl(f"net/ipv6/conf/{bridge}/disable_ipv6", "1")


def enable_forwarding() -> None:
    """Let the host route IPv4. Written only when off: the write resets per-interface settings (ip-sysctl.rst)."""
    if Path("/proc/sys/net/ipv4/ip_forward").read_text().strip() != "1":
        _sysctl("net/ipv4/ip_forward", "1")


def _sysctl(name: str, value: str) -> None:
    Path("/proc/sys", name).write_text(value)


def add_veth(sock: Netlink, name: str, bridge: int, peer: str, peer_pid: int, peer_mac: str, mtu: int) -> None:
    """Make a veth pair in one packet: one end up on the bridge of index `bridge`, the other as `peer` in the namespace of a process.

    EEXIST when `name` is taken here or `peer` there, ESRCH when the process is gone.
    """
    other = _head() + attribute_text(IFLA_IFNAME, peer) + attribute_u32(IFLA_NET_NS_PID, peer_pid)
    other += attribute_u32(IFLA_MTU, mtu) + attribute(IFLA_ADDRESS, _mac(peer_mac)) + _ONE_QUEUE
    create = _head(flags=IFF_UP) + attribute_text(IFLA_IFNAME, name) + attribute_u32(IFLA_MASTER, bridge)
    create += attribute_u32(IFLA_MTU, mtu) + _ONE_QUEUE
    data = nested(IFLA_INFO_DATA, nested(VETH_INFO_PEER, other))
    create += nested(IFLA_LINKINFO, attribute_text(IFLA_INFO_KIND, "veth"), data)
    sock.request((RTM_NEWLINK, netlink.NLM_F_CREATE | netlink.NLM_F_EXCL, create))
    try:
        _set_hairpin(sock, name)
    except OSError:
        delete(sock, name)
        raise


def _set_hairpin(sock: Netlink, name: str) -> None:
    """Let a bridge port send back what came in on it.

    With br_netfilter a packet is translated while still bridged, and one to the container's own published port leaves where it came in.
    """
    mode = nested(IFLA_INFO_SLAVE_DATA, attribute(IFLA_BRPORT_MODE, b"\1"))
    info = nested(IFLA_LINKINFO, attribute_text(IFLA_INFO_SLAVE_KIND, "bridge"), mode)
    sock.request((RTM_NEWLINK, 0, _head() + attribute_text(IFLA_IFNAME, name) + info))


def delete(sock: Netlink, name: str) -> bool:
    """Delete a link; False when there was none. Waits for an RCU grace period: some 15 ms with the lock of all links held."""
    try:
        sock.request((RTM_DELLINK, 0, _head() + attribute_text(IFLA_IFNAME, name)))
    except OSError as error:
        if error.errno == errno.ENODEV:
            return False
        raise
    return True


def index_of(sock: Netlink, name: str) -> int:
    """The index of a link. ENODEV when there is none."""
    answer = sock.get(RTM_GETLINK, _head() + attribute_text(IFLA_IFNAME, name))
    return int(_LINK.unpack_from(answer)[2])


def link(sock: Netlink, name: str) -> Link | None:
    """One link, None when there is none."""
    try:
        return _link(sock.get(RTM_GETLINK, _head() + attribute_text(IFLA_IFNAME, name)))
    except OSError as error:
        if error.errno == errno.ENODEV:
            return None
        raise


def links(sock: Netlink) -> list[Link]:
    """All links. Not for the hot path."""
    return [_link(body) for body in sock.dump(RTM_GETLINK, _head())]


def addresses(sock: Netlink, apart_from: int = 0) -> list[IPv4Network]:
    """The subnets of the host's IPv4 addresses, but for those of one link, given by index."""
    return [address.network for index, address in _addresses(sock) if index != apart_from]


def host_addresses(sock: Netlink) -> set[IPv4Address]:
    """The host's own IPv4 addresses."""
    return {address.ip for _, address in _addresses(sock)}


def has_address(sock: Netlink, index: int, address: IPv4Interface) -> bool:
    return (index, address) in list(_addresses(sock))


def add_address(sock: Netlink, index: int, address: IPv4Interface) -> None:
    sock.request(_new_address(index, address))


def routes(sock: Netlink, apart_from: int = 0) -> list[IPv4Network]:
    """Where the host's IPv4 unicast routes of all tables lead, without the default route and those through one link."""
    return [destination for destination, index in _routes(sock) if destination.prefixlen and index != apart_from]


def default_mtu(sock: Netlink) -> int:
    """The MTU of the interface the default route leads to; 1500 without one."""
    outward = {index for destination, index in _routes(sock) if not destination.prefixlen}
    sizes = [found.mtu for found in links(sock) if found.index in outward]
    return min(sizes, default=DEFAULT_MTU)


def _routes(sock: Netlink) -> Iterator[tuple[IPv4Network, int]]:
    for body in sock.dump(RTM_GETROUTE, _ROUTE.pack(socket.AF_INET, 0, 0, 0, 0, 0, 0, 0, 0)):
        _, prefix, _, _, _, _, _, kind, _ = _ROUTE.unpack_from(body)
        if kind == RTN_UNICAST:
            found = netlink.attributes(body, _ROUTE.size)
            destination = IPv4Network((found.get(RTA_DST, bytes(4)), prefix))
            yield destination, int.from_bytes(found.get(RTA_OIF, b""), "little")


def _addresses(sock: Netlink) -> Iterator[tuple[int, IPv4Interface]]:
    for body in sock.dump(RTM_GETADDR, _ADDRESS.pack(socket.AF_INET, 0, 0, 0, 0)):
        _, prefix, _, _, index = _ADDRESS.unpack_from(body)
        found = netlink.attributes(body, _ADDRESS.size)
        local = found.get(IFA_LOCAL, found.get(IFA_ADDRESS))
        if local is not None:
            yield index, ipaddress.IPv4Interface((local, prefix))


def _link(body: bytes) -> Link:
    _, _, index, flags, _ = _LINK.unpack_from(body)
    found = netlink.attributes(body, _LINK.size)
    info = netlink.attributes(found.get(IFLA_LINKINFO, b""))
    return Link(
        index=index,
        name=netlink.text(found[IFLA_IFNAME]),
        kind=netlink.text(info.get(IFLA_INFO_KIND, b"")),
        alias=netlink.text(found.get(IFLA_IFALIAS, b"")),
        master=_u32(found.get(IFLA_MASTER)),
        mtu=_u32(found.get(IFLA_MTU)),
        up=bool(flags & IFF_UP),
    )


def _head(flags: int = 0) -> bytes:
    return _LINK.pack(socket.AF_UNSPEC, 0, 0, flags, flags)


def _mac(address: str) -> bytes:
    return bytes.fromhex(address.replace(":", ""))


def _u32(value: bytes | None) -> int:
    return int(struct.unpack("=I", value)[0]) if value else 0
