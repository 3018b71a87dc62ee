"""pyroute2 as an independent witness: it reads what our rtnetlink messages made, and our reader what it made, field by field."""

from __future__ import annotations

import errno
import secrets
import socket
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any

import pytest
from pyroute2 import IPRoute

from moorage.server.networkdriver import links
from moorage.server.networkdriver.netlink import Netlink
from tests.netlab import Namespace

pytestmark = pytest.mark.kernel

GATEWAY = IPv4Interface("198.51.100.1/25")
OTHER_TABLE = 4242
HAIRPIN = 1


class Host:
    """A network namespace with our socket in it, and the witness."""

    def __init__(self) -> None:
        self.namespace = Namespace()
        self.sock: Netlink = self.namespace.run(Netlink)
        suffix = secrets.token_hex(3)
        self.bridge, self.veth = f"moorage{suffix}", f"mveth{suffix}"

    def close(self) -> None:
        self.sock.close()
        self.namespace.close()

    def add_bridge(self, mtu: int = 1400) -> int:
        """Answers its index. A sysctl belongs to the namespace of the thread that opens it."""
        self.namespace.run(links.add_bridge, self.sock, self.bridge, "moorage a witness", GATEWAY, mtu)
        return links.index_of(self.sock, self.bridge)


def ask(namespace: Namespace, question: Callable[[IPRoute], Any]) -> Any:
    """What pyroute2 answers in a namespace."""

    def there() -> Any:
        with IPRoute() as route:
            return question(route)

    return namespace.run(there)


def link_of(namespace: Namespace, name: str) -> Any:
    """The one link of that name, as pyroute2 reads it."""
    (found,) = ask(namespace, lambda route: list(route.get_links(ifname=name)))
    return found


@pytest.fixture
def host() -> Iterator[Host]:
    made = Host()
    yield made
    made.close()


@pytest.fixture
def pod() -> Iterator[Namespace]:
    made = Namespace()
    yield made
    made.close()


def test_a_bridge_is_what_was_asked_for(host: Host) -> None:
    index = host.add_bridge()
    seen = link_of(host.namespace, host.bridge)
    assert {
        "index": seen["index"],
        "up": seen["flags"] & links.IFF_UP,
        "kind": seen.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND"),
        "alias": seen.get("IFLA_IFALIAS"),
        "mac": seen.get("IFLA_ADDRESS"),
        "mtu": seen.get("IFLA_MTU"),
        "master": seen.get("IFLA_MASTER"),
    } == {
        "index": index,
        "up": links.IFF_UP,
        "kind": "bridge",
        "alias": "moorage a witness",
        "mac": links.mac_of(GATEWAY.ip),
        "mtu": 1400,
        "master": None,
    }


def test_a_bridge_has_its_address_and_the_route_that_comes_with_it(host: Host) -> None:
    index = host.add_bridge()
    (address,) = ask(host.namespace, lambda route: list(route.get_addr(family=socket.AF_INET, index=index)))
    assert address["prefixlen"] == GATEWAY.network.prefixlen
    assert {name: address.get(name) for name in ("IFA_ADDRESS", "IFA_LOCAL", "IFA_BROADCAST")} == {
        "IFA_ADDRESS": str(GATEWAY.ip),
        "IFA_LOCAL": str(GATEWAY.ip),
        "IFA_BROADCAST": str(GATEWAY.network.broadcast_address),
    }
    (path,) = ask(host.namespace, lambda route: list(route.get_routes(oif=index, type=links.RTN_UNICAST)))
    assert (path.get("RTA_DST"), path["dst_len"]) == (str(GATEWAY.network.network_address), 25)


def test_a_second_address_is_added(host: Host) -> None:
    index, second = host.add_bridge(), IPv4Interface("203.0.113.9/30")
    links.add_address(host.sock, index, second)
    seen = ask(host.namespace, lambda route: list(route.get_addr(family=socket.AF_INET, index=index)))
    assert {f"{each.get('IFA_LOCAL')}/{each['prefixlen']}" for each in seen} == {str(GATEWAY), str(second)}
    assert links.has_address(host.sock, index, second)


def test_a_veth_pair_is_on_the_bridge_and_in_the_pod(host: Host, pod: Namespace) -> None:
    bridge, mac = host.add_bridge(), links.mac_of(IPv4Address("198.51.100.7"))
    links.add_veth(host.sock, host.veth, bridge, "eth0", pod.pid, mac, 1380)
    outer, inner = link_of(host.namespace, host.veth), link_of(pod, "eth0")
    assert outer.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") == "veth"
    assert outer.get_nested("IFLA_LINKINFO", "IFLA_INFO_SLAVE_KIND") == "bridge"
    assert (outer.get("IFLA_MASTER"), outer.get("IFLA_MTU")) == (bridge, 1380)
    assert outer["flags"] & links.IFF_UP and not inner["flags"] & links.IFF_UP
    assert inner.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") == "veth"
    assert (inner.get("IFLA_ADDRESS"), inner.get("IFLA_MTU"), inner.get("IFLA_MASTER")) == (mac, 1380, None)
    assert (outer.get("IFLA_LINK"), inner.get("IFLA_LINK")) == (inner["index"], outer["index"])
    port = outer.get_nested("IFLA_LINKINFO", "IFLA_INFO_SLAVE_DATA")
    assert port.get("IFLA_BRPORT_MODE") == HAIRPIN


