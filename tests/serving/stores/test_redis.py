"""What is Redis's own: replicas, outages, kill -9, warnings; the rest of its promises are in test_stores.py."""

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import structlog

from mantlet.errors import ConfigError, StoreAway, StoreError
from serving.stores import open_store
from serving.stores.base import Entry
from serving.stores.redis import CLIENT, COUNTER, RedisStore, shown
from tests.redis_server import DURABLE, START_S, Server, free_port, redis_server

pytestmark = pytest.mark.redis
START = 1_000_000.0
REMEMBER_S = 86_400.0


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with redis_server(tmp_path_factory.mktemp("redis"), *DURABLE) as server:
        yield server


@pytest.fixture
def server(shared: Server) -> Server:
    """A Redis that holds nothing."""
    with shared.client() as client:
        client.flushall()
        client.config_resetstat()
    return shared


@contextmanager
def opened(
    server: Server, now: Callable[[], float] = lambda: START, **options: str
) -> Iterator[RedisStore]:
    url = server.url + "?" + "&".join(f"{name}={value}" for name, value in options.items())
    store = open_store(url, folder=Path(), remember_s=REMEMBER_S, clock=now)
    assert isinstance(store, RedisStore)
    try:
        yield store
    finally:
        store.close()


def entry(version: int, value: float) -> Entry:
    return Entry(version, {"rate": {"used": np.array([value])}})


def used(store: RedisStore, key: str, at: float = START) -> tuple[int, float]:
    loaded = store.load_many([key], at)[key]
    return loaded.version, float(loaded.memory["rate"]["used"][0])


def back(store: RedisStore) -> None:
    """Wait until the store has found Redis again by itself."""
    end = time.monotonic() + START_S
    while True:
        try:
            store.load_many(["any"], START)
            return
        except StoreAway:
            assert time.monotonic() < end
            time.sleep(0.01)


# --- replicas ---


def test_what_was_swapped_survives_a_restart_of_the_gateway(server: Server) -> None:
    with opened(server) as store:
        store.swap_many({"a": entry(0, 7.0)}, START)
        store.counters.incr("rows", 3600, 5)
    with opened(server) as again:
        assert used(again, "a") == (1, 7.0)
        assert again.counters.get("rows") == 5
        assert again.counters.get_expiry("rows") == START + 3600


def test_replicas_see_each_others_entries_and_conflicts(server: Server) -> None:
    with opened(server) as first, opened(server) as second:
        first.swap_many({"a": entry(0, 1.0)}, START)
        assert used(second, "a") == (1, 1.0)
        assert not second.swap_many({"a": entry(1, 2.0)}, START)

        assert first.swap_many({"a": entry(1, 9.0)}, START) == {"a"}
        assert used(first, "a") == (2, 2.0)


def test_replicas_add_their_counts_and_agree_on_the_end_of_the_window(server: Server) -> None:
    """Both begin a window before they hear of each other; the first that is stored holds for both."""
    now = [START]
    with opened(server, lambda: now[0]) as first, opened(server, lambda: now[0]) as second:
        first.counters.incr("rows", 60, 3)
        now[0] += 5
        second.counters.incr("rows", 60, 4)
        for store in (first, second, first):
            store.counters.incr("rows", 60, 1)
            store.swap_many({}, now[0])

        assert [store.counters.get("rows") for store in (first, second)] == [10, 9]
        ends = [store.counters.get_expiry("rows") for store in (first, second)]
        assert ends == [START + 60] * 2
        now[0] = START + 60
        assert [store.counters.get("rows") for store in (first, second)] == [0, 0]
        first.counters.incr("rows", 60, 2)
        first.swap_many({}, now[0])
        assert second.counters.get("rows") == 2
        assert second.counters.get_expiry("rows") == START + 120


def test_replicas_that_hammer_one_client_lose_no_update(server: Server) -> None:
    each, problems = 60, list[BaseException]()

    def hammer() -> None:
        try:
            with opened(server) as store:
                for _ in range(each):
                    store.counters.incr("rows", 3600)
                    lost = {"a"}
                    while lost:
                        found = store.load_many(["a"], START)["a"]
                        value = used_of(found) + 1 if found.memory else 1.0
                        lost = store.swap_many({"a": entry(found.version, value)}, START)
        except BaseException as error:
            problems.append(error)

    replicas = [threading.Thread(target=hammer) for _ in range(3)]
    for replica in replicas:
        replica.start()
    for replica in replicas:
        replica.join()

    assert not problems
    with opened(server) as store:
        assert used(store, "a") == (3 * each, 3 * each)
        assert store.counters.get("rows") == 3 * each


def used_of(found: Entry) -> float:
    return float(found.memory["rate"]["used"][0])


