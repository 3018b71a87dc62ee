"""The bridge driver on the real kernel, on a host that is a network namespace of the test's own."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from moorage.server.errors import AlreadyExists, FailedPrecondition, InvalidArgument
from moorage.server.graph.graphdb import GraphDB
from moorage.server.model import Endpoint, Network, PortMapping
from moorage.server.networkdriver import counters
from moorage.server.networkdriver.bridge import BridgeDriver
from tests.netlab import HOST, IMPATIENCE, OUTSIDE, PATIENCE, Lab, lab

pytestmark = pytest.mark.kernel

LOOPBACK = "127.0.0.1"


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Lab]:
    with lab(tmp_path) as made:
        yield made


@pytest.fixture
def db(net: Lab) -> GraphDB:
    return net.database()


@pytest.fixture
def driver(net: Lab, db: GraphDB) -> BridgeDriver:
    return net.driver(db)


@pytest.fixture
def network(net: Lab, driver: BridgeDriver) -> Network:
    return net.network(driver)


def test_container_reaches_host_and_outside(net: Lab, driver: BridgeDriver, network: Network) -> None:
    container = net.attach(driver, network)
    with net.host.serve(70), net.outside.serve(70), net.outside.serve(70, "udp"):
        assert container.inside.ask(network.gateway, 70) == container.ip
        assert container.inside.ask(OUTSIDE, 70) == HOST
        assert container.inside.ask(OUTSIDE, 70, "udp") == HOST


def test_endpoint_describes_what_is_there(net: Lab, driver: BridgeDriver, network: Network) -> None:
    container = net.attach(driver, network, PortMapping(80))
    link = container.inside.ip("-o link show eth0")
    assert "mtu 1450" in link and container.endpoint.mtu == 1450
    assert container.endpoint.mac_address in link
    assert f"master {network.bridge}" in net.host.ip(f"-o link show {container.endpoint.host_interface}")
    assert "hairpin on" in net.host.ip(f"-d link show {container.endpoint.host_interface}")
    assert container.endpoint.ports[0].host_port >= 49153
    assert network.bridge == "moorage0"


@pytest.mark.parametrize("bridged", ["0", "1"])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_published_port_is_reached_from_everywhere(
    net: Lab, driver: BridgeDriver, network: Network, protocol: str, bridged: str
) -> None:
    """With and without br_netfilter, which sends bridged packets through the rules too."""
    switch = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
    if switch.exists():
        net.host.sysctl("net/bridge/bridge-nf-call-iptables", bridged)
    other_network = net.network(driver, "other")
    container = net.attach(driver, network, PortMapping(80, 8080, protocol=protocol))  # type: ignore[arg-type]
    neighbour, foreigner = net.attach(driver, network), net.attach(driver, other_network)
    with container.inside.serve(80, protocol):
        assert net.outside.ask(HOST, 8080, protocol) == OUTSIDE
        assert net.host.ask(LOOPBACK, 8080, protocol) == network.gateway
        assert net.host.ask("127.0.0.2", 8080, protocol) == network.gateway
        assert net.host.ask(HOST, 8080, protocol) == HOST
        assert net.host.ask(network.gateway, 8080, protocol) == network.gateway
        assert neighbour.inside.ask(HOST, 8080, protocol) == network.gateway
        assert neighbour.inside.ask(network.gateway, 8080, protocol) == network.gateway
        assert container.inside.ask(HOST, 8080, protocol) == network.gateway
        assert foreigner.inside.ask(HOST, 8080, protocol) == foreigner.ip
        assert neighbour.inside.ask(container.ip, 80, protocol) == neighbour.ip


def test_published_port_ends_with_detach(net: Lab, driver: BridgeDriver, network: Network) -> None:
    container = net.attach(driver, network, PortMapping(80, 8080))
    with container.inside.serve(80):
        assert net.outside.ask(HOST, 8080) == OUTSIDE
        net.detach(container)
        assert net.outside.ask(HOST, 8080, patience=IMPATIENCE) == ""


def test_port_of_one_address_is_not_reached_by_another(net: Lab, driver: BridgeDriver, network: Network) -> None:
    container = net.attach(driver, network, PortMapping(80, 8080, LOOPBACK), PortMapping(80, 8081, HOST))
    with container.inside.serve(80):
        assert net.host.ask(LOOPBACK, 8080) == network.gateway
        assert net.host.ask(HOST, 8080, patience=IMPATIENCE) == ""
        assert net.outside.ask(HOST, 8080, patience=IMPATIENCE) == ""
        assert net.outside.ask(HOST, 8081) == OUTSIDE
        assert net.host.ask(LOOPBACK, 8081, patience=IMPATIENCE) == ""


def test_neighbour_on_the_wire_does_not_reach_loopback(net: Lab, driver: BridgeDriver, network: Network) -> None:
    """A neighbour can send to 127.0.0.1 with the host's link address (CVE-2020-8558), also where the host takes such packets."""
    container = net.attach(driver, network, PortMapping(80, 8080, LOOPBACK))
    net.host.sysctl("net/ipv4/conf/up0/route_localnet", "1")
    net.outside.sysctl("net/ipv4/conf/up1/route_localnet", "1")
    net.outside.ip("addr del 127.0.0.1/8 dev lo")
    net.outside.ip(f"route add 127.0.0.1 via {HOST} dev up1 src {OUTSIDE}")
    with container.inside.serve(80), net.host.serve(70, address=LOOPBACK):
        for port in (8080, 70):
            assert net.outside.ask(LOOPBACK, port, source=OUTSIDE, patience=IMPATIENCE) == ""
        net.nft("delete", "table", "inet", "moorage")
        assert net.outside.ask(LOOPBACK, 70, source=OUTSIDE) == OUTSIDE, "the attack works without the rules"


