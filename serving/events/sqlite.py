"""The event log as a table of a SQLite file, for those who want to ask it questions."""

import sqlite3
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from mantlet.errors import ConfigError, StoreError
from serving.events import audit
from serving.events.chain import Chain, Record
from serving.events.jsonl import alone
from serving.events.kinds import Event

SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS events (number INTEGER PRIMARY KEY, line TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS head (one INTEGER PRIMARY KEY CHECK (one = 1), line TEXT NOT NULL);
"""
LAST = "SELECT line FROM events ORDER BY number DESC LIMIT 1"
BUSY_S = 10.0


class SqliteFile:
    """The lines of the other form, in ``events.line``: SQLite's JSON functions can ask them questions.

    Records and head change in one transaction, so nothing is ever torn.
    """

    def __init__(self, path: Path, chain: Chain, most: int | None = None) -> None:
        del most  # rows of a table are taken out by their numbers
        self._path = path
        self._chain = chain

    def append(self, entries: Sequence[tuple[float, Event]], at: float) -> list[Record]:
        """Write events with their times, after one that tells of a repair made at ``at``."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.touch(mode=0o600)
            # SQLite itself does not wait while another process makes the file
            with alone(self._path.parent), self._open("rwc") as db:
                db.executescript(SCHEMA)
                db.execute("BEGIN IMMEDIATE")
                tip, repaired = audit.resume(
                    self._chain, _one(db, LAST), _head(db), torn=0, where=str(self._path)
                )
                told = [(at, repaired)] if repaired else []
                records = self._chain.records(tip, [*told, *entries])
                rows = [(record.number, record.line.decode()) for record in records]
                db.executemany("INSERT INTO events VALUES (?, ?)", rows)
                head = self._chain.head(records[-1].tip if records else tip).decode()
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
                yield from _lines(db, after)
        except sqlite3.Error as error:
            raise StoreError(f"events '{self._path}' cannot be read: {error}") from error

    def verify(self, files: Sequence[Path] = (), first: int = 1) -> audit.Report:
        """Check every record from number ``first`` that the table has now; there are no other ``files``."""
        where = str(self._path)
        if files:
            raise ConfigError(
                f"events '{where}' are a table, and none of it is in files; name none"
            )
        if not self._path.exists():
            raise ConfigError(f"events '{where}': there are none; mantlet serve begins the log")
        try:
            with self._open("ro") as db:
                db.execute("BEGIN")  # head and records of one moment
                head = _head(db)
                told = [(where, _lines(db, -sys.maxsize))]
                return audit.check(self._chain, told, head, unfinished=0, where=where, first=first)
        except sqlite3.Error as error:
            raise ConfigError(f"events '{where}' cannot be read: {error}") from error

    @contextmanager
    def _open(self, mode: str) -> Iterator[sqlite3.Connection]:
        uri = f"{self._path.absolute().as_uri()}?mode={mode}"
        with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_S, isolation_level=None)) as db:
            db.text_factory = bytes
            yield db


def _head(db: sqlite3.Connection) -> bytes | None:
    return _one(db, "SELECT line FROM head")


def _one(db: sqlite3.Connection, sql: str) -> bytes | None:
    row = db.execute(sql).fetchone()
    return None if row is None else _line(row[0])


def _lines(db: sqlite3.Connection, after: int) -> Iterator[bytes]:
    """Lines by their number; where the number is not the line's own, there is no record."""
    sql = "SELECT number, line FROM events WHERE number > ? ORDER BY number"
    for number, value in db.execute(sql, (after,)):
        line = _line(value)
        yield line if line.startswith(b'{"number":%d,' % number) else b""


def _line(value: object) -> bytes:
    return value if isinstance(value, bytes) else b""
