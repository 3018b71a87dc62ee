"""What every network driver keeps to (`networkdriver/base.py`)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Interface
from pathlib import Path
from typing import TypeVar

import pytest

from moorage.server.errors import AlreadyExists, Unimplemented
from moorage.server.graph.graphdb import GraphDB
from moorage.server.model import Network, PortMapping
from moorage.server.networkdriver import drivers
from moorage.server.networkdriver.base import Attachment, NetworkDriver
from moorage.server.networkdriver.passive import PassiveDriver
from tests.netlab import lab

T = TypeVar("T")
ID = "0123456789abcdef" * 4


@dataclass
class Subject:
    """A driver under test, its built-in network, and where its host is."""

    driver: NetworkDriver
    network: Network
    db: GraphDB
    pid: int
    on_host: Callable[..., object]

    def attach(self, container_id: str, pid: int, *ports: PortMapping) -> Attachment:
        found = self.on_host(self.driver.attach, self.network, container_id, lambda: pid, ports, self.stages.append)
        assert isinstance(found, Attachment)
        return found

    def __post_init__(self) -> None:
        self.stages: list[str] = []


@pytest.fixture(params=[pytest.param("bridge", marks=pytest.mark.kernel), "host", "none"])
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Subject]:
    if request.param != "bridge":
        db = GraphDB(tmp_path / "db")
        passive = PassiveDriver(db, request.param)
        network = passive.create_network(passive.name, subnet="", gateway="", internal=False, labels={})
        yield Subject(passive, network, db, os.getpid(), lambda function, *args: function(*args))
        db.close()
        return
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with lab(tmp_path) as net:
        db = net.database()
        bridge = net.driver(db)
        yield Subject(bridge, net.network(bridge), db, net.namespace().pid, net.host.run)


def test_network_is_in_the_database(subject: Subject) -> None:
    assert subject.db.get("network", subject.network.id, Network) == subject.network
    assert subject.db.lookup("network-name", subject.network.name) == subject.network.id
    assert subject.network.driver == subject.driver.name and len(subject.network.id) == 64


def test_name_is_given_once(subject: Subject) -> None:
    with pytest.raises(AlreadyExists):
        subject.on_host(
            lambda: subject.driver.create_network(
                subject.network.name, subnet="", gateway="", internal=False, labels={}
            )
        )
    assert [item.id for item in subject.db.all("network", Network)] == [subject.network.id]


def test_attachment_agrees_with_itself(subject: Subject) -> None:
    attachment = subject.attach(ID, subject.pid)
    endpoint = attachment.endpoint
    assert (endpoint.network, endpoint.network_id) == (subject.network.name, subject.network.id)
    assert [interface.address for interface in attachment.interfaces] == (
        [endpoint.address] if endpoint.address else []
    )
    for interface in attachment.interfaces:
        assert IPv4Interface(interface.address) in IPv4Interface(subject.network.subnet).network
        assert (interface.name, interface.mtu) == (endpoint.interface, endpoint.mtu)
        assert interface.gateway == subject.network.gateway == endpoint.gateway
    assert subject.stages == (["lease", "pod", "link", "firewall"] if attachment.interfaces else [])


def test_ports_are_chosen_where_there_is_an_address(subject: Subject) -> None:
    endpoint = subject.attach(ID, subject.pid, PortMapping(80), PortMapping(53, protocol="udp")).endpoint
    assert [(port.container_port, port.protocol) for port in endpoint.ports] == (
        [(80, "tcp"), (53, "udp")] if endpoint.address else []
    )
    assert all(port.host_port for port in endpoint.ports)


def test_detach_twice_and_of_nobody(subject: Subject) -> None:
    endpoint = subject.attach(ID, subject.pid, PortMapping(80)).endpoint
    for container_id, known in ((ID, endpoint), (ID, endpoint), (ID, None), ("f" * 64, None)):
        subject.on_host(subject.driver.detach, subject.network, container_id, known)
    assert subject.db.edges("address") == subject.db.edges("port") == {}


def test_detach_without_endpoint_releases_all(subject: Subject) -> None:
    subject.attach(ID, subject.pid, PortMapping(80))
    subject.on_host(subject.driver.detach, subject.network, ID, None)
    assert subject.db.edges("address") == subject.db.edges("port") == {}


def test_reconcile_keeps_the_living_and_does_nothing_twice(subject: Subject) -> None:
    live = {ID: subject.attach(ID, subject.pid, PortMapping(80)).endpoint}
    before = subject.db.edges("address") | subject.db.edges("port")
    assert subject.on_host(subject.driver.reconcile, [subject.network], live) == 0
    assert subject.on_host(subject.driver.reconcile, [subject.network], live) == 0
    assert subject.db.edges("address") | subject.db.edges("port") == before


def test_reconcile_releases_the_dead(subject: Subject) -> None:
    subject.attach(ID, subject.pid, PortMapping(80))
    subject.on_host(subject.driver.reconcile, [subject.network], {})
    assert subject.db.edges("address") == subject.db.edges("port") == {}


def test_check_finds_all_in_place(subject: Subject) -> None:
    subject.attach(ID, subject.pid, PortMapping(80))
    assert subject.driver.check() is False


def test_network_is_made_again_after_destroy(subject: Subject) -> None:
    subject.on_host(subject.driver.destroy)
    subject.on_host(subject.driver.destroy)
    assert subject.on_host(subject.driver.reconcile, [subject.network], {}) == 0
    endpoint = subject.attach(ID, subject.pid, PortMapping(80)).endpoint
    assert endpoint.network_id == subject.network.id and subject.driver.check() is False


def test_driver_is_chosen_by_network(subject: Subject) -> None:
    table = {subject.driver.name: subject.driver}
    assert drivers.choose(table, subject.network) is subject.driver
    with pytest.raises(Unimplemented, match=subject.network.name):
        drivers.choose({}, subject.network)


@pytest.mark.kernel
def test_defaults_are_made_once(tmp_path: Path) -> None:
    with lab(tmp_path) as net:
        db = net.database()
        table = drivers.table(db, net.driver(db))
        made = net.host.run(drivers.ensure_defaults, db, table)
        assert sorted(network.name for network in made) == ["bridge", "host", "none"]
        assert all(network.driver == network.name for network in made)
        assert net.host.run(drivers.ensure_defaults, db, table) == made