def test_container_does_not_reach_loopback(net: Lab, driver: BridgeDriver, network: Network) -> None:
    container = net.attach(driver, network)
    container.inside.sysctl("net/ipv4/conf/eth0/route_localnet", "1")
    container.inside.ip("addr del 127.0.0.1/8 dev lo")
    container.inside.ip(f"route add 127.0.0.1 via {network.gateway} dev eth0 src {container.ip}")
    with net.host.serve(70, address=LOOPBACK):
        assert container.inside.ask(LOOPBACK, 70, source=container.ip, patience=IMPATIENCE) == ""
        net.nft("delete", "table", "inet", "moorage")
        assert container.inside.ask(LOOPBACK, 70, source=container.ip) == container.ip, "works without the rules"


def test_container_does_not_send_with_addresses_of_others(net: Lab, driver: BridgeDriver, network: Network) -> None:
    container = net.attach(driver, network)
    container.inside.ip("addr add 198.51.100.7/32 dev eth0")
    with net.host.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind((HOST, 71))
        listener.settimeout(PATIENCE)
        for source in ("198.51.100.7", container.ip):
            with container.inside.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.bind((source, 0))
                sender.sendto(source.encode(), (HOST, 71))
        assert listener.recv(100).decode() == container.ip, "the forged packet went first and did not arrive"


def test_outside_does_not_reach_containers_directly(net: Lab, driver: BridgeDriver, network: Network) -> None:
    container = net.attach(driver, network, PortMapping(80, 8080))
    net.outside.ip(f"route add {network.subnet} via {HOST}")
    with container.inside.serve(80):
        assert net.outside.ask(container.ip, 80, patience=IMPATIENCE) == ""
        assert net.outside.ask(HOST, 8080) == OUTSIDE
        net.nft("delete", "table", "inet", "moorage")
        assert net.outside.ask(container.ip, 80) == OUTSIDE, "works without the rules"


def test_networks_do_not_reach_one_another(net: Lab, driver: BridgeDriver, network: Network) -> None:
    here = net.attach(driver, network)
    there = net.attach(driver, net.network(driver, "other"))
    with here.inside.serve(80), there.inside.serve(80):
        assert here.inside.ask(there.ip, 80, patience=IMPATIENCE) == ""
        assert there.inside.ask(here.ip, 80, patience=IMPATIENCE) == ""


def test_internal_network_reaches_nothing_else(net: Lab, driver: BridgeDriver, network: Network) -> None:
    internal = net.network(driver, "internal", internal=True)
    one, two, public = net.attach(driver, internal), net.attach(driver, internal), net.attach(driver, network)
    one.inside.ip(f"route add default via {internal.gateway}")
    net.outside.ip(f"route add {internal.subnet} via {HOST}")
    with one.inside.serve(80), public.inside.serve(80), net.outside.serve(80):
        assert two.inside.ask(one.ip, 80) == two.ip
        assert one.inside.ask(OUTSIDE, 80, patience=IMPATIENCE) == ""
        assert one.inside.ask(public.ip, 80, patience=IMPATIENCE) == ""
        assert public.inside.ask(one.ip, 80, patience=IMPATIENCE) == ""
        assert net.outside.ask(one.ip, 80, patience=IMPATIENCE) == ""
    with pytest.raises(FailedPrecondition, match="internal"):
        net.attach(driver, internal, PortMapping(80))


