"""The event log as the gateway uses it: told from any thread, written by one, read and checked by anybody."""

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import structlog

from mantlet.errors import ConfigError, MantletError, StoreError
from serving.events.audit import Report
from serving.events.chain import Broken, Chain, Record
from serving.events.jsonl import JsonlFile
from serving.events.kinds import Dropped, Event, EventKind, Repaired
from serving.events.sqlite import SqliteFile
from serving.events.webhook import Sender
from serving.metrics import Metrics

log = structlog.get_logger(__name__)
BY_SCHEME: Mapping[str, Callable[[Path, Chain, int | None], "Journal"]] = {
    "jsonl": JsonlFile,
    "sqlite": SqliteFile,
}
WAITING = 10_000
"""Events that may wait to be written."""
AGAIN_S = 2.0
"""How long to wait before events that could not be written are tried again."""
DRAIN_S = 10.0
"""How long closing may take."""


class Journal(Protocol):
    """Where records are kept; raises `StoreError` when that fails."""

    def append(self, entries: Sequence[tuple[float, Event]], at: float) -> list[Record]:
        """Write events with their times, after one that tells of a repair made at ``at``."""

    def lines(self, after: int) -> Iterator[bytes]:
        """The lines of the records whose number is greater than ``after``."""

    def verify(self, files: Sequence[Path] = (), first: int = 1) -> Report:
        """Check every record from number ``first``, those in moved ``files`` too; `ConfigError` without a log."""


class EventLog:
    """An append-only log of events, each sealed with a hash that hangs on the one before.

    ``record`` puts an event into a bounded queue and returns; a thread writes whatever waits, in one
    step. When the queue is full events are dropped, and the log tells how many.
    """

    def __init__(
        self,
        journal: Journal,
        chain: Chain,
        clock: Callable[[], float],
        *,
        metrics: Metrics | None = None,
        sender: Sender | None = None,
        waiting: int = WAITING,
    ) -> None:
        self._journal = journal
        self._chain = chain
        self._clock = clock
        self._metrics = metrics or Metrics()
        self._sender = sender
        self._limit = waiting
        self._changed = threading.Condition()
        self._entries: list[tuple[float, Event]] = []
        self._dropped = 0
        self._writing = False
        self._closing = False
        self._thread: threading.Thread | None = None

    @classmethod
    def open(
        cls,
        url: str,
        *,
        folder: Path,
        secret: bytes,
        clock: Callable[[], float],
        most: int | None = None,
        metrics: Metrics | None = None,
        sender: Sender | None = None,
    ) -> "EventLog":
        """A log by URL: ``jsonl:///FILE`` or ``sqlite:///FILE``, with the file relative to ``folder``.

        A file of JSON lines of over ``most`` bytes is put away. ``sender`` is given what this log wrote. Nothing is read or written before it is asked for.
        """
        scheme, _, name = url.partition(":///")
        if scheme not in BY_SCHEME or not name:
            known = ", ".join(f"{known}:///FILE" for known in BY_SCHEME)
            raise ConfigError(f"events '{url}' is of no known kind; known: {known}")
        chain = Chain(secret)
        journal = BY_SCHEME[scheme](folder / name, chain, most)
        return cls(journal, chain, clock, metrics=metrics, sender=sender)

    def begin(self) -> None:
        """Make the log or repair its end; `ConfigError` when it is of another secret or unwritable."""
        self.write()

    def write(self, *events: Event) -> None:
        """Write events at once, for whoever has the time to wait; `ConfigError` as in `begin`."""
        at = self._clock()
        try:
            self._tell(self._journal.append([(at, event) for event in events], at))
        except StoreError as error:
            raise ConfigError(f"{error}; is the folder writable, and is there room?") from error

    def record(self, event: Event) -> None:
        """Have an event written soon; from any thread, never waits."""
        entry = (self._clock(), event)
        with self._changed:
            if len(self._entries) >= self._limit or self._closing:
                self._dropped += 1
                self._metrics.events_dropped.inc()
                return
            self._entries.append(entry)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="events", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def read(
        self, *, after: int = 0, limit: int | None = None, kinds: Collection[EventKind] = ()
    ) -> Iterator[Record]:
        """Records with a number above ``after``, oldest first: at most ``limit``, all kinds or ``kinds``.

        Each is checked by itself, and `StoreError` raised at one that was edited.
        """
        count = 0
        last = after
        for line in self._journal.lines(after):
            if limit is not None and count >= limit:
                return
            try:
                record = self._chain.parse(line)
            except Broken as error:
                raise StoreError(
                    f"events: what follows record {last} {error}; run: mantlet events verify CONFIG"
                ) from error
            last = record.number
            if not kinds or record.event.kind in kinds:
                count += 1
                yield record

    def verify(self, files: Sequence[Path] = (), first: int = 1) -> Report:
        """Follow the whole chain, or that from record ``first``; ``files`` were put away and then moved.

        Raises `ConfigError` when there is no log.
        """
        return self._journal.verify(files, first)

    def flush(self, timeout_s: float = DRAIN_S) -> bool:
        """Wait until all that was recorded is written; whether it is."""
        with self._changed:
            return self._changed.wait_for(
                lambda: not (self._entries or self._writing or self._dropped), timeout_s
            )

    def close(self) -> None:
        """Write and send what waits; what is recorded later is dropped."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(DRAIN_S)
        if self._sender is not None:
            self._sender.close()

    def _tell(self, records: Sequence[Record]) -> None:
        for record in records:
            self._metrics.events.labels(record.event.kind).inc()
            if isinstance(record.event, Repaired):
                log.warning("events_repaired", number=record.number, problem=record.event.problem)
        if self._sender is not None:
            self._sender.send(records)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._entries or self._closing)
                batch, self._entries = self._entries, []
                if self._dropped:
                    batch.append((self._clock(), Dropped(count=self._dropped)))
                    self._dropped = 0
                if not batch:
                    return
                self._writing = True
            self._write(batch)
            with self._changed:
                self._writing = False
                self._changed.notify_all()

    def _write(self, batch: Sequence[tuple[float, Event]]) -> None:
        """Write a batch, again and again until it is written or the log is closed."""
        while True:
            try:
                records = self._journal.append(batch, self._clock())
            except MantletError as error:
                log.error("events_not_written", waiting=len(batch), error=str(error))
            else:
                self._tell(records)
                return
            with self._changed:
                if self._closing:
                    self._metrics.events_dropped.inc(len(batch))
                    return
                self._changed.wait_for(lambda: self._closing, AGAIN_S)
