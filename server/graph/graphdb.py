"""The GraphDB: named nodes and the relations between them, in one SQLite file, read from memory.

A node is a kind, an ID and a dataclass of `server/model.py` as JSON. An edge is a kind, a name that is unique within the kind, and the ID
it leads to: names are edges, so a name can be held once only. IDs are unique across kinds as far as edges are concerned.

    with db.transaction(durable=True) as tx:
        tx.put("container", container.id, container)
        tx.link("name", "web", container.id)                 # AlreadyExists: name "web" is taken
        tx.event("container", "create", container.id, "web", image="busybox:latest")
    db.lookup("name", "web")                                 # a dict lookup

A transaction collects its changes, and only its commit touches the file: one short SQLite transaction, after which memory follows and
subscribers are told. A node goes only when no edge leads to it any more at the commit (FailedPrecondition otherwise); the edges that
have it as `source` go with it.

What survives: every commit survives the death of the daemon (the write-ahead log is in the kernel's hands then). A power loss can take
the last commits (`synchronous=NORMAL`), never half of one and never the file's integrity; a `durable=True` commit (`synchronous=FULL`)
is on disk when it returns, with all before it. Callers ask for that where a name or an exit code was promised: it costs an fsync.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from moorage.server.errors import AlreadyExists, DataLoss, FailedPrecondition
from moorage.server.graph.sqlitefile import REPAIR_HINT, Changes, Edge, SQLiteFile
from moorage.server.model import Event

T = TypeVar("T")
Subscriber = Callable[[list[Event]], None]
Index = dict[str, dict[str, set[str]]]
"""Of edges, by the ID at one of their ends: kind to names."""

log = logging.getLogger(__name__)


class Node:
    """A node in memory: its JSON, decoded when first asked for."""

    __slots__ = ("data", "value")

    def __init__(self, data: bytes, value: Any = None) -> None:
        self.data = data
        self.value = value

    def decode(self, type: type[T]) -> T:
        value = self.value
        if value.__class__ is not type:
            self.value = value = msgspec.json.decode(self.data, type=type)
        return value


class Memory:
    """The whole graph as dicts. The owner's lock guards it."""

    def __init__(self) -> None:
        self.nodes: dict[str, dict[str, Node]] = {}
        self.edges: dict[str, dict[str, Edge]] = {}
        self.incoming: Index = {}
        self.outgoing: Index = {}

    def put(self, kind: str, id: str, node: Node | None) -> None:
        if node is None:
            self.nodes.get(kind, {}).pop(id, None)
        else:
            self.nodes.setdefault(kind, {})[id] = node

    def link(self, kind: str, name: str, edge: Edge | None) -> None:
        old = self.edges.get(kind, {}).pop(name, None)
        if old is not None:
            _discard(self.incoming, old.target, kind, name)
            _discard(self.outgoing, old.source, kind, name)
        if edge is not None:
            self.edges.setdefault(kind, {})[name] = edge
            self.incoming.setdefault(edge.target, {}).setdefault(kind, set()).add(name)
            if edge.source:
                self.outgoing.setdefault(edge.source, {}).setdefault(kind, set()).add(name)


def _discard(index: Index, id: str, kind: str, name: str) -> None:
    kinds = index.get(id, {})
    if kind in kinds:
        kinds[kind].discard(name)
        if not kinds[kind]:
            del kinds[kind]
        if not kinds:
            del index[id]


def _keys(index: Index, id: str) -> list[tuple[str, str]]:
    return [(kind, name) for kind, names in index.get(id, {}).items() for name in names]