def test_a_batch_is_one_round_trip_each_way(server: Server) -> None:
    with opened(server) as store:
        store.swap_many({"a": entry(0, 1.0)}, START)  # brings the script
        with server.client() as client:
            client.config_resetstat()
            for version in range(1, 11):
                for name in ("requests", "rows"):
                    store.counters.incr(name, 60)
                entries = store.load_many(["a", "b", "c"], START)
                store.swap_many({"a": entry(entries["a"].version, version)}, START)
            stats = client.info("commandstats")
        calls = {name: stats[f"cmdstat_{name}"]["calls"] for name in ("evalsha", "mget")}

    assert calls == {"evalsha": 10, "mget": 10}
    assert not {name for name in stats if name in ("cmdstat_multi", "cmdstat_watch")}


def test_entries_and_counters_have_an_end_that_each_swap_moves(server: Server) -> None:
    now = [START]
    with opened(server, lambda: now[0]) as store, server.client() as client:
        store.counters.incr("rows", 600)
        store.swap_many({"a": entry(0, 1.0)}, START)
        first = client.pttl(CLIENT + "a"), client.pttl(COUNTER + "rows")
        client.pexpire(CLIENT + "a", 5000)
        now[0] += 300
        store.counters.incr("rows", 600)
        store.swap_many({"a": entry(1, 1.0)}, now[0])
        second = client.pttl(CLIENT + "a"), client.pttl(COUNTER + "rows")

    for client_ms, _ in (first, second):
        assert REMEMBER_S * 1000 < client_ms <= (REMEMBER_S + 3600) * 1000
    assert 600_000 < first[1] <= 660_000
    assert 300_000 < second[1] <= 360_000


# --- outages ---


def test_what_was_acknowledged_survives_kill_9_of_redis_and_the_store_goes_on(
    tmp_path: Path,
) -> None:
    """A thread swaps without end; Redis is killed in the middle of it and started again, twice."""
    with redis_server(tmp_path, *DURABLE) as server, opened(server) as store:
        acknowledged, stop, outages = [0], threading.Event(), [0]

        def work() -> None:
            while not stop.is_set():
                try:
                    found = store.load_many(["a"], START)["a"]
                    assert found.version >= acknowledged[0], "an acknowledged swap was lost"
                    store.counters.incr("rows", 3600, 2)
                    if not store.swap_many({"a": entry(found.version, found.version)}, START):
                        acknowledged[0] = found.version + 1
                except StoreAway:
                    outages[0] += 1
                    time.sleep(0.001)

        worker = threading.Thread(target=work)
        worker.start()
        for _ in range(2):
            _advance(acknowledged, 50)
            server.kill()
            before = outages[0]
            _advance(outages, before + 5 - outages[0])
            server.start()
            _advance(acknowledged, 50)
        stop.set()
        worker.join()
        version, value = used(store, "a")
        server.kill()
        server.start()
        with opened(server) as again:
            counted = again.counters.get("rows")

            assert acknowledged[0] <= version <= acknowledged[0] + 2
            assert used(again, "a") == (version, value)
            assert counted >= 2 * acknowledged[0]


def _advance(number: list[int], by: int) -> None:
    """Wait until the number has grown."""
    goal, end = number[0] + by, time.monotonic() + START_S
    while number[0] < goal:
        assert time.monotonic() < end
        time.sleep(0.005)


def test_while_redis_is_away_every_call_fails_and_nothing_counted_is_lost(tmp_path: Path) -> None:
    with redis_server(tmp_path, *DURABLE) as server, opened(server) as store:
        store.swap_many({"a": entry(0, 1.0)}, START)
        store.counters.incr("rows", 60, 5)
        server.kill()
        for _ in range(3):
            with pytest.raises(StoreAway):
                store.load_many(["a"], START)
            with pytest.raises(StoreAway):
                store.swap_many({"a": entry(1, 2.0)}, START)
            with pytest.raises(StoreAway):
                store.counters.get("not in memory")
            with pytest.raises(StoreAway):
                list(store.scan(""))
        store.counters.incr("rows", 60, 2)
        server.start()
        back(store)

        assert not store.swap_many({"a": entry(1, 2.0)}, START)
        with opened(server) as other:
            assert used(other, "a") == (2, 2.0)
            assert other.counters.get("rows") == 7


def test_a_redis_that_hangs_is_away_until_it_goes_on(tmp_path: Path) -> None:
    with (
        redis_server(tmp_path, *DURABLE) as server,
        opened(server, socket_timeout="0.2") as store,
    ):
        server.signal(signal.SIGSTOP)
        with pytest.raises(StoreAway, match="Redis is away: Timeout"):
            store.load_many(["a"], START)
        with pytest.raises(StoreAway, match="still away"):
            store.load_many(["a"], START)
        server.signal(signal.SIGCONT)
        back(store)

        assert not store.swap_many({"a": entry(0, 1.0)}, START)
        assert used(store, "a") == (1, 1.0)