def test_administrators_drop_holds_for_published_ports(net: Lab, driver: BridgeDriver, network: Network) -> None:
    container = net.attach(driver, network, PortMapping(80, 8080))
    chain = (
        "chain published { type filter hook forward priority 10; meta l4proto tcp ct original proto-dst 8080 drop; }"
    )
    net.nft(f"table inet admin {{ {chain}; }}")
    with container.inside.serve(80):
        assert net.outside.ask(HOST, 8080, patience=IMPATIENCE) == ""


def test_flushed_table_is_restored_and_others_are_left_alone(net: Lab, driver: BridgeDriver, network: Network) -> None:
    container = net.attach(driver, network, PortMapping(80, 8080), PortMapping(81, 8081, HOST, "udp"))
    net.nft("table inet admin { set s { type ipv4_addr; elements = { 192.0.2.9 }; }; }")
    foreign = net.nft("list", "table", "inet", "admin")
    before = net.nft("list", "table", "inet", "moorage")
    assert driver.check() is False
    for damage in (
        "delete table inet moorage",
        "flush chain inet moorage forward",
        "flush map inet moorage published_any",
        "delete element inet moorage published { 192.0.2.2 . udp . 8081 }",
        "add rule inet moorage forward accept",
    ):
        net.nft(damage)
        assert driver.check() is True, damage
        assert net.nft("list", "table", "inet", "moorage") == before
        assert driver.check() is False
    assert net.nft("list", "table", "inet", "admin") == foreign
    with container.inside.serve(80), container.inside.serve(81, "udp"):
        assert net.outside.ask(HOST, 8080) == OUTSIDE
        assert net.outside.ask(HOST, 8081, "udp") == OUTSIDE


def test_change_after_a_flush_restores_the_table(net: Lab, driver: BridgeDriver, network: Network) -> None:
    first = net.attach(driver, network, PortMapping(80, 8080))
    net.nft("flush ruleset")
    second = net.attach(driver, network, PortMapping(80, 8081))
    with first.inside.serve(80), second.inside.serve(80):
        assert net.outside.ask(HOST, 8080) == OUTSIDE
        assert net.outside.ask(HOST, 8081) == OUTSIDE
    net.nft("flush ruleset")
    net.detach(first)
    listing = net.nft("list", "table", "inet", "moorage")
    assert "8081" in listing and "8080" not in listing


def test_port_of_a_host_process_is_refused(net: Lab, driver: BridgeDriver, network: Network, db: GraphDB) -> None:
    with net.host.serve(8080), net.host.serve(8081, "udp", LOOPBACK):
        for port, protocol in ((8080, "tcp"), (8081, "udp")):
            with pytest.raises(AlreadyExists, match="process of the host"):
                net.attach(driver, network, PortMapping(80, port, protocol=protocol))  # type: ignore[arg-type]
    assert db.edges("address") == {} and db.edges("port") == {}
    with pytest.raises(InvalidArgument, match="no address of this host"):
        net.attach(driver, network, PortMapping(80, 8080, "198.51.100.1"))


def test_port_of_another_container_is_refused_by_name(net: Lab, driver: BridgeDriver, network: Network) -> None:
    holder = net.attach(driver, network, PortMapping(80, 8080))
    for taken in (PortMapping(80, 8080), PortMapping(80, 8080, LOOPBACK)):
        with pytest.raises(AlreadyExists, match=holder.id):
            net.attach(driver, network, taken)
    net.attach(driver, network, PortMapping(80, 8080, protocol="udp"))


def test_attach_to_a_dead_process_leaves_nothing(net: Lab, driver: BridgeDriver, network: Network, db: GraphDB) -> None:
    before = net.host.links()
    with pytest.raises(FailedPrecondition, match="no such process"):
        net.host.run(driver.attach, network, "ab" * 32, lambda: 2**22 - 1, [PortMapping(80, 8080)], lambda _: None)
    assert db.edges("address") == {} and db.edges("port") == {}
    assert "8080" not in net.nft("list", "table", "inet", "moorage")
    assert driver.settle(5) and net.host.links() == before


