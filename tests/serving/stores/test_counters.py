"""Counters in memory and what they hand to a store; with a store they are tested in test_stores.py."""

import threading

import pytest
from limits.strategies import FixedWindowRateLimiter

from serving.stores import counters
from serving.stores.counters import Count, Counters


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_window_begins_with_the_first_count_and_does_not_move(clock: Clock) -> None:
    count = Counters(clock)
    count.incr("a", 60)
    clock.now += 50
    count.incr("a", 60)

    assert (count.get("a"), count.get_expiry("a")) == (2, 160.0)
    assert count.get_expiry("never counted") == clock.now


def test_a_drain_hands_over_what_is_new_and_only_once(clock: Clock) -> None:
    count = Counters(clock)
    count.incr("a", 60, 3)
    count.incr("b", 60, 1)
    count.incr("a", 60, -1)

    assert {key: c.pending for key, c in count.drain().items()} == {"a": 2, "b": 1}
    assert count.drain() == {}
    assert count.get("a") == 2


def test_what_could_not_be_written_is_handed_over_again_with_what_came_since(
    clock: Clock,
) -> None:
    count = Counters(clock)
    count.incr("a", 60, 3)
    pending = count.drain()
    count.incr("a", 60, 4)
    count.give_back(pending)

    assert count.drain()["a"].pending == 7
    assert count.get("a") == 7


def test_the_stored_total_is_adopted_and_what_came_since_is_on_top(clock: Clock) -> None:
    count = Counters(clock)
    count.incr("a", 60, 3)
    count.drain()
    count.incr("a", 60, 1)
    count.settle({"a": Count(40, 160.0), "gone": Count(7, 160.0)})

    assert (count.get("a"), count.get("gone")) == (41, 0)


def test_a_counter_that_is_not_in_memory_is_fetched_once(clock: Clock) -> None:
    asked: list[str] = []

    def fetch(key: str) -> Count | None:
        asked.append(key)
        return Count(9, 160.0) if key == "a" else None

    count = Counters(clock, fetch)

    assert [count.get("a"), count.get("a"), count.incr("a", 60)] == [9, 9, 10]
    assert asked == ["a"]
    assert count.get_expiry("a") == 160.0
    assert count.drain()["a"].pending == 1


def test_a_fetched_counter_whose_window_is_over_counts_as_none(clock: Clock) -> None:
    count = Counters(clock, lambda _: Count(9, 99.0))

    assert count.get("a") == 0
    assert count.incr("a", 60) == 1


def test_memory_is_bounded_where_the_store_has_the_rest(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counters, "KEPT", 10)
    stored: dict[str, int] = {}
    count = Counters(clock, lambda key: Count(stored[key], 1e9) if key in stored else None)
    for number in range(200):
        count.incr(f"{number}", 60)
        stored |= {key: c.value for key, c in count.drain().items()}

    assert len(count._counts) <= 11
    assert all(count.get(f"{number}") == 1 for number in range(200))


def test_without_a_store_only_ended_windows_are_forgotten(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counters, "KEPT", 10)
    count = Counters(clock)
    for number in range(50):
        count.incr(f"{number}", 60)
    count.drain()
    assert all(count.get(f"{number}") == 1 for number in range(50))
    clock.now += 60
    count.drain()

    assert len(count._counts) == 10


def test_what_is_not_stored_yet_is_never_dropped(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counters, "KEPT", 2)
    count = Counters(clock, lambda _: None)
    for number in range(20):
        count.incr(f"{number}", 60)
    pending = count.drain()
    count.give_back(pending)

    assert {key: c.pending for key, c in count.drain().items()} == dict.fromkeys(
        map(str, range(20)), 1
    )


def test_a_cleared_counter_is_zero_in_the_store_too(clock: Clock) -> None:
    count = Counters(clock)
    count.incr("a", 60, 5)
    count.drain()
    count.clear("a")
    count.clear("never counted")

    assert count.get("a") == 0
    assert count.drain()["a"].pending == -5


def test_a_reset_forgets_all(clock: Clock) -> None:
    count = Counters(clock)
    count.incr("a", 60, 5)

    assert count.reset() == 1
    assert (count.get("a"), count.drain()) == (0, {})


def test_it_is_a_storage_of_the_limits_library(clock: Clock) -> None:
    count = Counters(clock)
    limiter = FixedWindowRateLimiter(count)

    assert count.check()
    assert count.base_exceptions is OSError
    assert limiter.storage is count


def test_threads_lose_no_count(clock: Clock) -> None:
    count = Counters(clock)
    drained: list[int] = []

    def work() -> None:
        for _ in range(2000):
            count.incr("a", 60)
            drained.extend(c.pending for c in count.drain().values())

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    assert count.get("a") == 8000
    assert sum(drained) == 8000
