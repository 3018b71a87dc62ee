"""Leases are what the GraphDB says they are, before and after a restart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from moorage.server.errors import AlreadyExists, Internal, NotFound, ResourceExhausted
from moorage.server.graph.graphdb import GraphDB, Transaction
from moorage.server.model import Endpoint, Network, PortMapping
from moorage.server.networkdriver.leases import Leases
from moorage.server.networkdriver.ports import PortAllocator

NETWORK = Network("f" * 64, "bridge", "bridge", 1, "10.210.0.0/29", "10.210.0.1", "moorage0")
PORT = 42001


@pytest.fixture
def db(tmp_path: Path) -> Iterator[GraphDB]:
    made = GraphDB(tmp_path / "db")
    yield made
    made.close()


def start(db: GraphDB) -> Leases:
    leases = Leases(db, PortAllocator([PORT + 1]))
    leases.add_network(NETWORK)
    return leases


def test_lease_is_written_and_released(db: GraphDB) -> None:
    leases = start(db)
    lease = leases.take(NETWORK, "one", [PortMapping(80, PORT, "127.0.0.1")])
    assert str(lease.address) == "10.210.0.2/29" and leases.used(NETWORK.id) == 1
    assert db.edges("address") == {f"{NETWORK.id}/10.210.0.2": "one"}
    assert db.edges("port") == {f"tcp/127.0.0.1/{PORT}": "one"}
    leases.release(NETWORK.id, "one")
    leases.release(NETWORK.id, "one")
    assert db.edges("address") == db.edges("port") == {} and leases.used(NETWORK.id) == 0


def test_leases_hold_after_a_restart(db: GraphDB) -> None:
    start(db).take(NETWORK, "one", [PortMapping(80, PORT, "127.0.0.1")])
    leases = start(db)
    assert leases.used(NETWORK.id) == 1
    with pytest.raises(AlreadyExists, match="container one"):
        leases.take(NETWORK, "two", [PortMapping(80, PORT)])
    assert str(leases.take(NETWORK, "two", []).address) == "10.210.0.3/29"


def test_full_network_takes_no_port(db: GraphDB) -> None:
    leases = start(db)
    for number in range(5):
        leases.take(NETWORK, str(number), [])
    with pytest.raises(ResourceExhausted, match=r"no address is free in 10\.210\.0\.0/29"):
        leases.take(NETWORK, "late", [PortMapping(80, PORT, "127.0.0.1")])
    assert db.edges("port") == {}
    leases.release(NETWORK.id, "3")
    assert leases.take(NETWORK, "late", [PortMapping(80, PORT, "127.0.0.1")]).ports


class FailingStore(GraphDB):
    """A GraphDB whose disk is full."""

    def _commit(self, transaction: Transaction, durable: bool) -> None:
        raise Internal("disk full")


def test_lease_that_cannot_be_written_is_not_held(tmp_path: Path) -> None:
    db = FailingStore(tmp_path / "db")
    leases = start(db)
    for _ in range(10):
        with pytest.raises(Internal, match="disk full"):
            leases.take(NETWORK, "one", [PortMapping(80, host_ip="127.0.0.1")])
    assert leases.used(NETWORK.id) == 0
    db.close()


def test_reconcile_keeps_the_living_and_restores_what_they_lack(db: GraphDB) -> None:
    leases = start(db)
    leases.take(NETWORK, "dead", [PortMapping(80, PORT, "127.0.0.1")])
    living = Endpoint("bridge", NETWORK.id, "10.210.0.4/29", ports=(PortMapping(80, PORT, "127.0.0.1"),))
    assert leases.reconcile([NETWORK], {"living": living}) == 2
    assert db.edges("address") == {f"{NETWORK.id}/10.210.0.4": "living"}
    assert db.edges("port") == {f"tcp/127.0.0.1/{PORT}": "living"}
    assert leases.used(NETWORK.id) == 1
    with pytest.raises(AlreadyExists, match="container living"):
        leases.take(NETWORK, "new", [PortMapping(80, PORT)])
    assert leases.reconcile([NETWORK], {"living": living}) == 0


def test_reconcile_drops_leases_of_unknown_networks(db: GraphDB) -> None:
    with db.transaction() as tx:
        tx.link("address", "gone/10.9.0.2", "one")
    assert start(db).reconcile([NETWORK], {"one": Endpoint("gone", "gone", "10.9.0.2/24")}) == 1
    assert db.edges("address") == {}


def test_unknown_network(db: GraphDB) -> None:
    with pytest.raises(NotFound):
        Leases(db, PortAllocator([])).take(NETWORK, "one", [])