def test_connections_that_redis_closed_are_made_anew_without_a_failure(server: Server) -> None:
    """As after a restart between two queries, or a quarrel about idle connections."""
    with opened(server) as store, server.client() as client:
        for version in range(5):
            assert not store.swap_many({"a": entry(version, 1.0)}, START)
            client.client_kill_filter(_type="normal", skipme=True)
            client.script_flush()

        assert used(store, "a") == (5, 1.0)


def test_a_redis_that_forgot_learns_the_budgets_again(server: Server) -> None:
    with opened(server) as first, opened(server) as second, server.client() as client:
        for store in (first, second, first):
            store.counters.incr("rows", 3600, 10)
            store.swap_many({}, START)
        client.flushall()
        second.counters.incr("rows", 3600, 1)
        first.counters.incr("rows", 3600, 2)
        for store in (first, second):
            store.swap_many({}, START)

        assert first.counters.get("rows") == 32
        assert second.counters.get("rows") == 33


def test_a_redis_without_memory_to_spare_refuses_a_batch_as_a_whole(server: Server) -> None:
    with opened(server) as store, server.client() as client:
        store.swap_many({"a": entry(0, 1.0)}, START)
        store.counters.incr("rows", 60, 5)
        client.config_set("maxmemory", 1)
        try:
            with pytest.raises(StoreAway, match=r"Redis refused: .*maxmemory"):
                store.swap_many({"a": entry(1, 2.0), "b": entry(0, 2.0)}, START)
        finally:
            client.config_set("maxmemory", 0)

        assert used(store, "a") == (1, 1.0)
        assert store.load_many(["b"], START)["b"] == Entry(0, {})
        assert not store.swap_many({"b": entry(0, 2.0)}, START)
        assert client.get(COUNTER + "rows") == b"5 1000060.0"


def test_counts_that_cannot_be_handed_over_at_the_end_are_told(tmp_path: Path) -> None:
    with (
        structlog.testing.capture_logs() as logged,
        redis_server(tmp_path) as server,
        opened(server) as store,
    ):
        store.counters.incr("rows", 60, 5)
        server.kill()

    assert [e["log_level"] for e in logged if e["event"] == "counts_not_stored"] == ["error"]


# --- what is wrong ---


def test_a_damaged_memory_closes_only_its_client(server: Server) -> None:
    with opened(server) as store, server.client() as client:
        store.swap_many({key: entry(0, 1.0) for key in "abc"}, START)
        client.set(CLIENT + "a", b"short")
        client.setrange(CLIENT + "b", 16, b"\xc1\xc1")
        for key in "ab":
            with pytest.raises(StoreError, match="is damaged"):
                store.load_many([key], START)

        assert used(store, "c") == (1, 1.0)


@pytest.mark.parametrize("value", [b"", b"many", b"1 2 3", b"\xff 2000000"])
def test_a_damaged_counter_lets_nobody_through_and_nothing_be_stored(
    server: Server, value: bytes
) -> None:
    with opened(server) as store, server.client() as client:
        store.counters.incr("rows", 60)
        client.set(COUNTER + "rows", value)
        with opened(server) as other, pytest.raises(StoreError, match="counter is damaged"):
            other.counters.get("rows")
        with pytest.raises(StoreError, match="Redis refused"):
            store.swap_many({"a": entry(0, 1.0)}, START)
        client.delete(COUNTER + "rows")

        assert store.load_many(["a"], START)["a"] == Entry(0, {})
        assert not store.swap_many({"a": entry(0, 1.0)}, START)
        assert client.get(COUNTER + "rows") == b"1 1000060.0"


def test_a_memory_that_holds_no_numbers_is_refused_and_harms_no_later_batch(server: Server) -> None:
    with opened(server) as store:
        store.counters.incr("rows", 60, 3)
        with pytest.raises(StoreError, match="cannot be stored"):
            store.swap_many({"a": Entry(0, {"rate": {"used": np.array([{}])}})}, START)
        assert not store.swap_many({"b": entry(0, 1.0)}, START)

        assert store.load_many(["a"], START)["a"] == Entry(0, {})
        assert store.counters.get("rows") == 3


def refused(url: str) -> str:
    with pytest.raises(ConfigError) as caught:
        open_store(url, folder=Path(), remember_s=1.0, clock=lambda: START)
    assert "sesame" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis://:sesame@localhost:port/0", "is no address of a Redis: Port could not be cast"),
        ("redis://:sesame@localhost:99999/0", "is no address of a Redis: Port out of range"),
        ("redis://localhost/zero", "'zero' is no number of a database; write redis://:PASS"),
        ("redis://localhost/0?socket_timeout=soon", "Invalid value for 'socket_timeout'"),
        ("redis://localhost/0?colour=red", "unexpected keyword argument 'colour'"),
        ("unix:///nowhere/redis.sock", "cannot be used: Error 2"),
    ],
)
def test_a_url_that_cannot_be_is_refused(url: str, words: str) -> None:
    assert words in refused(url)