class Transaction:
    """Changes collected until the `with` block ends. Reads see them; other threads do not before the commit."""

    def __init__(self, memory: Memory, last_sequence: int) -> None:
        self._memory = memory
        self._last_sequence = last_sequence
        self._nodes: dict[tuple[str, str], Node | None] = {}
        self._edges: dict[tuple[str, str], Edge | None] = {}
        self._events: list[Event] = []

    def get(self, kind: str, id: str, type: type[T]) -> T | None:
        """The node as it will be after the commit."""
        key = (kind, id)
        node = self._nodes[key] if key in self._nodes else self._memory.nodes.get(kind, {}).get(id)
        return None if node is None else node.decode(type)

    def put(self, kind: str, id: str, value: object) -> None:
        """Make or replace a node. `value` is a dataclass and must not change afterwards."""
        self._nodes[(kind, id)] = Node(msgspec.json.encode(value), value)

    def delete(self, kind: str, id: str) -> None:
        """Delete a node and the edges that go out of it; missing is fine. Edges that lead to it are checked at the commit."""
        self._nodes[(kind, id)] = None

    def lookup(self, edge: str, name: str) -> str | None:
        """Where a named edge will lead after the commit."""
        found = self._edge(edge, name)
        return None if found is None else found.target

    def names(self, edge: str, target: str) -> list[str]:
        """The names of the edges of this kind that will lead to `target`, sorted."""
        return sorted(name for kind, name in self._incoming(target) if kind == edge)

    def targets(self, edge: str, source: str) -> list[str]:
        """Where the edges of this kind from `source` will lead, sorted."""
        found = (self._edge(kind, name) for kind, name in self._outgoing(source) if kind == edge)
        return sorted({each.target for each in found if each is not None})

    def link(self, edge: str, name: str, target: str, source: str = "") -> None:
        """Make a named edge. Raises AlreadyExists when the name is taken, wherever it leads."""
        taken = self._edge(edge, name)
        if taken is not None:
            raise AlreadyExists(
                f'{edge} "{name}" is in use by {taken.target}',
                reason="NAME_IN_USE",
                edge=edge,
                name=name,
                target=taken.target,
            )
        self._edges[(edge, name)] = Edge(source, target)

    def unlink(self, edge: str, name: str) -> None:
        """Delete a named edge; missing is fine."""
        self._edges[(edge, name)] = None

    def event(self, kind: str, action: str, id: str, name: str, **attributes: object) -> Event:
        """Record that something happened; told to subscribers after the commit."""
        sequence = self._last_sequence + len(self._events) + 1
        texts = {key: str(value) for key, value in attributes.items()}
        self._events.append(Event(sequence, time.time_ns(), kind, action, id, name, texts))
        return self._events[-1]

    def _edge(self, kind: str, name: str) -> Edge | None:
        key = (kind, name)
        return self._edges[key] if key in self._edges else self._memory.edges.get(kind, {}).get(name)

    def _incoming(self, id: str) -> list[tuple[str, str]]:
        kept = [key for key in _keys(self._memory.incoming, id) if key not in self._edges]
        return kept + [key for key, edge in self._edges.items() if edge is not None and edge.target == id]

    def _outgoing(self, id: str) -> list[tuple[str, str]]:
        kept = [key for key in _keys(self._memory.outgoing, id) if key not in self._edges]
        return kept + [key for key, edge in self._edges.items() if edge is not None and edge.source == id]

    def finish(self) -> Changes:
        """Check what can be checked at the end only, and answer the outcome."""
        gone = [(kind, id) for (kind, id), node in self._nodes.items() if node is None and not self._remains(kind, id)]
        for _, id in gone:
            for key in self._outgoing(id):
                self._edges[key] = None
        for kind, id in gone:
            holders = sorted(self._incoming(id))
            if holders and id in self._memory.nodes.get(kind, {}):
                edge, name = holders[0]
                raise FailedPrecondition(
                    f'cannot delete {kind} {id}: {edge} "{name}" leads to it',
                    reason="IN_USE",
                    edge=edge,
                    name=name,
                    id=id,
                )
        nodes = {key: None if node is None else node.data for key, node in self._nodes.items()}
        return Changes(nodes, dict(self._edges), self._events)

    def _remains(self, kind: str, id: str) -> bool:
        """Whether a node of another kind will still have this ID."""
        if any(node is not None and other == id for (_, other), node in self._nodes.items()):
            return True
        deleted = {other for (other, its_id), node in self._nodes.items() if node is None and its_id == id}
        return any(id in nodes for other, nodes in self._memory.nodes.items() if other not in deleted and other != kind)

    def apply(self, memory: Memory) -> None:
        for (kind, id), node in self._nodes.items():
            memory.put(kind, id, node)
        for (kind, name), edge in self._edges.items():
            memory.link(kind, name, edge)


