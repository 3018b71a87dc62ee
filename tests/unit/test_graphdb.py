"""The graph database: transactions, edges as names, events, what it refuses to open; and a model beside it."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moorage.server.errors import AlreadyExists, DataLoss, FailedPrecondition
from moorage.server.graph.graphdb import GraphDB
from moorage.server.model import Event, Network


@dataclass(frozen=True)
class Thing:
    id: str
    labels: dict[str, str]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "graph.db"


@pytest.fixture
def db(path: Path) -> Iterator[GraphDB]:
    with closing(GraphDB(path)) as db:
        yield db


def test_nodes_and_edges_survive_reopening(path: Path) -> None:
    network = Network(id="n1", name="front", driver="bridge", created_ns=5, labels={"a": "b"})
    with closing(GraphDB(path)) as db:
        with db.transaction(durable=True) as tx:
            tx.put("network", network.id, network)
            tx.link("network name", "front", "n1")
    with closing(GraphDB(path)) as db:
        assert db.get("network", "n1", Network) == network
        assert db.all("network", Network) == [network]
        assert db.lookup("network name", "front") == "n1"
        assert db.names("network name", "n1") == ["front"]
        assert db.edges("network name") == {"front": "n1"}
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_commit_survives_without_close(path: Path, tmp_path: Path) -> None:
    with closing(GraphDB(path)) as db:
        with db.transaction() as tx:
            tx.put("thing", "a", Thing("a", {}))
            tx.event("thing", "create", "a", "name-a")
        crashed = tmp_path / "crashed"
        crashed.mkdir()
        for file in (path, Path(f"{path}-wal")):
            (crashed / file.name).write_bytes(file.read_bytes())
    with closing(GraphDB(crashed / path.name)) as again:
        assert again.get("thing", "a", Thing) == Thing("a", {})
        assert [event.action for event in again.events(0, 10)] == ["create"]


def test_an_aborted_transaction_leaves_nothing(db: GraphDB) -> None:
    with pytest.raises(ZeroDivisionError), db.transaction() as tx:
        tx.put("thing", "a", Thing("a", {}))
        tx.link("name", "web", "a")
        tx.event("thing", "create", "a", "web")
        assert tx.get("thing", "a", Thing) == Thing("a", {})
        assert tx.lookup("name", "web") == "a"
        raise ZeroDivisionError
    assert db.get("thing", "a", Thing) is None
    assert db.lookup("name", "web") is None
    assert db.events(0, 10) == []
    assert db.last_sequence == 0


def test_a_name_is_held_once(db: GraphDB) -> None:
    with db.transaction() as tx:
        tx.link("name", "web", "a")
    with pytest.raises(AlreadyExists, match='name "web" is in use by a') as caught, db.transaction() as tx:
        tx.link("name", "web", "b")
    assert caught.value.metadata == {"edge": "name", "name": "web", "target": "a"}
    with db.transaction() as tx:
        tx.unlink("name", "web")
        tx.link("name", "web", "b")
        tx.link("tag", "web", "c")
    assert db.lookup("name", "web") == "b"
    assert db.names("name", "a") == []


def test_a_node_that_an_edge_leads_to_stays(db: GraphDB) -> None:
    with db.transaction() as tx:
        tx.put("image", "i", Thing("i", {}))
        tx.link("tag", "busybox:latest", "i")
    with (
        pytest.raises(FailedPrecondition, match='cannot delete image i: tag "busybox:latest" leads to it'),
        db.transaction() as tx,
    ):
        tx.delete("image", "i")
    assert db.get("image", "i", Thing) is not None
    with db.transaction() as tx:
        tx.delete("image", "i")
        tx.unlink("tag", "busybox:latest")
    assert db.get("image", "i", Thing) is None


def test_edges_out_of_a_node_go_with_it(db: GraphDB) -> None:
    with db.transaction() as tx:
        tx.put("image", "i", Thing("i", {}))
        tx.put("layer", "l", Thing("l", {}))
        tx.link("layer", "i/0", "l", source="i")
    with db.transaction() as tx:
        tx.delete("image", "i")
        tx.delete("layer", "l")
    assert db.edges("layer") == {}
    assert db.all("layer", Thing) == []


def test_an_id_kept_by_another_kind_keeps_its_edges(db: GraphDB) -> None:
    with db.transaction() as tx:
        tx.put("container", "c", Thing("c", {}))
        tx.put("lease", "c", Thing("c", {}))
        tx.link("name", "web", "c")
    with db.transaction() as tx:
        tx.delete("lease", "c")
    assert db.lookup("name", "web") == "c"


def test_find_answers_ids_by_prefix(db: GraphDB) -> None:
    with db.transaction() as tx:
        for id in ("ab2", "ab1", "b"):
            tx.put("thing", id, Thing(id, {}))
    assert db.find("thing", "ab") == ["ab1", "ab2"]
    assert db.find("thing", "c") == []
    assert db.find("other", "") == []


def test_a_stored_value_of_another_shape_is_data_loss(db: GraphDB) -> None:
    with db.transaction() as tx:
        tx.put("network", "n", Thing("n", {}))
    with pytest.raises(DataLoss, match="cannot read network n of graph database"):
        db.get("network", "n", Network)


def test_transactions_do_not_nest(db: GraphDB) -> None:
    with db.transaction(), pytest.raises(RuntimeError, match="open in this thread"), db.transaction():
        pass
    with db.transaction() as tx:
        tx.put("thing", "a", Thing("a", {}))
    assert db.find("thing", "") == ["a"]


def test_transactions_of_many_threads_take_turns(db: GraphDB) -> None:
    with db.transaction() as tx:
        tx.put("thing", "n", Thing("n", {"count": "0"}))

    def count() -> None:
        for _ in range(25):
            with db.transaction() as tx:
                thing = tx.get("thing", "n", Thing)
                assert thing is not None
                tx.put("thing", "n", Thing("n", {"count": str(int(thing.labels["count"]) + 1)}))
                tx.event("thing", "count", "n", "")

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert db.get("thing", "n", Thing) == Thing("n", {"count": "100"})
    assert [event.sequence for event in db.events(0, 1000)] == list(range(1, 101))


def test_events_are_numbered_kept_up_to_the_limit_and_resumable(path: Path) -> None:
    with closing(GraphDB(path, event_limit=5)) as db:
        assert (db.first_sequence, db.last_sequence) == (1, 0)
        for number in range(8):
            with db.transaction() as tx:
                tx.event("thing", "tick", f"id{number}", "name", number=number)
        assert (db.first_sequence, db.last_sequence) == (4, 8)
        assert [event.sequence for event in db.events(0, 3)] == [4, 5, 6]
        last = db.events(7, 10)
        assert [(event.id, event.attributes) for event in last] == [("id7", {"number": "7"})]
    with closing(GraphDB(path, event_limit=5)) as db:
        assert (db.first_sequence, db.last_sequence) == (4, 8)
        assert db.events(7, 10) == last


def test_subscribers_hear_of_commits_only_and_in_order(db: GraphDB, caplog: pytest.LogCaptureFixture) -> None:
    heard: list[Event] = []

    def broken(events: list[Event]) -> None:
        raise ValueError(events[0].action)

    db.subscribe(broken)
    end = db.subscribe(heard.extend)
    with db.transaction() as tx:
        tx.event("thing", "one", "a", "")
        tx.event("thing", "two", "a", "")
        assert heard == []
    with pytest.raises(KeyError), db.transaction() as tx:
        tx.event("thing", "aborted", "a", "")
        raise KeyError
    end()
    with db.transaction() as tx:
        tx.event("thing", "three", "a", "")
    assert [event.action for event in heard] == ["one", "two"]
    assert heard == db.events(0, 2)
    assert "a subscriber of the graph database's events failed" in caplog.text


def test_the_second_opener_is_refused(db: GraphDB, path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="another process has it open"):
        GraphDB(path)


@pytest.mark.parametrize(
    "content", [b"", b"not a database at all, but long enough to be looked at" * 20], ids=["empty", "garbage"]
)
def test_a_damaged_file_is_refused_and_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(DataLoss, match=r"graph\.db") as caught:
        GraphDB(path)
    assert "backup" in caught.value.hint
    assert path.read_bytes() == content


def test_a_torn_page_is_refused_and_left_alone(path: Path) -> None:
    with closing(GraphDB(path)) as db:
        with db.transaction() as tx:
            for number in range(500):
                tx.put("thing", f"id{number}", Thing("x" * 100, {}))
    content = bytearray(path.read_bytes())
    for page in range(2, len(content) // 4096):
        content[page * 4096 : page * 4096 + 64] = b"\xff" * 64
    path.write_bytes(content)
    with pytest.raises(DataLoss):
        GraphDB(path)
    assert path.read_bytes() == content


def test_a_log_without_its_database_is_refused(path: Path) -> None:
    wal = Path(f"{path}-wal")
    wal.write_bytes(b"log")
    with pytest.raises(DataLoss, match="exists without it"):
        GraphDB(path)
    assert wal.read_bytes() == b"log"
    assert not path.exists()


def test_another_programs_database_is_refused(path: Path) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE t (x)")
    with pytest.raises(DataLoss, match="not a graph database of moorage"):
        GraphDB(path)


def test_a_newer_schema_is_refused(path: Path) -> None:
    GraphDB(path).close()
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("PRAGMA user_version = 99")
    with pytest.raises(FailedPrecondition, match="schema version 99 is newer than 1"):
        GraphDB(path)


def test_viz_draws_every_node_and_edge(db: GraphDB) -> None:
    with db.transaction() as tx:
        tx.put("image", "sha256:abc", Thing("", {}))
        tx.link("tag", 'odd"name', "sha256:abc")
    dot = db.viz()
    assert '"sha256:abc" [label="image abc"];' in dot
    assert '"/" -> "sha256:abc" [label="tag odd\\"name"];' in dot


# A model beside the database: random transactions, some aborted, then the file opened again.

IDS = st.sampled_from("abcd")
NAMES = st.sampled_from(["one", "two", "three"])
STEPS = st.one_of(
    st.tuples(st.just("put"), IDS, st.integers(0, 9)),
    st.tuples(st.just("delete"), IDS),
    st.tuples(st.just("link"), NAMES, IDS, IDS | st.just("")),
    st.tuples(st.just("unlink"), NAMES),
    st.tuples(st.just("event")),
)
TRANSACTIONS = st.lists(st.tuples(st.lists(STEPS, max_size=6), st.booleans()), max_size=12)


class Abort(Exception):
    pass


class Model:
    def __init__(self) -> None:
        self.nodes: dict[str, int] = {}
        self.edges: dict[str, tuple[str, str]] = {}
        self.events = 0

    def copy(self) -> Model:
        copy = Model()
        copy.nodes, copy.edges, copy.events = dict(self.nodes), dict(self.edges), self.events
        return copy

    def run(self, steps: list[tuple]) -> bool:  # type: ignore[type-arg]
        """Whether the transaction may commit."""
        before = set(self.nodes)
        for step in steps:
            match step:
                case ("put", id, number):
                    self.nodes[id] = number
                case ("delete", id):
                    self.nodes.pop(id, None)
                case ("link", name, target, source):
                    if name in self.edges:
                        return False
                    self.edges[name] = (source, target)
                case ("unlink", name):
                    self.edges.pop(name, None)
                case ("event",):
                    self.events += 1
        touched = {step[1] for step in steps if step[0] == "delete"} - set(self.nodes)
        self.edges = {name: edge for name, edge in self.edges.items() if edge[0] not in touched}
        return not any(target in touched & before for _, target in self.edges.values())


def run(db: GraphDB, steps: list[tuple], abort: bool) -> None:  # type: ignore[type-arg]
    with db.transaction() as tx:
        for step in steps:
            match step:
                case ("put", id, number):
                    tx.put("thing", id, Thing(id, {"n": str(number)}))
                case ("event",):
                    tx.event("thing", "tick", "x", "")
                case ("link", name, target, source):
                    tx.link("name", name, target, source)
                case ("delete", id):
                    tx.delete("thing", id)
                case ("unlink", name):
                    tx.unlink("name", name)
        if abort:
            raise Abort


def check(db: GraphDB, model: Model) -> None:
    assert {thing.id: int(thing.labels["n"]) for thing in db.all("thing", Thing)} == model.nodes
    assert db.edges("name") == {name: target for name, (_, target) in model.edges.items()}
    for id in "abcd":
        assert db.names("name", id) == sorted(name for name, (_, target) in model.edges.items() if target == id)
    assert db.last_sequence == model.events == len(db.events(0, 1000))


@given(TRANSACTIONS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_database_does_as_its_model(transactions: list[tuple[list[tuple], bool]]) -> None:  # type: ignore[type-arg]
    with TemporaryDirectory(prefix="moorage-graphdb-") as directory:
        path = Path(directory) / "graph.db"
        model = Model()
        with closing(GraphDB(path)) as db:
            for steps, abort in transactions:
                draft = model.copy()
                allowed = draft.run(steps) and not abort
                try:
                    run(db, steps, abort)
                    assert allowed
                    model = draft
                except (Abort, AlreadyExists, FailedPrecondition):
                    assert not allowed
                check(db, model)
        with closing(GraphDB(path)) as db:
            check(db, model)