def test_container_starts_again_while_its_old_link_is_there(net: Lab, driver: BridgeDriver, network: Network) -> None:
    first = net.attach(driver, network, PortMapping(80, 8080))
    net.detach(first)
    second = net.attach(driver, network, PortMapping(80, 8080), id=first.id)
    with second.inside.serve(80):
        assert net.outside.ask(HOST, 8080) == OUTSIDE
    assert driver.settle(5)
    assert second.endpoint.host_interface in net.host.links()


def test_detach_leaves_nothing_whether_the_namespace_lives_or_not(
    net: Lab, driver: BridgeDriver, network: Network, db: GraphDB
) -> None:
    before, listing = net.host.links(), net.nft("list", "ruleset")
    containers = [net.attach(driver, network, PortMapping(80), PortMapping(81, protocol="udp")) for _ in range(4)]
    for number, container in enumerate(containers):
        if number % 2:
            container.inside.close()
        net.host.run(driver.detach, network, container.id, container.endpoint if number < 2 else None)
        net.detach(container)
    net.host.run(driver.detach, network, "cd" * 32, None)
    assert db.edges("address") == {} and db.edges("port") == {}
    assert net.nft("list", "ruleset") == listing
    assert driver.settle(5) and net.host.links() == before


def test_remove_network_leaves_nothing(net: Lab, driver: BridgeDriver, network: Network, db: GraphDB) -> None:
    before, listing = net.host.links(), net.nft("list", "ruleset")
    other = net.network(driver, "other")
    container = net.attach(driver, other)
    with pytest.raises(FailedPrecondition, match="in use by 1"):
        driver.remove_network(other)
    net.detach(container)
    driver.remove_network(other)
    driver.remove_network(other)
    assert driver.settle(5) and net.host.links() == before
    assert net.nft("list", "ruleset") == listing
    assert db.lookup("network-name", "other") is None and db.get("network", other.id, Network) is None
    driver.destroy()
    assert net.host.links() == before - {network.bridge} and net.nft("list", "ruleset") == ""


def test_subnets_keep_clear_of_the_host(net: Lab, driver: BridgeDriver, network: Network) -> None:
    net.host.ip("route add 10.210.16.0/24 via 192.0.2.1")
    net.host.ip("addr add 10.210.33.1/24 dev up0")
    assert network.subnet == "10.210.0.0/20"
    assert net.network(driver, "second").subnet == "10.210.48.0/20"
    for overlap in ("10.210.16.0/28", "10.210.0.0/24", "192.0.2.0/25"):
        with pytest.raises(FailedPrecondition, match="overlaps"):
            net.network(driver, "third", subnet=overlap)
    with pytest.raises(AlreadyExists):
        net.network(driver, "second")
    assert net.network(driver, "third", subnet="10.9.0.0/24").gateway == "10.9.0.1"


def test_foreign_link_of_the_bridges_name_is_left_alone(net: Lab, driver: BridgeDriver) -> None:
    net.host.ip("link add moorage0 type bridge")
    with pytest.raises(AlreadyExists, match="not of this daemon"):
        net.network(driver)
    assert "moorage0" in net.host.links()


def test_two_instances_live_side_by_side(net: Lab, driver: BridgeDriver, network: Network) -> None:
    twin = net.driver(net.database("twin"), "moorageabc123")
    twin_network = net.network(twin)
    assert twin_network.bridge == "moorageabc123" and twin_network.subnet != network.subnet
    one, two = net.attach(driver, network, PortMapping(80, 8080)), net.attach(twin, twin_network, PortMapping(80, 8081))
    with one.inside.serve(80), two.inside.serve(80):
        for port in (8080, 8081):
            assert net.outside.ask(HOST, port) == OUTSIDE
            assert net.host.ask(LOOPBACK, port) in (network.gateway, twin_network.gateway)
        assert one.inside.ask(two.ip, 80, patience=IMPATIENCE) == ""
        assert net.host.run(twin.reconcile, [twin_network], {two.id: two.endpoint}) == 0
        twin.destroy()
        assert net.outside.ask(HOST, 8080) == OUTSIDE
    assert driver.check() is False
    assert two.endpoint.host_interface in net.host.links() and network.bridge in net.host.links()


def test_daemons_that_create_at_once_choose_different_subnets(net: Lab) -> None:
    drivers = [net.driver(net.database(f"db{number}"), f"moorage{number}") for number in range(4)]

    def make(driver: BridgeDriver) -> str:
        return driver.create_network("bridge", subnet="", gateway="", internal=False, labels={}).subnet

    def threads_of_the_host() -> list[str]:
        # Threads inherit the namespace of the one that starts them: that of the lab's host.
        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(make, drivers))

    assert len(set(net.host.run(threads_of_the_host))) == 4
    assert not (net.directory / "subnets.lock").exists()