class GraphDB:
    """Thread-safe. Reads are dict lookups; transactions run one at a time."""

    def __init__(self, path: str | Path, *, event_limit: int = 100_000) -> None:
        """Open or create the file at `path`, keeping the last `event_limit` (1 or more) events.

        Raises DataLoss for a file that is damaged or not ours (it is left as it is), FailedPrecondition for a newer schema or when
        another process has it open.
        """
        self._path = Path(path)
        self._event_limit = event_limit
        self._writer = threading.Lock()
        self._writing_thread = 0
        self._file_lock = threading.Lock()
        self._memory_lock = threading.Lock()
        self._memory = Memory()
        self._subscribers: list[Subscriber] = []
        self._file = SQLiteFile(self._path)
        try:
            self._load()
        except BaseException:
            self._file.close()
            raise

    def _load(self) -> None:
        for kind, id, data in self._file.nodes():
            self._memory.put(kind, id, Node(data))
        for kind, name, source, target in self._file.edges():
            self._memory.link(kind, name, Edge(source, target))
        self._first_sequence, self._last_sequence = self._file.event_bounds()

    def get(self, kind: str, id: str, type: type[T]) -> T | None:
        """The node, or None. Raises DataLoss when what is stored is not a `type`."""
        with self._memory_lock:
            node = self._memory.nodes.get(kind, {}).get(id)
        return None if node is None else self._decode(kind, id, node, type)

    def all(self, kind: str, type: type[T]) -> list[T]:
        """Every node of a kind, oldest first."""
        with self._memory_lock:
            nodes = list(self._memory.nodes.get(kind, {}).items())
        return [self._decode(kind, id, node, type) for id, node in nodes]

    def find(self, kind: str, prefix: str) -> list[str]:
        """The IDs of a kind that begin with `prefix`, sorted."""
        with self._memory_lock:
            return sorted(id for id in self._memory.nodes.get(kind, {}) if id.startswith(prefix))

    def lookup(self, edge: str, name: str) -> str | None:
        """The ID that a named edge leads to."""
        with self._memory_lock:
            found = self._memory.edges.get(edge, {}).get(name)
        return None if found is None else found.target

    def edges(self, edge: str) -> dict[str, str]:
        """Every edge of a kind: name to target."""
        with self._memory_lock:
            return {name: found.target for name, found in self._memory.edges.get(edge, {}).items()}

    def names(self, edge: str, target: str) -> list[str]:
        """The names of the edges of a kind that lead to `target`, sorted."""
        with self._memory_lock:
            return sorted(self._memory.incoming.get(target, {}).get(edge, ()))

    def targets(self, edge: str, source: str) -> list[str]:
        """Where the edges of a kind from `source` lead, sorted."""
        with self._memory_lock:
            names = self._memory.outgoing.get(source, {}).get(edge, ())
            return sorted({self._memory.edges[edge][name].target for name in names})

    def _decode(self, kind: str, id: str, node: Node, type: type[T]) -> T:
        try:
            return node.decode(type)
        except msgspec.DecodeError as error:
            message = f"cannot read {kind} {id} of graph database {self._path}: {error}"
            raise DataLoss(message, hint=REPAIR_HINT) from error

    @contextmanager
    def transaction(self, *, durable: bool = False) -> Iterator[Transaction]:
        """All or nothing: an exception in the block leaves everything as it was. Do no slow work in it; transactions do not nest.

        `durable`: the commit is on disk when the block ends (see the module's text).
        """
        if self._writing_thread == threading.get_ident():
            raise RuntimeError("a transaction of the graph database is open in this thread already")
        with self._writer:
            self._writing_thread = threading.get_ident()
            try:
                transaction = Transaction(self._memory, self._last_sequence)
                yield transaction
                self._commit(transaction, durable)
            finally:
                self._writing_thread = 0

    def _commit(self, transaction: Transaction, durable: bool) -> None:
        changes = transaction.finish()
        last = self._last_sequence + len(changes.events)
        oldest = max(self._first_sequence, last - self._event_limit + 1)
        with self._file_lock:
            self._file.write(changes, oldest_event=oldest, durable=durable)
            self._first_sequence, self._last_sequence = oldest, last
        with self._memory_lock:
            transaction.apply(self._memory)
        if changes.events:
            self._publish(changes.events)

    def _publish(self, events: list[Event]) -> None:
        for subscriber in list(self._subscribers):
            try:
                subscriber(events)
            except Exception:
                log.exception("a subscriber of the graph database's events failed")

    def events(self, after: int, limit: int) -> list[Event]:
        """At most `limit` events that follow sequence number `after`. Some are missing when `after + 1 < first_sequence`."""
        with self._file_lock:
            return self._file.events(after, limit)

    @property
    def first_sequence(self) -> int:
        """The oldest event kept; `last_sequence + 1` when there is none."""
        return self._first_sequence

    @property
    def last_sequence(self) -> int:
        """The newest event's sequence number, 0 before the first."""
        return self._last_sequence

    def subscribe(self, callback: Subscriber) -> Callable[[], None]:
        """Have `callback` called with each commit's events, in order, from the committing thread while it still holds the writer's lock:
        it must be quick and start no transaction. Answers what ends the subscription."""
        self._subscribers = [*self._subscribers, callback]

        def unsubscribe() -> None:
            self._subscribers = [other for other in self._subscribers if other is not callback]

        return unsubscribe

    def viz(self) -> str:
        """The whole graph in the dot language."""
        with self._memory_lock:
            nodes = [(kind, id) for kind, of_kind in self._memory.nodes.items() for id in of_kind]
            edges = [
                (kind, name, edge) for kind, of_kind in self._memory.edges.items() for name, edge in of_kind.items()
            ]
        lines = [f"  {_quote(id)} [label={_quote(f'{kind} {short_id(id)}')}];" for kind, id in nodes]
        for kind, name, edge in edges:
            lines.append(f"  {_quote(edge.source or '/')} -> {_quote(edge.target)} [label={_quote(f'{kind} {name}')}];")
        return "\n".join(["digraph moorage {", "  rankdir=LR;", *lines, "}", ""])

    def close(self) -> None:
        """Checkpoint the log into the file and close it."""
        with self._writer, self._file_lock:
            self._file.close()


def short_id(id: str) -> str:
    """The first 12 digits: enough for people."""
    return id.removeprefix("sha256:")[:12]


def _quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
