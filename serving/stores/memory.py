"""Memory of clients in this process; gone when it ends. For trials and tests."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from serving.stores.base import Entry
from serving.stores.counters import Counters


class MemoryStore:
    """A dictionary with a lock. Clients not seen for ``remember_s`` seconds count as unknown."""

    def __init__(self, clock: Callable[[], float], remember_s: float) -> None:
        self.counters = Counters(clock)
        self._remember_s = remember_s
        self._entries: OrderedDict[str, tuple[Entry, float]] = OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def open(
        cls, url: str, folder: Path, remember_s: float, clock: Callable[[], float]
    ) -> "MemoryStore":
        """Opened by `serving.stores.open_store`."""
        return cls(clock, remember_s)

    def load_many(self, keys: Sequence[str], at: float) -> dict[str, Entry]:
        with self._lock:
            return {key: self._load(key, at) for key in keys}

    def _load(self, key: str, at: float) -> Entry:
        entry, seen = self._entries.get(key, (Entry(0, {}), at))
        return entry if seen + self._remember_s > at else Entry(entry.version, {})

    def swap_many(self, entries: Mapping[str, Entry], at: float) -> set[str]:
        with self._lock:
            lost = {
                key
                for key, entry in entries.items()
                if self._load(key, at).version != entry.version
            }
            if not lost:
                for key, entry in entries.items():
                    self._entries[key] = (Entry(entry.version + 1, entry.memory), at)
                    self._entries.move_to_end(key)
                self._forget(at)
        self.counters.drain()
        return lost

    def scan(self, prefix: str) -> Iterator[tuple[str, Entry]]:
        with self._lock:
            keys = list(self._entries)
        for key in keys:
            if key.startswith(prefix):
                entry = self.load_many([key], self.counters.now())[key]
                if entry.memory:
                    yield key, entry

    def _forget(self, at: float) -> None:
        """Drop the clients whose time is over; they stand first, for each swap moves its own last."""
        while self._entries:
            key, (_, seen) = next(iter(self._entries.items()))
            if seen + self._remember_s > at:
                break
            del self._entries[key]

    def close(self) -> None:
        self._entries.clear()
