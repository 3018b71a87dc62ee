"""Connection tracking entries that would keep a published UDP port pointing where it pointed before.

The kernel asks the NAT rules for the first packet of a flow only. UDP has no end: a client that keeps sending keeps its entry alive, so
after a port is published, moved or withdrawn it would for ever reach nobody, or the address of a container that is gone.
"""

from __future__ import annotations

import logging
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address

from moorage.server.networkdriver import links, netlink
from moorage.server.networkdriver.netlink import Netlink, attribute, nested
from moorage.server.networkdriver.rules import ANY, Forwarding

NFNL_SUBSYS_CTNETLINK = 1
IPCTNL_MSG_CT_GET, IPCTNL_MSG_CT_DELETE = 1, 2
CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_ID, CTA_FILTER = 1, 2, 12, 25
CTA_TUPLE_IP, CTA_TUPLE_PROTO = 1, 2
CTA_IP_V4_SRC, CTA_IP_V4_DST = 1, 2
CTA_PROTO_NUM, CTA_PROTO_DST_PORT = 1, 3
CTA_FILTER_ORIG_FLAGS, CTA_FILTER_REPLY_FLAGS = 1, 2
FILTER_PROTOCOL, FILTER_DESTINATION_PORT = 1 << 3, 1 << 5

_NFGENMSG = struct.Struct(">BBH")
_HEAD = _NFGENMSG.pack(socket.AF_INET, 0, 0)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Flow:
    """An entry: whom the client sent to, who answers, and what names the entry to the kernel."""

    destination: IPv4Address
    port: int
    answered_by: IPv4Address
    handle: bytes


class Conntrack:
    """Thread-safe."""

    def __init__(self, route: Netlink) -> None:
        self._route = route
        self._sock = Netlink(netlink.NETLINK_NETFILTER)

    def close(self) -> None:
        self._sock.close()

    def forget_before(self, ports: Iterable[Forwarding]) -> None:
        """After `ports` were published: forget the flows to them that lead elsewhere."""
        self._forget(ports, lambda flow, port: str(flow.answered_by) != port.address)

    def forget_after(self, ports: Iterable[Forwarding]) -> None:
        """After `ports` were withdrawn: forget the flows that lead to their container."""
        self._forget(ports, lambda flow, port: str(flow.answered_by) == port.address)

    def _forget(self, ports: Iterable[Forwarding], wrong: Callable[[Flow, Forwarding], bool]) -> None:
        """The ports work without this for all but clients that were there before: an error is told in the log only."""
        try:
            for port in ports:
                if port.protocol == "udp":
                    self._delete([flow for flow in self._flows_to(port) if wrong(flow, port)])
        except OSError as error:
            log.warning("cannot forget connections to published ports: %s", error)

    def _flows_to(self, port: Forwarding) -> Iterator[Flow]:
        flows = [flow for flow in map(_flow, self._dump(port.host_port)) if flow and flow.port == port.host_port]
        if flows and port.host_ip == ANY:
            own = links.host_addresses(self._route)
            yield from (flow for flow in flows if flow.destination in own or flow.destination.is_loopback)
        else:
            yield from (flow for flow in flows if str(flow.destination) == port.host_ip)

    def _dump(self, port: int) -> list[bytes]:
        protocol = attribute(CTA_PROTO_NUM, bytes([socket.IPPROTO_UDP]))
        destination = attribute(CTA_PROTO_DST_PORT, port.to_bytes(2, "big"))
        tuple_ = nested(CTA_TUPLE_ORIG, nested(CTA_TUPLE_PROTO, protocol, destination))
        wanted = netlink.attribute_u32(CTA_FILTER_ORIG_FLAGS, FILTER_PROTOCOL | FILTER_DESTINATION_PORT)
        filter_ = nested(CTA_FILTER, wanted, netlink.attribute_u32(CTA_FILTER_REPLY_FLAGS, 0))
        return self._sock.dump(NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET, _HEAD + tuple_ + filter_)

    def _delete(self, flows: list[Flow]) -> None:
        for flow in flows:
            try:
                self._sock.request((NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE, 0, _HEAD + flow.handle))
            except FileNotFoundError:  # it has timed out meanwhile
                continue


def _flow(body: bytes) -> Flow | None:
    """Read an entry; None when it is not UDP."""
    found = netlink.attributes(body, _NFGENMSG.size)
    original = netlink.attributes(found[CTA_TUPLE_ORIG])
    protocol = netlink.attributes(original[CTA_TUPLE_PROTO])
    if protocol[CTA_PROTO_NUM][0] != socket.IPPROTO_UDP:
        return None
    reply = netlink.attributes(netlink.attributes(found[CTA_TUPLE_REPLY])[CTA_TUPLE_IP])
    return Flow(
        destination=IPv4Address(netlink.attributes(original[CTA_TUPLE_IP])[CTA_IP_V4_DST]),
        port=int.from_bytes(protocol[CTA_PROTO_DST_PORT], "big"),
        answered_by=IPv4Address(reply[CTA_IP_V4_SRC]),
        handle=nested(CTA_TUPLE_ORIG, found[CTA_TUPLE_ORIG]) + attribute(CTA_ID, found[CTA_ID]),
    )