@pytest.mark.parametrize("mtu", [1400, 1500, 9000])
def test_a_bridge_keeps_its_mtu_when_its_last_port_leaves(host: Host, pod: Namespace, mtu: int) -> None:
    """The daemon takes the MTU of new containers from the bridge that it finds when it starts again."""
    bridge = host.add_bridge(mtu)
    links.add_veth(host.sock, host.veth, bridge, "eth0", pod.pid, links.mac_of(GATEWAY.ip), mtu)
    assert links.delete(host.sock, host.veth)
    assert link_of(host.namespace, host.bridge).get("IFLA_MTU") == mtu


def test_what_is_deleted_is_gone_at_both_ends(host: Host, pod: Namespace) -> None:
    links.add_veth(host.sock, host.veth, host.add_bridge(), "eth0", pod.pid, links.mac_of(GATEWAY.ip), 1400)
    assert links.delete(host.sock, host.veth)
    assert ask(host.namespace, lambda route: route.link_lookup(ifname=host.veth)) == []
    assert ask(pod, lambda route: route.link_lookup(ifname="eth0")) == []
    assert links.delete(host.sock, host.bridge)
    assert ask(host.namespace, lambda route: [each.get("IFLA_IFNAME") for each in route.get_links()]) == ["lo"]
    assert not links.delete(host.sock, host.bridge)


def test_a_refused_pair_leaves_neither_end(host: Host, pod: Namespace) -> None:
    bridge = host.add_bridge()
    pod.ip("link add eth0 type bridge")
    with pytest.raises(OSError) as raised:
        links.add_veth(host.sock, host.veth, bridge, "eth0", pod.pid, links.mac_of(GATEWAY.ip), 1400)
    assert raised.value.errno == errno.EEXIST
    assert ask(host.namespace, lambda route: route.link_lookup(ifname=host.veth)) == []
    assert link_of(pod, "eth0").get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") == "bridge"


def _furnish(route: IPRoute, bridge: str, veth: str) -> None:
    """A bridge with a port, addresses and routes, made by pyroute2."""
    route.link("add", ifname=bridge, kind="bridge", mtu=1300, state="up")
    (index,) = route.link_lookup(ifname=bridge)
    route.link("set", index=index, ifalias="moorage by another hand")
    route.link("add", ifname=veth, kind="veth", peer={"ifname": f"{veth}p"}, mtu=1200)
    route.link("set", index=route.link_lookup(ifname=veth)[0], master=index)
    route.addr("add", index=index, address="198.51.100.1", prefixlen=25)
    route.route("add", dst="203.0.113.0/24", gateway="198.51.100.2")
    route.route("add", dst="192.0.2.0/28", oif=index, table=OTHER_TABLE)
    route.route("add", dst="192.0.2.64/28", type="blackhole")
    route.route("add", dst="default", gateway="198.51.100.3")


def test_our_reader_reads_links_as_the_witness_does(host: Host) -> None:
    ask(host.namespace, lambda route: _furnish(route, host.bridge, host.veth))
    seen = [
        links.Link(
            index=each["index"],
            name=each.get("IFLA_IFNAME"),
            kind=each.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") or "",
            alias=each.get("IFLA_IFALIAS") or "",
            master=each.get("IFLA_MASTER") or 0,
            mtu=each.get("IFLA_MTU"),
            up=bool(each["flags"] & links.IFF_UP),
        )
        for each in ask(host.namespace, lambda route: list(route.get_links()))
    ]
    assert {each.name for each in seen} == {"lo", host.bridge, host.veth, f"{host.veth}p"}
    assert links.links(host.sock) == seen
    assert [links.link(host.sock, each.name) for each in seen] == seen


def test_our_reader_reads_addresses_and_routes_as_the_witness_does(host: Host) -> None:
    ask(host.namespace, lambda route: _furnish(route, host.bridge, host.veth))
    addresses = ask(host.namespace, lambda route: list(route.get_addr(family=socket.AF_INET)))
    assert links.host_addresses(host.sock) == {IPv4Address(each.get("IFA_LOCAL")) for each in addresses}
    paths = ask(host.namespace, lambda route: list(route.get_routes(family=socket.AF_INET, type=links.RTN_UNICAST)))
    expected = {IPv4Network((each.get("RTA_DST"), each["dst_len"])) for each in paths if each["dst_len"]}
    assert IPv4Network("192.0.2.0/28") in expected and IPv4Network("192.0.2.64/28") not in expected
    assert set(links.routes(host.sock)) == expected
    assert links.routes(host.sock, apart_from=links.index_of(host.sock, host.bridge)) == []
    assert links.default_mtu(host.sock) == 1200, "that of the bridge, which follows its port"
