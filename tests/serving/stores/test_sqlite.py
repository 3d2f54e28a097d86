"""What is sqlite's own: files, processes, kill -9; the rest of its promises are in test_stores.py."""

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mantlet.errors import ConfigError, StoreError
from serving.stores import sqlite
from serving.stores.base import Entry
from serving.stores.sqlite import SWEEP, SqliteStore

START = 1_000_000.0
REMEMBER_S = 86_400.0


def opened(path: Path, now: Callable[[], float] = lambda: START) -> SqliteStore:
    return SqliteStore(path, now, REMEMBER_S)


def entry(version: int, value: float) -> Entry:
    return Entry(version, {"rate": {"used": np.array([value])}})


def used(store: SqliteStore, key: str, at: float = START) -> tuple[int, float]:
    loaded = store.load_many([key], at)[key]
    return loaded.version, float(loaded.memory["rate"]["used"][0])


def test_what_was_swapped_survives_a_restart(tmp_path: Path) -> None:
    store = opened(tmp_path / "deep/state.db")
    store.swap_many({"a": entry(0, 7.0)}, START)
    store.counters.incr("rows", 3600, 5)
    store.close()
    again = opened(tmp_path / "deep/state.db")

    assert used(again, "a") == (1, 7.0)
    assert again.counters.get("rows") == 5
    assert again.counters.get_expiry("rows") == START + 3600
    again.close()


def test_only_its_owner_may_read_what_is_remembered(tmp_path: Path) -> None:
    store = opened(tmp_path / "state.db")
    store.swap_many({"a": entry(0, 7.0)}, START)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    store.close()

    assert modes == dict.fromkeys(["state.db", "state.db-wal", "state.db-shm"], 0o600)


def test_counts_since_the_last_swap_are_stored_at_the_end_in_the_window_they_belong_to(
    tmp_path: Path,
) -> None:
    """The stored window is over, and the pending count belongs to the next one."""
    now = [START]
    store = opened(tmp_path / "state.db", lambda: now[0])
    store.counters.incr("rows", 60, 50)
    store.swap_many({}, now[0])
    now[0] += 61
    store.counters.incr("rows", 60, 5)
    store.close()
    again = opened(tmp_path / "state.db", lambda: now[0])

    assert again.counters.get("rows") == 5
    assert again.counters.get_expiry("rows") == now[0] + 60
    again.close()


def test_two_stores_on_one_file_see_each_others_entries_and_conflicts(tmp_path: Path) -> None:
    first, second = opened(tmp_path / "state.db"), opened(tmp_path / "state.db")
    first.swap_many({"a": entry(0, 1.0)}, START)
    assert used(second, "a") == (1, 1.0)
    assert not second.swap_many({"a": entry(1, 2.0)}, START)

    assert first.swap_many({"a": entry(1, 9.0)}, START) == {"a"}
    assert used(first, "a") == (2, 2.0)
    for store in (first, second):
        store.close()


