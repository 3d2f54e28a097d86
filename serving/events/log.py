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
from serving.events.kinds import Dropped, Event, EventKind
from serving.events.sqlite import SqliteFile

log = structlog.get_logger(__name__)
BY_SCHEME: Mapping[str, Callable[[Path, Chain], "Journal"]] = {
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

    def verify(self) -> Report:
        """Check every record; `ConfigError` when there is no log."""


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
        heard: Callable[[Sequence[Record]], None] = lambda _: None,
        missed: Callable[[int], None] = lambda _: None,
        waiting: int = WAITING,
    ) -> None:
        self._journal = journal
        self._chain = chain
        self._clock = clock
        self._heard = heard
        self._missed = missed
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
        heard: Callable[[Sequence[Record]], None] = lambda _: None,
        missed: Callable[[int], None] = lambda _: None,
    ) -> "EventLog":
        """A log by URL: ``jsonl:///FILE`` or ``sqlite:///FILE``, with the file relative to ``folder``.

        ``heard`` is told of every record that this log wrote, in its thread, and ``missed`` how many
        events were dropped. Nothing is read or written before it is asked for.
        """
        scheme, _, name = url.partition(":///")
        if scheme not in BY_SCHEME or not name:
            known = ", ".join(f"{known}:///FILE" for known in BY_SCHEME)
            raise ConfigError(f"events '{url}' is of no known kind; known: {known}")
        chain = Chain(secret)
        return cls(
            BY_SCHEME[scheme](folder / name, chain), chain, clock, heard=heard, missed=missed
        )

    def begin(self) -> None:
        """Make the log or repair its end; `ConfigError` when it is of another secret or unwritable."""
        try:
            self._heard(self._journal.append([], self._clock()))
        except StoreError as error:
            raise ConfigError(f"{error}; is the folder writable, and is there room?") from error

    def record(self, event: Event) -> None:
        """Have an event written soon; from any thread, never waits."""
        entry = (self._clock(), event)
        with self._changed:
            if len(self._entries) >= self._limit or self._closing:
                self._dropped += 1
                self._missed(1)
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

    def verify(self) -> Report:
        """Follow the whole chain; `ConfigError` when there is no log."""
        return self._journal.verify()

    def flush(self, timeout_s: float = DRAIN_S) -> bool:
        """Wait until all that was recorded is written; whether it is."""
        with self._changed:
            return self._changed.wait_for(
                lambda: not (self._entries or self._writing or self._dropped), timeout_s
            )

    def close(self) -> None:
        """Write what waits; what is recorded later is dropped."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(DRAIN_S)

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
                self._heard(records)
                return
            with self._changed:
                if self._closing:
                    self._missed(len(batch))
                    return
                self._changed.wait_for(lambda: self._closing, AGAIN_S)
