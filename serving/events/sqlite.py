"""The event log as a table of a SQLite file, for those who want to ask it questions."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from mantlet.errors import ConfigError, StoreError
from serving.events import audit
from serving.events.chain import Chain, Record
from serving.events.kinds import Event

SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS events (
    number INTEGER PRIMARY KEY, at REAL NOT NULL, kind TEXT NOT NULL, line BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS head (one INTEGER PRIMARY KEY CHECK (one = 1), line BLOB NOT NULL);
"""
LAST = "SELECT line FROM events ORDER BY number DESC LIMIT 1"
BUSY_S = 10.0


class SqliteFile:
    """The sealed lines in ``events.line``; ``number``, ``at`` and ``kind`` are there to be asked for.

    Records and head change in one transaction, so nothing is ever torn.
    """

    def __init__(self, path: Path, chain: Chain) -> None:
        self._path = path
        self._chain = chain

    def append(self, entries: Sequence[tuple[float, Event]], at: float) -> list[Record]:
        """Write events with their times, after one that tells of a repair made at ``at``."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._open("rwc") as db:
                db.executescript(SCHEMA)
                db.execute("BEGIN IMMEDIATE")
                tip, repaired = audit.resume(
                    self._chain, _one(db, LAST), _head(db), torn=0, where=str(self._path)
                )
                told = [(at, repaired)] if repaired else []
                records = self._chain.records(tip, [*told, *entries])
                rows = [(r.number, r.at, r.event.kind, r.line) for r in records]
                db.executemany("INSERT INTO events VALUES (?, ?, ?, ?)", rows)
                head = self._chain.head(records[-1].tip if records else tip)
                db.execute("INSERT OR REPLACE INTO head VALUES (1, ?)", (head,))
                db.execute("COMMIT")
                return records
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"events '{self._path}' cannot be written: {error}") from error

    def lines(self, after: int) -> Iterator[bytes]:
        """The lines of the records whose number is greater than ``after``."""
        if not self._path.exists():
            return
        try:
            with self._open("ro") as db:
                sql = "SELECT line FROM events WHERE number > ? ORDER BY number"
                for (line,) in db.execute(sql, (after,)):
                    yield bytes(line)
        except sqlite3.Error as error:
            raise StoreError(f"events '{self._path}' cannot be read: {error}") from error

    def verify(self) -> audit.Report:
        """Check every record that the table has now."""
        where = str(self._path)
        if not self._path.exists():
            raise ConfigError(f"events '{where}': there are none; mantlet serve begins the log")
        try:
            with self._open("ro") as db:
                db.execute("BEGIN")  # head and records of one moment
                head = _head(db)
                lines = (
                    bytes(line) for (line,) in db.execute("SELECT line FROM events ORDER BY number")
                )
                return audit.check(self._chain, lines, head, unfinished=0, where=where)
        except sqlite3.Error as error:
            raise ConfigError(f"events '{where}' cannot be read: {error}") from error

    @contextmanager
    def _open(self, mode: str) -> Iterator[sqlite3.Connection]:
        uri = f"{self._path.absolute().as_uri()}?mode={mode}"
        with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_S, isolation_level=None)) as db:
            yield db


def _head(db: sqlite3.Connection) -> bytes | None:
    return _one(db, "SELECT line FROM head")


def _one(db: sqlite3.Connection, sql: str) -> bytes | None:
    row = db.execute(sql).fetchone()
    return None if row is None else bytes(row[0])
