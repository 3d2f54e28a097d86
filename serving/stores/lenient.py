"""Serving on while the store is away: ``store_away: serve``."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence

import structlog

from mantlet.errors import StoreAway
from serving.folding import ALARMS, CAMPAIGN, POLICY, Memory
from serving.stores.base import Entry, Store
from serving.stores.counters import Count

log = structlog.get_logger(__name__)
RECENT = 4096
"""Clients whose whole memory is kept at hand."""
MARKED = 100_000
"""Clients of whom at least alarms and refusals are kept."""
MARKS = (ALARMS, CAMPAIGN, POLICY)


class LenientStore:
    """A store whose outage closes nothing: answers go by the last known memories, which stay as they are.

    ``tell`` hears of the begin (true) and the end of an outage. What is asked meanwhile leaves no trace in
    the evidence, and clients that this process has not seen lately count as new, but for their alarms and
    refusals, of which it remembers far more. Counters go on in memory
    and hand over what is pending once the store is back. Damaged memories still close.
    """

    def __init__(self, store: Store, tell: Callable[[bool], None]) -> None:
        self._store = store
        self._tell = tell
        self._lock = threading.Lock()
        self._away = False
        self._recent: OrderedDict[str, Entry] = OrderedDict()
        self._marked: OrderedDict[str, Memory] = OrderedDict()
        self.counters = store.counters
        self._fetch, self.counters.fetch = self.counters.fetch, self._fetch_counter

    def load_many(self, keys: Sequence[str], at: float) -> dict[str, Entry]:
        try:
            entries = self._store.load_many(keys, at)
        except StoreAway as error:
            self._note(error)
            with self._lock:
                return {key: self._last_known(key) for key in keys}
        self._note(None)
        self._keep(entries)
        return entries

    def swap_many(self, entries: Mapping[str, Entry], at: float) -> set[str]:
        try:
            lost = self._store.swap_many(entries, at)
        except StoreAway as error:
            self._note(error)
            return set()
        self._note(None)
        if not lost:
            self._keep({key: Entry(e.version + 1, e.memory) for key, e in entries.items()})
        return lost

    def scan(self, prefix: str) -> Iterator[tuple[str, Entry]]:
        return self._store.scan(prefix)

    def close(self) -> None:
        self._store.close()

    def _last_known(self, key: str) -> Entry:
        known = self._recent.get(key)
        return known or Entry(0, self._marked.get(key, {}))

    def _keep(self, entries: Mapping[str, Entry]) -> None:
        with self._lock:
            for key, entry in entries.items():
                self._recent[key] = entry
                self._recent.move_to_end(key)
                self._marked.pop(key, None)
                marks = {name: entry.memory[name] for name in MARKS if name in entry.memory}
                if marks:
                    self._marked[key] = marks
            _shorten(self._recent, RECENT)
            _shorten(self._marked, MARKED)

    def _fetch_counter(self, key: str) -> Count | None:
        if self._fetch is None:
            return None
        try:
            return self._fetch(key)
        except StoreAway as error:
            self._note(error)
            return None

    def _note(self, error: StoreAway | None) -> None:
        """Tell of the begin and the end of an outage, once each."""
        away = error is not None
        if away == self._away:
            return
        with self._lock:
            changed, self._away = away != self._away, away
        if not changed:
            return
        self._tell(away)
        if away:
            log.warning("store_away", error=str(error), meaning="answers without remembering")
        else:
            log.info("store_back")


def _shorten(known: "OrderedDict[str, Entry] | OrderedDict[str, Memory]", most: int) -> None:
    while len(known) > most:
        known.popitem(last=False)