def test_many_at_once(net: Lab, driver: BridgeDriver, network: Network, db: GraphDB) -> None:
    before, listing = net.host.links(), net.nft("list", "ruleset")
    insides = {secrets.token_hex(32): net.namespace() for _ in range(24)}

    def attach(id: str) -> Endpoint:
        ports = [PortMapping(80), PortMapping(81, protocol="udp")]
        return driver.attach(network, id, lambda: insides[id].pid, ports, lambda _: None).endpoint

    def detach(id: str, endpoint: Endpoint) -> None:
        driver.detach(network, id, endpoint)

    def cycle() -> list[Endpoint]:
        with ThreadPoolExecutor(8) as pool:
            endpoints = list(pool.map(attach, insides))
            list(pool.map(detach, insides, endpoints))
        return endpoints

    endpoints = net.host.run(cycle)
    assert len({endpoint.address for endpoint in endpoints}) == len(insides)
    assert len({(p.protocol, p.host_port) for endpoint in endpoints for p in endpoint.ports}) == 2 * len(insides)
    assert db.edges("address") == db.edges("port") == {}
    assert driver.check() is False and net.nft("list", "ruleset") == listing
    assert driver.settle(10) and net.host.links() == before


def test_restart_finds_live_containers_and_clears_the_rest(net: Lab, db: GraphDB) -> None:
    first = net.driver(db)
    network, gone_network = net.network(first), net.network(first, "gone")
    live, dead = net.attach(first, network, PortMapping(80, 8080)), net.attach(first, network, PortMapping(80, 8081))
    net.nft("delete table inet moorage")
    with db.transaction() as tx:
        tx.unlink("network-name", "gone")
        tx.delete("network", gone_network.id)

    second = net.driver(db)
    released = net.host.run(second.reconcile, [network], {live.id: live.endpoint})
    assert released == 4, "a bridge, an address, a port and a link"
    assert set(db.edges("address").values()) == {live.id} == set(db.edges("port").values())
    with live.inside.serve(80):
        assert net.outside.ask(HOST, 8080) == OUTSIDE
    with pytest.raises(AlreadyExists, match=live.id):
        net.attach(second, network, PortMapping(80, 8080))
    fresh = net.attach(second, network, PortMapping(80, 8081))
    assert fresh.ip != live.ip
    assert second.settle(5)
    assert dead.endpoint.host_interface not in net.host.links() and gone_network.bridge not in net.host.links()
    assert net.host.run(second.reconcile, [network], {c.id: c.endpoint for c in (live, fresh)}) == 0


def test_reconcile_makes_bridges_again_after_a_reboot(net: Lab, db: GraphDB) -> None:
    network = net.network(net.driver(db))
    net.host.ip(f"link delete {network.bridge}")
    driver = net.driver(db)
    net.host.run(driver.reconcile, [network], {})
    container = net.attach(driver, network)
    with net.host.serve(70):
        assert container.inside.ask(network.gateway, 70) == container.ip


def test_counters_are_those_of_the_container(net: Lab, driver: BridgeDriver, network: Network) -> None:
    container = net.attach(driver, network)
    with net.host.serve(70):
        assert container.inside.ask(network.gateway, 70) == container.ip
    seen = net.host.run(counters.read_counters)[container.endpoint.host_interface]
    inside = container.inside.run(counters.read_counters)["eth0"]
    assert seen.rx_packets > 0 and seen.tx_packets > 0
    assert (seen.rx_bytes, seen.rx_packets) == (inside.tx_bytes, inside.tx_packets)


def test_traffic_restarts_after_republishing_udp(net: Lab, driver: BridgeDriver, network: Network) -> None:
    """A client that never stops sending reaches the container that holds the port now, not the one before or nobody."""
    with net.outside.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        client.connect((HOST, 8080))
        client.send(b"before anybody is there")
        with pytest.raises(ConnectionRefusedError):
            client.recv(100)
        for _ in range(2):
            container = net.attach(driver, network, PortMapping(80, 8080, protocol="udp"))
            with container.inside.serve(80, "udp"):
                client.send(b"who am I")
                assert client.recv(100).decode() == OUTSIDE
            net.detach(container)