def test_workers_that_start_together_all_open_a_new_file(tmp_path: Path) -> None:
    """SQLite refuses, without waiting, who comes while another switches to write-ahead logging."""
    problems: list[Exception] = []
    for attempt in range(30):
        together = threading.Barrier(6)

        def start(path: Path, together: threading.Barrier = together) -> None:
            together.wait()
            try:
                opened(path).close()
            except Exception as error:
                problems.append(error)

        workers = [
            threading.Thread(target=start, args=(tmp_path / f"{attempt}.db",)) for _ in range(6)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    assert problems == []


def test_two_stores_on_one_file_add_their_counts(tmp_path: Path) -> None:
    first, second = opened(tmp_path / "state.db"), opened(tmp_path / "state.db")
    for store, amount in ((first, 3), (second, 4), (first, 10)):
        store.counters.incr("rows", 3600, amount)
        store.swap_many({}, START)

    assert first.counters.get("rows") == 17
    second.counters.incr("rows", 3600, 1)
    second.swap_many({}, START)
    assert second.counters.get("rows") == 18
    for store in (first, second):
        store.close()


def test_a_sweep_forgets_clients_and_counters_whose_time_is_over_a_bounded_number_at_once(
    tmp_path: Path,
) -> None:
    now = [START]
    store = opened(tmp_path / "state.db", lambda: now[0])
    old = {f"old/{i}": entry(0, i) for i in range(SWEEP + 200)}
    store.swap_many(old, START)
    for i in range(30):
        store.counters.incr(f"rows/{i}", 60)
    store.swap_many({}, START)
    now[0] += REMEMBER_S + 3600
    counts = []
    for version in range(3):
        store.swap_many({"new": entry(version, 1.0)}, now[0])
        with sqlite3.connect(tmp_path / "state.db") as db:
            counts.append(db.execute("SELECT count(*) FROM clients").fetchone()[0])
            left = db.execute("SELECT count(*) FROM counters").fetchone()[0]
        db.close()

    assert counts == [201, 1, 1]
    assert left == 0
    assert used(store, "new", now[0]) == (3, 1.0)
    store.close()


@pytest.mark.parametrize("remember_s", [60.0, 3600.0, 10_000.0])
def test_a_client_is_remembered_over_a_restart_as_long_as_promised(
    tmp_path: Path, remember_s: float
) -> None:
    store = opened(tmp_path / "state.db")
    store.swap_many({"a": entry(0, 1.0)}, START)
    store.close()
    again = SqliteStore(tmp_path / "state.db", lambda: START, remember_s)
    last = START + remember_s - 1
    again.swap_many({}, last)  # sweeps

    assert used(again, "a", last) == (1, 1.0)
    assert again.load_many(["a"], last + 3601)["a"].memory == {}
    again.swap_many({}, last + 3601)
    assert again.load_many(["a"], last + 3601)["a"] == Entry(0, {})
    again.close()


def test_a_client_that_comes_again_costs_two_pages_the_memory_and_the_counter(
    tmp_path: Path,
) -> None:
    store = opened(tmp_path / "state.db")
    written = tmp_path / "state.db-wal"
    memory = {"foreign": {"wealth": np.zeros(200)}}  # as large as that of the default chain

    def ask(version: int, at: float) -> int:
        before = written.stat().st_size
        store.counters.incr("rows", 86_400)
        store.swap_many({"a": Entry(version, memory)}, at)
        return (written.stat().st_size - before) // (4096 + 24)

    ask(0, START)
    again = ask(1, START + 1)
    later = ask(2, START + 3600)
    store.close()

    assert again == 2
    assert later > 2  # the hour it was last seen


def test_a_client_that_came_again_later_is_remembered_from_then(tmp_path: Path) -> None:
    store = opened(tmp_path / "state.db")
    for version, hours in enumerate((0, 0, 20, 20)):
        store.swap_many({"a": entry(version, 7.0)}, START + hours * 3600)
    again = opened(tmp_path / "state.db")

    assert used(again, "a", START + REMEMBER_S + 19 * 3600) == (4, 7.0)
    store.close()
    again.close()


def test_entries_at_hand_are_bounded_and_those_let_go_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "RECENT", 10)
    store = opened(tmp_path / "state.db")
    for number in range(50):
        store.swap_many({f"{number}": entry(0, number)}, START)

    assert len(store._recent) <= 11
    assert [used(store, f"{number}") for number in range(50)] == [(1, n) for n in range(50)]
    store.close()


WRITER = """
import sys, numpy as np
from pathlib import Path
from serving.stores.base import Entry
from serving.stores.sqlite import SqliteStore

store = SqliteStore(Path(sys.argv[1]), lambda: 1_000_000.0, 86_400.0)
for version in range(1_000_000):
    store.counters.incr("rows", 3600, 2)
    memory = {"policy": {"denied_until": np.array([float(version)])}}
    assert not store.swap_many({"a": Entry(version, memory)}, 1_000_000.0)
    print(version + 1, flush=True)
"""


def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    """A process swaps and counts without end and says so; it is killed in the middle of its work."""
    path = tmp_path / "state.db"
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WRITER), str(path)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout as lines:
        acknowledged = [int(lines.readline()) for _ in range(200)][-1]
        os.kill(process.pid, signal.SIGKILL)
        acknowledged = max([acknowledged, *(int(line) for line in lines if line.endswith("\n"))])
    assert process.wait() == -signal.SIGKILL
    store = opened(path)
    loaded = store.load_many(["a"], START)["a"]

    assert acknowledged <= loaded.version <= acknowledged + 1
    assert loaded.memory["policy"]["denied_until"][0] == loaded.version - 1
    assert store.counters.get("rows") == 2 * loaded.version
    assert not store.swap_many({"a": entry(loaded.version, 0.0)}, START)
    store.close()


