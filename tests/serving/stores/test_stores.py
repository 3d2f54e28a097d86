"""One suite for every store: what `serving.stores.base.Store` promises."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import limits
import numpy as np
import pytest
from limits.strategies import FixedWindowRateLimiter

from mantlet.errors import ConfigError
from serving.stores import BY_SCHEME, open_store
from serving.stores.base import Entry, Store
from tests.redis_server import DURABLE, Server, redis_server

URLS = {"memory": "memory://", "sqlite": "sqlite:///state.db", "redis": "redis"}
MARKS = {"redis": pytest.mark.redis}
REMEMBER_S = 10_000.0
START = 1_000_000.0
PER_DAY = limits.parse("100/day")
assert URLS.keys() == BY_SCHEME.keys() - {"rediss", "unix"}, "every store runs through this suite"


@dataclass
class Clock:
    """Seconds that a test sets."""

    now: float = START

    def __call__(self) -> float:
        return self.now


Opener = Callable[..., Store]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with redis_server(tmp_path_factory.mktemp("redis"), *DURABLE) as server:
        yield server


@pytest.fixture(params=[pytest.param(name, marks=MARKS.get(name, ())) for name in URLS])
def opener(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Iterator[Opener]:
    """Opens the store of the URL, as often as a test likes; closes them all."""
    opened: list[Store] = []
    url = URLS[request.param]
    if request.param == "redis":
        server: Server = request.getfixturevalue("redis")
        url = server.url
        with server.client() as client:
            client.flushall()

    def open_it(remember_s: float = REMEMBER_S) -> Store:
        opened.append(open_store(url, folder=tmp_path, remember_s=remember_s, clock=clock))
        return opened[-1]

    yield open_it
    for store in opened:
        store.close()


@pytest.fixture
def store(opener: Opener) -> Store:
    return opener()


def memory(value: float) -> dict[str, dict[str, np.ndarray]]:
    return {"rate": {"used": np.array([value])}}


def used(entry: Entry) -> float:
    return float(entry.memory["rate"]["used"][0])


def load(store: Store, key: str, at: float = START) -> Entry:
    return store.load_many([key], at)[key]


def swap(store: Store, key: str, version: int, value: float, at: float = START) -> bool:
    """Whether it was stored."""
    return not store.swap_many({key: Entry(version, memory(value))}, at)


def test_an_unknown_client_has_no_memory_and_version_zero(store: Store) -> None:
    assert load(store, "mnist/a") == Entry(0, {})


def test_what_was_swapped_in_is_loaded_with_the_next_version(store: Store) -> None:
    stored = [swap(store, "mnist/a", 0, 1.0), swap(store, "mnist/a", 1, 2.0)]
    entry = load(store, "mnist/a")

    assert stored == [True, True]
    assert entry.version == 2
    assert used(entry) == 2.0


def test_clients_and_models_do_not_share_memory(store: Store) -> None:
    keys = ["mnist/a", "mnist/b", "cifar/a", "mnist/é 'quoted' ;--"]
    store.swap_many({k: Entry(0, memory(i)) for i, k in enumerate(keys)}, START)
    entries = store.load_many([*keys, "mnist/none"], START)

    assert [used(entries[k]) for k in keys] == [0.0, 1.0, 2.0, 3.0]
    assert entries["mnist/none"].version == 0


@pytest.mark.parametrize("count", [0, 1, 1201])
def test_any_number_of_clients_is_loaded_and_swapped_at_once(store: Store, count: int) -> None:
    keys = [f"mnist/{i}" for i in range(count)]
    lost = store.swap_many({k: Entry(0, memory(i)) for i, k in enumerate(keys)}, START)
    entries = store.load_many(keys, START)

    assert not lost
    assert [used(entries[k]) for k in keys] == list(range(count))


@pytest.mark.parametrize("stale", [0, 1, 3])
def test_a_swap_of_another_version_loses_and_stores_nothing_of_the_batch(
    store: Store, stale: int
) -> None:
    for version in range(2):
        assert swap(store, "a", version, 1.0)
    lost = store.swap_many({"new": Entry(0, memory(9)), "a": Entry(stale, memory(9))}, START)

    assert lost == {"a"}
    assert used(load(store, "a")) == 1.0
    assert load(store, "a").version == 2
    assert load(store, "new") == Entry(0, {})


def test_all_that_lost_are_named(store: Store) -> None:
    for key in "abc":
        swap(store, key, 0, 1.0)
    lost = store.swap_many(
        {k: Entry(v, memory(2)) for k, v in zip("abc", (0, 1, 7), strict=True)}, START
    )

    assert lost == {"a", "c"}


def test_after_a_lost_race_the_swap_of_the_fresh_entry_wins(store: Store) -> None:
    swap(store, "a", 0, 1.0)
    assert not swap(store, "a", 0, 2.0)
    fresh = load(store, "a")

    assert swap(store, "a", fresh.version, 2.0)
    assert used(load(store, "a")) == 2.0


@pytest.mark.parametrize("remember_s", [60.0, 3600.0, REMEMBER_S])
def test_a_client_is_remembered_as_long_as_promised_and_forgotten_soon_after(
    opener: Opener, remember_s: float
) -> None:
    """A store may forget up to an hour late, never early."""
    store = opener(remember_s)
    swap(store, "a", 0, 1.0)

    assert used(load(store, "a", START + remember_s - 1)) == 1.0
    assert load(store, "a", START + remember_s + 3600).memory == {}


def test_every_swap_remembers_anew(store: Store) -> None:
    swap(store, "a", 0, 1.0)
    late = START + REMEMBER_S - 1
    assert swap(store, "a", 1, 2.0, late)

    assert used(load(store, "a", late + REMEMBER_S - 1)) == 2.0


def test_a_forgotten_client_starts_anew(store: Store) -> None:
    swap(store, "a", 0, 1.0)
    later = START + REMEMBER_S + 3600
    store.swap_many({}, later)  # sweeps
    entry = load(store, "a", later)

    assert entry.memory == {}
    assert swap(store, "a", entry.version, 5.0, later)
    assert used(load(store, "a", later)) == 5.0


def test_counters_count_through_the_limits_library(store: Store, clock: Clock) -> None:
    limiter = FixedWindowRateLimiter(store.counters)  # type: ignore[arg-type]

    assert all(limiter.hit(PER_DAY, "rows", "a", cost=50) for _ in range(2))
    assert not limiter.hit(PER_DAY, "rows", "a")
    assert limiter.test(PER_DAY, "rows", "b", cost=100)
    assert limiter.get_window_stats(PER_DAY, "rows", "a").reset_time == START + 86_400
    clock.now = START + 86_400
    assert limiter.hit(PER_DAY, "rows", "a", cost=100)


def test_what_was_counted_goes_on_counting_after_a_swap(store: Store) -> None:
    store.counters.incr("a", 60, 3)
    store.swap_many({}, START)
    store.counters.incr("a", 60, 4)

    assert store.counters.get("a") == 7
    store.swap_many({}, START)
    assert store.counters.get("a") == 7


def test_a_refund_is_counted_too(store: Store) -> None:
    store.counters.incr("a", 60, 9)
    store.swap_many({}, START)
    store.counters.incr("a", 60, -4)
    store.swap_many({}, START)

    assert store.counters.get("a") == 5


def test_counts_are_stored_although_the_swap_lost(store: Store) -> None:
    swap(store, "a", 0, 1.0)
    store.counters.incr("rows", 60, 3)
    assert not swap(store, "a", 0, 2.0)

    assert store.counters.get("rows") == 3


def test_an_ended_window_starts_anew(store: Store, clock: Clock) -> None:
    store.counters.incr("a", 60, 9)
    store.swap_many({}, START)
    clock.now += 60

    assert store.counters.get("a") == 0
    assert store.counters.incr("a", 60, 2) == 2
    store.swap_many({}, clock.now)
    assert store.counters.get("a") == 2
    assert store.counters.get_expiry("a") == START + 120


def scanned(store: Store, prefix: str) -> dict[str, float]:
    return {key: used(entry) for key, entry in store.scan(prefix)}


@pytest.mark.parametrize("count", [0, 1, 1201])
def test_a_scan_finds_all_that_begin_with_a_prefix_and_nothing_else(
    store: Store, count: int
) -> None:
    others = {
        k: Entry(0, memory(9)) for k in ("mnist", "mnist.a", "mnist0/a", "mnisu/a", "cifar/a")
    }
    wanted = {f"mnist/{i}": Entry(0, memory(i)) for i in range(count)}
    store.counters.incr("mnist/1", 60)
    store.swap_many(others | wanted, START)

    assert scanned(store, "mnist/") == {key: used(entry) for key, entry in wanted.items()}
    assert scanned(store, "") == {k: used(e) for k, e in (others | wanted).items()}


@pytest.mark.parametrize("prefix", ["a*", "a?", "[ab]", "a\\", "é'", "%", "_"])
def test_a_prefix_means_what_it_says(store: Store, prefix: str) -> None:
    keys = [prefix + "1", prefix + "/é", "axx", "b", "a", "zz"]
    store.swap_many({key: Entry(0, memory(1)) for key in keys}, START)

    assert scanned(store, prefix).keys() == {prefix + "1", prefix + "/é"}


def test_what_a_scan_finds_can_be_swapped(store: Store) -> None:
    for version in range(2):
        swap(store, "a", version, 1.0)
    [(key, entry)] = store.scan("a")

    assert swap(store, key, entry.version, 5.0)


def test_a_scan_leaves_out_who_is_forgotten(opener: Opener, clock: Clock) -> None:
    store = opener(3600.0)
    swap(store, "old", 0, 1.0)
    clock.now += 2 * 3600
    swap(store, "new", 0, 2.0, clock.now)

    assert scanned(store, "") == {"new": 2.0}


def test_what_is_swapped_during_a_scan_does_not_wait_and_what_stays_is_found(store: Store) -> None:
    stays = {f"{i}": Entry(0, memory(i)) for i in range(700)}
    store.swap_many(stays, START)
    found = {}
    for number, (key, entry) in enumerate(store.scan("")):
        found[key] = entry
        assert swap(store, f"new/{number}", 0, 1.0)
        if number > 2000:
            break

    assert found.keys() >= stays.keys()


def test_a_key_of_ten_kilobytes_is_a_key_like_others(store: Store) -> None:
    """Keys of the gateway have a fixed length, for clients are known by a hash."""
    long = "mnist/" + "x" * 10_240
    stored = [swap(store, long, 0, 1.0), swap(store, long + "y", 0, 2.0)]

    assert stored == [True, True]
    assert [used(load(store, long)), used(load(store, long + "y"))] == [1.0, 2.0]


def test_a_clock_that_is_set_back_refills_no_budget_and_forgets_no_client(
    store: Store, clock: Clock
) -> None:
    for version in range(2):
        swap(store, "a", version, version)
        store.counters.incr("rows", 3600, 40)
        store.swap_many({}, clock.now)
        clock.now -= 100_000
    store.counters.incr("rows", 3600, 1)
    store.swap_many({"b": Entry(0, memory(1))}, clock.now)

    assert store.counters.get("rows") == 81
    assert load(store, "a", clock.now).version == 2
    assert used(load(store, "a", clock.now)) == 1.0


def test_threads_that_hammer_one_client_lose_no_update(store: Store) -> None:
    threads, each = 6, 40
    problems: list[BaseException] = []

    def hammer(number: int) -> None:
        try:
            for _ in range(each):
                store.counters.incr("rows", 3600)
                while True:
                    entries = store.load_many(["shared", f"own/{number}"], START)
                    after = {
                        key: Entry(e.version, memory(used(e) + 1 if e.memory else 1.0))
                        for key, e in entries.items()
                    }
                    if not store.swap_many(after, START):
                        break
        except BaseException as error:
            problems.append(error)

    workers = [threading.Thread(target=hammer, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    assert not problems
    assert used(load(store, "shared")) == threads * each
    assert load(store, "shared").version == threads * each
    assert [used(load(store, f"own/{n}")) for n in range(threads)] == [each] * threads
    assert store.counters.get("rows") == threads * each


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("etcd://localhost", "known: memory://, sqlite://, redis://"),
        ("etcd://user:sesame@localhost", r"store 'etcd://user:\*\*\*@localhost' is of no known"),
        ("state.db", "known: memory://, sqlite://"),
        ("", "is of no known kind"),
        ("sqlite://state.db", "names no file; write sqlite:///state.db"),
        ("sqlite:///", "names no file"),
    ],
)
def test_a_url_of_no_store_is_refused(tmp_path: Path, url: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        open_store(url, folder=tmp_path, remember_s=1.0, clock=Clock())
