"""While the store is away answers go on by the last known memories; nothing else changes."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pytest
import structlog

from mantlet.errors import StoreAway, StoreError
from serving.folding import ALARMS, POLICY, Memory
from serving.stores import lenient
from serving.stores.base import Entry
from serving.stores.counters import Count
from serving.stores.lenient import LenientStore
from serving.stores.memory import MemoryStore

START = 1_000_000.0


class Flaky(MemoryStore):
    """A store that a test takes away, or damages; another process counts ``elsewhere``."""

    def __init__(self) -> None:
        super().__init__(lambda: START, 86_400.0)
        self.error: StoreError | None = None
        self.elsewhere: dict[str, Count] = {}
        self.closed = False
        self.counters.fetch = self._fetch

    def _ask(self) -> None:
        if self.error is not None:
            raise self.error

    def _fetch(self, key: str) -> Count | None:
        self._ask()
        return self.elsewhere.get(key)

    def load_many(self, keys: Sequence[str], at: float) -> dict[str, Entry]:
        self._ask()
        return super().load_many(keys, at)

    def swap_many(self, entries: Mapping[str, Entry], at: float) -> set[str]:
        self._ask()
        return super().swap_many(entries, at)

    def scan(self, prefix: str) -> Iterator[tuple[str, Entry]]:
        self._ask()
        return super().scan(prefix)

    def close(self) -> None:
        self.closed = True


AWAY = StoreAway("gone fishing")


@pytest.fixture
def inner() -> Flaky:
    return Flaky()


@pytest.fixture
def told() -> list[bool]:
    return []


@pytest.fixture
def store(inner: Flaky, told: list[bool]) -> LenientStore:
    return LenientStore(inner, told.append)


def memory(value: float) -> Memory:
    return {"rate": {"used": np.array([value])}}


def used(store: LenientStore, key: str) -> tuple[int, float]:
    entry = store.load_many([key], START)[key]
    return entry.version, float(entry.memory["rate"]["used"][0])


def test_while_the_store_is_there_it_is_as_it_is(store: LenientStore, inner: Flaky) -> None:
    assert not store.swap_many({"a": Entry(0, memory(1.0))}, START)
    assert store.swap_many({"a": Entry(0, memory(2.0))}, START) == {"a"}

    assert used(store, "a") == (1, 1.0)
    assert [key for key, _ in store.scan("")] == ["a"]
    assert store.counters is inner.counters


def test_an_outage_answers_by_what_was_last_known_and_learns_nothing(
    store: LenientStore, inner: Flaky
) -> None:
    inner.swap_many({"seen": Entry(0, memory(3.0))}, START)
    store.load_many(["seen"], START)
    store.swap_many({"swapped": Entry(0, memory(1.0))}, START)
    inner.error = AWAY
    lost = store.swap_many({"swapped": Entry(1, memory(9.0))}, START)

    assert not lost
    assert used(store, "swapped") == (1, 1.0)
    assert used(store, "seen") == (1, 3.0)
    assert store.load_many(["never seen"], START)["never seen"] == Entry(0, {})


def test_after_an_outage_a_stale_memory_only_loses_its_swap(
    store: LenientStore, inner: Flaky
) -> None:
    inner.swap_many({"a": Entry(0, memory(3.0))}, START)
    inner.error = AWAY
    unknown = store.load_many(["a"], START)["a"]
    inner.error = None

    assert store.swap_many({"a": Entry(unknown.version, memory(0.0))}, START) == {"a"}
    assert used(store, "a") == (1, 3.0)


def test_an_outage_is_told_once_and_so_is_its_end(
    store: LenientStore, inner: Flaky, told: list[bool]
) -> None:
    with structlog.testing.capture_logs() as logged:
        for _ in range(2):
            store.load_many(["a"], START)
            inner.error = AWAY
            for _ in range(3):
                store.load_many(["a"], START)
                store.swap_many({"a": Entry(0, memory(1.0))}, START)
                store.counters.get("rows")
            inner.error = None
    store.load_many(["a"], START)

    assert told == [True, False, True, False]
    assert [(e["event"], e["log_level"]) for e in logged] == [
        ("store_away", "warning"),
        ("store_back", "info"),
        ("store_away", "warning"),
    ]


def test_a_damaged_memory_still_closes(store: LenientStore, inner: Flaky, told: list[bool]) -> None:
    inner.error = StoreError("damaged")
    with pytest.raises(StoreError, match="damaged"):
        store.load_many(["a"], START)
    with pytest.raises(StoreError, match="damaged"):
        store.swap_many({"a": Entry(0, memory(1.0))}, START)

    assert told == []


def test_what_operators_ask_for_is_not_made_up(store: LenientStore, inner: Flaky) -> None:
    inner.error = AWAY

    with pytest.raises(StoreAway):
        list(store.scan(""))


def test_counters_go_on_in_memory_and_hand_over_what_is_pending(
    store: LenientStore, inner: Flaky
) -> None:
    inner.elsewhere = {"unseen": Count(90, START + 60)}
    store.counters.incr("known", 60, 5)
    store.swap_many({}, START)
    inner.error = AWAY
    counted = [store.counters.incr("known", 60, 2), store.counters.incr("unseen", 60, 1)]
    store.swap_many({}, START)
    inner.error = None
    pending = store.counters.drain()

    assert counted == [7, 1]
    assert {key: count.pending for key, count in pending.items()} == {"known": 2, "unseen": 1}


def test_a_counter_of_the_store_is_still_found_when_it_is_there(
    store: LenientStore, inner: Flaky
) -> None:
    inner.elsewhere = {"rows": Count(90, START + 60)}

    assert store.counters.get("rows") == 90


def test_a_store_that_counts_in_memory_alone_is_not_asked() -> None:
    store = LenientStore(MemoryStore(lambda: START, 60.0), lambda _: None)

    assert store.counters.incr("rows", 60) == 1


def test_alarms_and_refusals_are_kept_of_many_more_clients_than_whole_memories(
    store: LenientStore, inner: Flaky, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lenient, "RECENT", 5)
    monkeypatch.setattr(lenient, "MARKED", 50)
    refusal = {POLICY: {"denied_until": np.array([2e6])}, ALARMS: {"rate": np.array([7.0])}}
    for number in range(60):
        store.swap_many({f"bad/{number}": Entry(0, {**memory(1.0), **refusal})}, START)
    for number in range(60):
        store.swap_many({f"good/{number}": Entry(0, memory(1.0))}, START)
    inner.error = AWAY
    known = store.load_many([f"bad/{n}" for n in range(60)], START)
    good = store.load_many([f"good/{n}" for n in range(60)], START)

    assert [known[f"bad/{n}"].memory == refusal for n in range(60)] == [False] * 10 + [True] * 50
    assert [bool(good[f"good/{n}"].memory) for n in range(60)] == [False] * 55 + [True] * 5


def test_closing_closes_the_store(store: LenientStore, inner: Flaky) -> None:
    store.close()

    assert inner.closed