def garbage(path: Path) -> None:
    path.write_bytes(b"this is no database at all " * 200)


def folder(path: Path) -> None:
    path.mkdir()


def overwritten(path: Path) -> None:
    """A real database whose first page was lost."""
    store = opened(path)
    store.swap_many({f"{i}": entry(0, i) for i in range(50)}, START)
    store.close()
    data = bytearray(path.read_bytes())
    data[:2048] = b"\x00" * 2048
    path.write_bytes(data)


def other_tables(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE clients (name TEXT)")
    db.close()


@pytest.mark.parametrize("damage", [garbage, folder, overwritten, other_tables])
def test_a_file_that_is_no_store_is_refused_with_its_path(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    damage(tmp_path / "state.db")

    with pytest.raises(ConfigError, match=r"store 'sqlite:///.*state\.db' cannot be opened"):
        opened(tmp_path / "state.db")


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(ConfigError, match="cannot be opened"):
        opened(tmp_path / "file/state.db")


def test_a_damaged_memory_of_a_client_is_a_store_error_and_closes_only_that_client(
    tmp_path: Path,
) -> None:
    store = opened(tmp_path / "state.db")
    store.swap_many({"a": entry(0, 1.0), "b": entry(0, 2.0)}, START)
    store.close()
    with sqlite3.connect(tmp_path / "state.db") as db:
        db.execute("UPDATE clients SET memory = x'00' WHERE key = 'a'")
    db.close()
    again = opened(tmp_path / "state.db")

    with pytest.raises(StoreError, match="is damaged"):
        again.load_many(["a"], START)
    assert used(again, "b") == (1, 2.0)
    again.close()


def test_a_failed_write_keeps_what_was_counted_for_the_next(tmp_path: Path) -> None:
    """Another process holds the file longer than we wait; afterwards nothing is missing."""
    store = opened(tmp_path / "state.db")
    store._db.execute("PRAGMA busy_timeout = 20")
    blocker = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    store.counters.incr("rows", 3600, 5)

    with pytest.raises(StoreError, match="the store failed: database is locked"):
        store.swap_many({"a": entry(0, 1.0)}, START)
    blocker.execute("ROLLBACK")
    blocker.close()
    assert not store.swap_many({"a": entry(0, 1.0)}, START)
    store.close()
    again = opened(tmp_path / "state.db")
    assert again.counters.get("rows") == 5
    assert used(again, "a") == (1, 1.0)
    again.close()


def test_a_memory_that_holds_no_numbers_is_refused_and_harms_no_later_batch(tmp_path: Path) -> None:
    """A detector's mistake in one batch."""
    store = opened(tmp_path / "state.db")
    store.counters.incr("rows", 60, 3)
    with pytest.raises(StoreError):
        store.swap_many({"a": Entry(0, {"rate": {"used": np.array([{}])}})}, START)

    assert not store.swap_many({"b": entry(0, 1.0)}, START)
    assert store.load_many(["a"], START)["a"] == Entry(0, {})
    store.close()
    again = opened(tmp_path / "state.db")
    assert again.counters.get("rows") == 3
    again.close()


def test_a_closed_store_fails_closed(tmp_path: Path) -> None:
    store = opened(tmp_path / "state.db")
    store.close()

    with pytest.raises(StoreError):
        store.load_many(["a"], START)


def test_what_another_process_changed_is_seen_at_once(tmp_path: Path) -> None:
    """A refusal that was lifted elsewhere must not live on in a copy kept at hand."""
    one, other = (SqliteStore(tmp_path / "state.db", lambda: 0.0, 60.0) for _ in range(2))
    before, after = {"policy": {"x": np.zeros(1)}}, {"policy": {"x": np.ones(1)}}
    one.swap_many({"m/c": Entry(0, before)}, 0.0)
    one.load_many(["m/c"], 0.0)
    other.swap_many({"m/c": Entry(1, after)}, 0.0)

    assert one.load_many(["m/c"], 0.0)["m/c"].memory["policy"]["x"].tolist() == [1.0]
