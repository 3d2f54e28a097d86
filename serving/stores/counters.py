"""Counters of rates and budgets for the ``limits`` library, made to be kept by a store.

Counting happens in memory, where admission runs on the event loop. The store takes the pending
counts along when it writes a batch, so that what was answered is remembered, and no request waits for
a disk of its own.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import limits.storage

KEPT = 100_000
"""Counters held in memory when the store has them all; the least recently used go first."""


@dataclass(slots=True)
class Count:
    """``value`` since the window began, of which ``pending`` is not stored yet; ends at ``expires``."""

    value: int
    expires: float
    pending: int = 0


class Counters(limits.storage.Storage):
    """A fixed-window storage; ``fetch`` reads a counter that is not in memory from the store."""

    STORAGE_SCHEME = None

    def __init__(
        self, clock: Callable[[], float], fetch: Callable[[str], Count | None] | None = None
    ) -> None:
        super().__init__()
        self._clock = clock
        self.fetch = fetch
        self._counts: OrderedDict[str, Count] = OrderedDict()
        self._changed: set[str] = set()
        self._absent: set[str] = set()
        self._lock = threading.Lock()

    @property
    def base_exceptions(self) -> type[Exception]:
        return OSError

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        with self._lock:
            # `get` comes before: what it did not find need not be looked for again
            count = self._held(key) if key in self._absent else self._current(key)
            self._absent.discard(key)
            if count is None:
                count = self._counts[key] = Count(0, self._clock() + expiry)
            count.value += amount
            count.pending += amount
            self._changed.add(key)
            return count.value

    def take_back(self, key: str, expiry: int, amount: int, counted_at: float) -> None:
        """Undo an ``incr`` of ``counted_at``; nothing where that window has ended since."""
        with self._lock:
            count = self._current(key)
            if count is None or counted_at < count.expires - expiry:
                return
            count.value -= amount
            count.pending -= amount
            self._changed.add(key)

    def get(self, key: str) -> int:
        with self._lock:
            count = self._current(key)
            if count is None and self.fetch is not None:
                self._absent = self._absent if len(self._absent) < KEPT else set()
                self._absent.add(key)
            return 0 if count is None else count.value

    def get_expiry(self, key: str) -> float:
        with self._lock:
            count = self._current(key)
            return self._clock() if count is None else count.expires

    def now(self) -> float:
        """Seconds, on the clock that windows end by."""
        return self._clock()

    def check(self) -> bool:
        return True

    def reset(self) -> int:
        with self._lock:
            count = len(self._counts)
            self._counts.clear()
            self._changed.clear()
            return count

    def clear(self, key: str) -> None:
        with self._lock:
            count = self._current(key)
            if count is not None:
                count.pending -= count.value
                count.value = 0
                self._changed.add(key)

    def drain(self) -> dict[str, Count]:
        """Take what is pending, by key; forgets counters that ended, or are stored and long unused."""
        with self._lock:
            held = {key: self._held(key) for key in self._changed}
            changed = {key: count for key, count in held.items() if count is not None}
            pending = {key: replace(count) for key, count in changed.items()}
            for count in changed.values():
                count.pending = 0
            self._changed.clear()
            self._forget(pending)
            return pending

    def _forget(self, pending: Mapping[str, Count]) -> None:
        while len(self._counts) > KEPT:
            key, count = next(iter(self._counts.items()))
            ended = count.expires <= self._clock()
            if not ended and (self.fetch is None or key in pending):
                break
            del self._counts[key]

    def settle(self, totals: Mapping[str, Count]) -> None:
        """Adopt stored totals, which hold the counts of other processes too, and their windows.

        A window of ours that ends before the stored one is looked up again at its end.
        """
        with self._lock:
            for key, total in totals.items():
                ours = self._counts.get(key)
                if ours is not None and total.expires > self._clock():
                    ours.value = total.value + ours.pending
                    ours.expires = min(ours.expires, total.expires)

    def give_back(self, pending: Mapping[str, Count]) -> None:
        """Undo a drain whose write failed."""
        with self._lock:
            for key, count in pending.items():
                ours = self._counts.get(key)
                if ours is not None and ours.expires == count.expires:
                    ours.pending += count.pending
                    self._changed.add(key)

    def _current(self, key: str) -> Count | None:
        """The count of the window that runs, from memory or from the store."""
        count = self._held(key)
        if count is None and self.fetch is not None:
            count = self.fetch(key)
            if count is None or count.expires <= self._clock():
                return None
            self._counts[key] = count
        return count

    def _held(self, key: str) -> Count | None:
        """The count of the window that runs, if it is in memory."""
        count = self._counts.get(key)
        if count is not None and count.expires <= self._clock():
            del self._counts[key]
            return None
        if count is not None:
            self._counts.move_to_end(key)
        return count
