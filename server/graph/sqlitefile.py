"""The GraphDB's file: opening it safely, reading it whole, writing one batch of changes in one transaction.

Never does opening a damaged file empty it: a new database is made under another name and renamed into place, so that an empty or
foreign file under the real name is always an error that says what to do.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from moorage.server.errors import DataLoss, FailedPrecondition, Internal, ResourceExhausted
from moorage.server.graph.syncing import sync_directory
from moorage.server.model import Event

APPLICATION_ID = 0x4D6F6F72
""""Moor" in the file's header: tells our database from any other SQLite file."""

SCHEMA_VERSION = 1

SCHEMA = """
CREATE TABLE nodes (kind TEXT NOT NULL, id TEXT NOT NULL, data BLOB NOT NULL, UNIQUE (kind, id));
CREATE TABLE edges (kind TEXT NOT NULL, name TEXT NOT NULL, source TEXT NOT NULL, target TEXT NOT NULL, UNIQUE (kind, name));
CREATE TABLE events (sequence INTEGER PRIMARY KEY AUTOINCREMENT, time_ns INTEGER NOT NULL, kind TEXT NOT NULL, action TEXT NOT NULL,
                     id TEXT NOT NULL, name TEXT NOT NULL, attributes BLOB NOT NULL);
"""

PUT_NODE = "INSERT INTO nodes VALUES (?, ?, ?) ON CONFLICT (kind, id) DO UPDATE SET data = excluded.data"
PUT_EDGE = (
    "INSERT INTO edges VALUES (?, ?, ?, ?) "
    "ON CONFLICT (kind, name) DO UPDATE SET source = excluded.source, target = excluded.target"
)

REPAIR_HINT = (
    "stop the daemon, keep a copy of the file and of its -wal beside it, then either put back a backup or recover it with "
    "`sqlite3 FILE .recover`; moving it away starts with no images, containers or networks known"
)


@dataclass(frozen=True)
class Edge:
    """Where a named edge comes from and leads to. `source` is empty for an edge from the root."""

    source: str
    target: str


@dataclass
class Changes:
    """One transaction's outcome: by key the new state, None for gone."""

    nodes: dict[tuple[str, str], bytes | None] = field(default_factory=dict)
    edges: dict[tuple[str, str], Edge | None] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)


class SQLiteFile:
    """One connection to one file, which it holds alone (`locking_mode=EXCLUSIVE`). Not thread-safe: the GraphDB serialises."""

    def __init__(self, path: Path) -> None:
        """Open or create `path` (0600). Raises DataLoss, FailedPrecondition (newer schema, in use), ResourceExhausted, Internal."""
        self._path = path
        with self._errors("open"):
            if not path.exists():
                self._create()
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0)
            try:
                self._verify()
            except BaseException:
                self._db.close()
                raise

    def _create(self) -> None:
        # A log without its database would be replayed into the new file.
        wal = Path(f"{self._path}-wal")
        if wal.exists():
            raise DataLoss(f"cannot open graph database {self._path}: {wal} exists without it", hint=REPAIR_HINT)
        draft = Path(f"{self._path}.new")
        draft.unlink(missing_ok=True)
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        db = sqlite3.connect(draft, isolation_level=None)
        try:
            db.executescript(SCHEMA)
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        finally:
            db.close()
        draft.rename(self._path)
        sync_directory(self._path.parent)

    def _verify(self) -> None:
        self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
        if self._pragma("application_id") != APPLICATION_ID:
            raise DataLoss(
                f"cannot open graph database {self._path}: not a graph database of moorage", hint=REPAIR_HINT
            )
        version = self._pragma("user_version")
        if version > SCHEMA_VERSION:
            raise FailedPrecondition(
                f"cannot open graph database {self._path}: schema version {version} is newer than {SCHEMA_VERSION}",
                hint="start the newer moorage that wrote it",
            )
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        damage = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if damage != "ok":
            raise DataLoss(f"cannot open graph database {self._path}: {damage}", hint=REPAIR_HINT)

    def _pragma(self, name: str) -> int:
        return int(self._db.execute(f"PRAGMA {name}").fetchone()[0])

    def nodes(self) -> Iterator[tuple[str, str, bytes]]:
        """(kind, id, JSON) of every node, oldest first."""
        with self._errors("read"):
            yield from self._db.execute("SELECT kind, id, data FROM nodes ORDER BY rowid")

    def edges(self) -> Iterator[tuple[str, str, str, str]]:
        """(kind, name, source, target) of every edge."""
        with self._errors("read"):
            yield from self._db.execute("SELECT kind, name, source, target FROM edges ORDER BY rowid")

    def event_bounds(self) -> tuple[int, int]:
        """First sequence number kept, and last one given; first is last + 1 when none is kept."""
        with self._errors("read"):
            first = self._db.execute("SELECT min(sequence) FROM events").fetchone()[0]
            row = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchone()
        last = row[0] if row else 0
        return (last + 1 if first is None else first), last

    def events(self, after: int, limit: int) -> list[Event]:
        """The events that follow sequence number `after`, at most `limit`."""
        query = "SELECT * FROM events WHERE sequence > ? ORDER BY sequence LIMIT ?"
        with self._errors("read"):
            rows = self._db.execute(query, (after, limit)).fetchall()
        return [_event(row) for row in rows]

    def write(self, changes: Changes, *, oldest_event: int, durable: bool) -> None:
        """Commit `changes`, all or nothing; events before `oldest_event` go. `durable`: on disk when this returns."""
        with self._errors("write"):
            self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._write_rows(changes, oldest_event)
                self._db.execute("COMMIT")
            except BaseException:
                # SQLite has rolled back by itself after some errors (a full disk).
                with suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise

    def _write_rows(self, changes: Changes, oldest_event: int) -> None:
        run = self._db.executemany
        run("DELETE FROM nodes WHERE kind = ? AND id = ?", [key for key, data in changes.nodes.items() if data is None])
        run(
            "DELETE FROM edges WHERE kind = ? AND name = ?",
            [key for key, edge in changes.edges.items() if edge is None],
        )
        run(PUT_NODE, [(*key, data) for key, data in changes.nodes.items() if data is not None])
        run(PUT_EDGE, [(*key, edge.source, edge.target) for key, edge in changes.edges.items() if edge is not None])
        if changes.events:
            run("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?)", [_event_row(event) for event in changes.events])
            self._db.execute("DELETE FROM events WHERE sequence < ?", (oldest_event,))

    def close(self) -> None:
        """Checkpoint and close."""
        with self._errors("close"):
            self._db.close()

    @contextmanager
    def _errors(self, action: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            message = f"cannot {action} graph database {self._path}: {error}"
            if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                raise DataLoss(message, hint=REPAIR_HINT) from error
            if code == sqlite3.SQLITE_FULL:
                raise ResourceExhausted(message, path=self._path) from error
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise FailedPrecondition(f"{message}: another process has it open") from error
            raise Internal(message, path=self._path) from error
        except OSError as error:
            raise Internal(f"cannot {action} graph database {self._path}: {error.strerror}", path=self._path) from error


def _event_row(event: Event) -> tuple[int, int, str, str, str, str, bytes]:
    attributes = msgspec.json.encode(event.attributes)
    return event.sequence, event.time_ns, event.kind, event.action, event.id, event.name, attributes


def _event(row: tuple[int, int, str, str, str, str, bytes]) -> Event:
    sequence, time_ns, kind, action, id, name, attributes = row
    return Event(sequence, time_ns, kind, action, id, name, msgspec.json.decode(attributes, type=dict[str, str]))
