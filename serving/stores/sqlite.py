"""Memory of clients in a SQLite file: one node, several processes, survives kill -9."""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from mantlet.errors import ConfigError, StoreAway, StoreError
from serving.stores.base import Entry, pack, unpack
from serving.stores.counters import Count, Counters

SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
PRAGMA busy_timeout = 5000;
PRAGMA wal_autocheckpoint = 4000;
CREATE TABLE IF NOT EXISTS clients (
    key TEXT PRIMARY KEY, version INTEGER NOT NULL, memory BLOB NOT NULL, hour INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS clients_by_hour ON clients (hour);
CREATE TABLE IF NOT EXISTS counters (
    key TEXT PRIMARY KEY, value INTEGER NOT NULL, expires REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS counters_by_expiry ON counters (expires);
"""
FORGET_CLIENTS = """
DELETE FROM clients WHERE key IN (SELECT key FROM clients WHERE hour < ? LIMIT ?)
"""
FORGET_COUNTERS = """
DELETE FROM counters WHERE key IN (SELECT key FROM counters WHERE expires <= ? LIMIT ?)
"""
SWAP = "UPDATE clients SET version = version + 1, memory = ? WHERE key = ? AND version = ?"
SWAP_LATER = (
    "UPDATE clients SET version = version + 1, memory = ?, hour = ? WHERE key = ? AND version = ?"
)
"""In another hour than the last: an index that is named in an update is written, whatever the value."""
COUNT = """
UPDATE counters SET value = value + ? WHERE key = ? AND expires > ? RETURNING value, expires
"""
COUNT_ANEW = """
INSERT INTO counters VALUES (?1, ?2, ?3) ON CONFLICT (key) DO UPDATE SET value = ?2, expires = ?3
RETURNING value, expires
"""
HOUR_S = 3600.0
SCAN = """
SELECT key, version, memory FROM clients WHERE key >= ? AND key > ? AND hour >= ? ORDER BY key LIMIT ?
"""
CHUNK = 500
RECENT = 4096
"""Entries kept at hand, until another process writes."""
SCANNED = 100
"""Clients that a scan reads at once."""
SWEEP = 1000
"""Rows that one write forgets at the most, so that no query pays for a long clean-up."""


class SqliteStore:
    """One connection with a lock, write-ahead logging, and one transaction a batch.

    With ``synchronous = NORMAL`` a committed batch survives the death of the process; a power
    failure may take the last commits, never the file. ``hour`` is when a client was last seen, in whole
    hours, so that a busy client is not written to the index at every query; clients are forgotten up to
    an hour late, and never early. A batch of one client's rows writes two pages: its memory, and its counter.
    """

    def __init__(self, path: Path, clock: Callable[[], float], remember_s: float) -> None:
        self._remember_s = remember_s
        self._lock = threading.Lock()
        self._swapping = threading.Lock()
        self._swept_hour = 0
        self._recent: dict[str, tuple[Entry, int]] = {}
        self._changes = 0  # of other processes, as SQLite counts them
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)  # and SQLite gives the files beside it the same mode
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            _prepare(self._db)
        except (sqlite3.Error, OSError) as error:
            raise ConfigError(
                f"store 'sqlite:///{path}' cannot be opened: {error}; is the folder writable, and the"
                " file a SQLite database?"
            ) from error
        self.counters = Counters(clock, self._fetch_counter)

    @classmethod
    def open(
        cls, url: str, folder: Path, remember_s: float, clock: Callable[[], float]
    ) -> "SqliteStore":
        """Opened by `serving.stores.open_store`."""
        name = url.removeprefix("sqlite:///")
        if name == url or not name:
            raise ConfigError(f"store '{url}' names no file; write sqlite:///state.db")
        return cls(folder / name, clock, remember_s)

    def load_many(self, keys: Sequence[str], at: float) -> dict[str, Entry]:
        oldest = int((at - self._remember_s) // HOUR_S)
        self._forget_if_changed()
        found, missing = {}, []
        for key in keys:
            entry, hour = self._recent.get(key, (None, oldest))
            if entry is None or hour < oldest:
                missing.append(key)
            else:
                found[key] = entry
        for start in range(0, len(missing), CHUNK):
            found |= self._read(missing[start : start + CHUNK], oldest)
        return found

    def _forget_if_changed(self) -> None:
        """Keep nothing at hand that another process may have changed."""
        with self._connection() as db:
            [changes] = db.execute("PRAGMA data_version").fetchone()
        if changes != self._changes:
            self._changes = changes
            self._recent.clear()

    def _read(self, keys: Sequence[str], oldest: int) -> dict[str, Entry]:
        found = {key: Entry(0, {}) for key in keys}
        marks = ",".join("?" * len(keys))
        sql = f"SELECT key, version, memory, hour FROM clients WHERE key IN ({marks})"  # noqa: S608  # marks only
        with self._connection() as db:
            for key, version, memory, hour in db.execute(sql, keys):
                found[key] = Entry(version, unpack(memory) if hour >= oldest else {})
        return found

    def swap_many(self, entries: Mapping[str, Entry], at: float) -> set[str]:
        with self._swapping:  # nobody answers while another still holds counts that are not stored
            return self._swap_many(entries, at)

    def _swap_many(self, entries: Mapping[str, Entry], at: float) -> set[str]:
        hour = int(at // HOUR_S)
        rows = [(key, e.version, pack(e.memory)) for key, e in entries.items()]
        pending = self.counters.drain()
        try:
            with self._connection() as db:
                db.execute("BEGIN IMMEDIATE")
                lost = {row[0] for row in rows if not self._swap(db, *row, hour)}
                if lost:
                    db.execute("ROLLBACK")
                    db.execute("BEGIN IMMEDIATE")
                totals = _add(db, pending, at)
                if hour != self._swept_hour:
                    self._sweep(db, hour, at)
                db.execute("COMMIT")
        except StoreError:
            self.counters.give_back(pending)
            self._keep(entries, hour, stored=False)
            raise
        self.counters.settle(totals)
        self._keep(entries, hour, stored=not lost)
        return lost

    def _swap(
        self, db: sqlite3.Connection, key: str, version: int, memory: bytes, hour: int
    ) -> bool:
        if version == 0:
            sql = "INSERT INTO clients VALUES (?, 1, ?, ?) ON CONFLICT DO NOTHING"
            return db.execute(sql, (key, memory, hour)).rowcount == 1
        known = self._recent.get(key)
        if known is not None and known[1] == hour:
            return db.execute(SWAP, (memory, key, version)).rowcount == 1
        return db.execute(SWAP_LATER, (memory, hour, key, version)).rowcount == 1

    def scan(self, prefix: str) -> Iterator[tuple[str, Entry]]:
        oldest = int((self.counters.now() - self._remember_s) // HOUR_S)
        last, rows = "", [("", 0, b"")]
        while rows:
            with self._connection() as db:
                rows = db.execute(SCAN, (prefix, last, oldest, SCANNED)).fetchall()
            for last, version, memory in rows:
                if not last.startswith(prefix):
                    return
                yield last, Entry(version, unpack(memory))

    def _keep(self, entries: Mapping[str, Entry], hour: int, *, stored: bool) -> None:
        """Keep what was stored at hand; forget it when it was not, for then ours may be stale."""
        if len(self._recent) > RECENT:
            self._recent.clear()
        for key, entry in entries.items():
            if stored:
                self._recent[key] = Entry(entry.version + 1, entry.memory), hour
            else:
                self._recent.pop(key, None)

    def _sweep(self, db: sqlite3.Connection, hour: int, at: float) -> None:
        """Forget clients and counters whose time is over, a bounded number a batch."""
        oldest = int((at - self._remember_s) // HOUR_S)
        gone = db.execute(FORGET_CLIENTS, (oldest, SWEEP)).rowcount
        gone += db.execute(FORGET_COUNTERS, (at, SWEEP)).rowcount
        if gone < SWEEP:
            self._swept_hour = hour

    def _fetch_counter(self, key: str) -> Count | None:
        with self._connection() as db:
            row = db.execute("SELECT value, expires FROM counters WHERE key = ?", (key,)).fetchone()
        return None if row is None else Count(int(row[0]), float(row[1]))

    def close(self) -> None:
        self.swap_many({}, self.counters.now())
        with self._connection() as db:
            db.close()

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                yield self._db
            except sqlite3.Error as error:
                with suppress(sqlite3.Error):  # none may be open, or the database is closed
                    self._db.execute("ROLLBACK")
                # locked, full or out of reach; other errors are of what it holds
                kind = StoreAway if isinstance(error, sqlite3.OperationalError) else StoreError
                raise kind(f"the store failed: {error}") from error


def _prepare(db: sqlite3.Connection) -> None:
    """Make the tables; SQLite itself does not wait while another worker switches to the log."""
    for pause_s in (0.05,) * 100:
        try:
            db.executescript(SCHEMA)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            time.sleep(pause_s)
        else:
            return
    db.executescript(SCHEMA)


def _add(db: sqlite3.Connection, pending: Mapping[str, Count], at: float) -> dict[str, Count]:
    """Add what was counted to the stored counters; one whose window is over starts anew."""
    totals = {}
    for key, count in pending.items():
        row = db.execute(COUNT, (count.pending, key, at)).fetchone()
        if row is None:
            row = db.execute(COUNT_ANEW, (key, count.pending, count.expires)).fetchone()
        totals[key] = Count(int(row[0]), float(row[1]))
    return totals