def test_a_redis_that_is_not_there_is_named(server: Server) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens there
        url = f"redis://:sesame@127.0.0.1:{taken.getsockname()[1]}/0"
        said = refused(url)

    assert said.startswith(f"store '{shown(url)}' cannot be used: Error 111 connecting")
    assert said.endswith("does Redis run there?")


def test_a_wrong_password_is_told_and_not_shown(tmp_path: Path) -> None:
    with redis_server(tmp_path, password="right") as server:
        for url in (server.url.replace("right", "sesame"), server.url.replace(":right@", "")):
            assert refused(url).endswith("mend user and password in the URL")
        with opened(server) as store:
            assert not store.swap_many({"a": entry(0, 1.0)}, START)


def test_a_database_that_redis_does_not_have_is_refused(server: Server) -> None:
    assert "DB index is out of range" in refused(server.url.removesuffix("0") + "99")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--cluster-enabled", "yes", "--cluster-port", str(free_port())), "is a Redis Cluster"),
        (("--replicaof", "127.0.0.1 1"), "is a read-only replica; name its master"),
    ],
)
def test_a_redis_that_takes_no_batch_is_refused(
    tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    with redis_server(tmp_path, *options) as server:
        assert words in refused(server.url)


def test_a_user_without_the_rights_is_refused_and_one_with_the_documented_ones_is_not(
    tmp_path: Path, root: Path
) -> None:
    page = (root / "docs/operations.md").read_text()
    rights = page.partition("ACL SETUSER mantlet on >PASSWORD ")[2].partition("\n")[0].split()
    with redis_server(tmp_path) as server, server.client() as client:
        client.execute_command("ACL", "SETUSER", "poor", "on", ">pw", "~*", "+get", "+ping")
        client.execute_command("ACL", "SETUSER", "mantlet", "on", ">pw", *rights)
        address = server.url.removeprefix("redis://")
        assert "mend the URL or the rights of its user" in refused(f"redis://poor:pw@{address}")
        url = f"redis://mantlet:pw@{address}"
        store = open_store(url, folder=Path(), remember_s=1.0, clock=lambda: START)
        store.counters.incr("rows", 60)
        lost = store.swap_many({"a": entry(0, 1.0)}, START)
        found = dict(store.scan(""))
        store.close()

    assert not lost
    assert found.keys() == {"a"}


def warnings_of(server: Server) -> list[str]:
    with structlog.testing.capture_logs() as logged, opened(server):
        pass
    return [e["event"] for e in logged if e["log_level"] == "warning"]


def test_a_redis_that_evicts_or_forgets_is_warned_of(tmp_path: Path) -> None:
    with redis_server(tmp_path, "--maxmemory-policy", "allkeys-lru") as server:
        both = warnings_of(server)
        with server.client() as client:
            client.config_set("save", "3600 1")
            client.config_set("maxmemory-policy", "noeviction")
        none = warnings_of(server)

    assert both == ["redis_evicts", "redis_forgets"]
    assert none == []


def test_a_durable_redis_is_not_warned_of(server: Server) -> None:
    assert warnings_of(server) == []


def test_a_socket_of_the_machine_does_as_well(tmp_path: Path) -> None:
    with redis_server(tmp_path, "--unixsocket", str(tmp_path / "r.sock")):
        url = f"unix://{tmp_path}/r.sock?db=3"
        store = open_store(url, folder=Path(), remember_s=60.0, clock=lambda: START)
        lost = store.swap_many({"a": entry(0, 1.0)}, START)
        found = store.load_many(["a"], START)["a"]
        store.close()

    assert not lost
    assert found.version == 1


def test_a_url_is_shown_without_its_password() -> None:
    assert shown("redis://user:open%20sesame@host:1/0") == "redis://user:***@host:1/0"
    assert shown("redis://host/0") == "redis://host/0"
    assert shown("redis://[::1") == "redis://[::1"
    assert shown("redis://host/0?db=1&password=sesame") == "redis://host/0?db=1&password=***"


@pytest.mark.parametrize("password", ["open/sesame", "open?sesame", "open#sesame", "open[/sesame"])
def test_a_password_that_breaks_the_address_is_not_shown(password: str) -> None:
    said = refused(f"redis://user:{password}@127.0.0.1:1/0")

    assert said.startswith("store 'redis://user:***@127.0.0.1:1/0' is no address of a Redis")
    assert "open" not in said
    assert "sesame" not in said
