import sqlite3
import stat
import threading
from contextlib import closing, suppress
from pathlib import Path

import pytest

from mantlet.errors import ConfigError, StoreError
from serving.events.kinds import Repaired
from tests.serving.events.making import NOW, SECRET, alarm, entries, sqlite


def sql(folder: Path, *statements: str) -> list[tuple[object, ...]]:
    """What someone does who can write the file and has no secret."""
    with closing(sqlite3.connect(folder / "events.db", isolation_level=None)) as db:
        return [row for statement in statements for row in db.execute(statement)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A log of four records."""
    sqlite(tmp_path).append([*entries("a", "b", "c"), (NOW, alarm())], NOW)
    return tmp_path


def test_records_follow_one_another_from_batch_to_batch(folder: Path) -> None:
    sqlite(folder).append(entries("e"), NOW)
    report = sqlite(folder).verify()

    assert (report.events, report.problems) == (5, ())


def test_only_its_owner_may_read_the_log(folder: Path) -> None:
    modes = {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}

    assert modes == {0o600}


def test_records_can_be_asked_for_by_what_is_in_them(folder: Path) -> None:
    asked = "SELECT number FROM events WHERE json_extract(line, '$.kind') = 'alarm'"

    assert sql(folder, asked) == [(4,)]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("DELETE FROM events WHERE number = 2", "record 2 is missing"),
        ("DELETE FROM events WHERE number > 2", "records 3 to 4 are missing"),
        ("DELETE FROM events", "records 1 to 4 are missing"),
        ("UPDATE events SET line = replace(line, '\"b\"', '\"x\"') WHERE number = 2", "edited"),
        ("UPDATE events SET line = 10000000000000 WHERE number = 2", "line 2: is no record"),
        ("UPDATE events SET number = 10 - number", "is no record"),
        ("UPDATE events SET number = number + 90", "is no record"),
        ("INSERT INTO events SELECT 9, line FROM events WHERE number = 1", "line 5: is no record"),
        ("DELETE FROM head", "its head is gone"),
        ("UPDATE head SET line = replace(line, '4', '3')", "its head was edited"),
    ],
)
def test_tampering_is_found_and_stays_found(folder: Path, change: str, problem: str) -> None:
    sql(folder, change)
    before = sqlite(folder).verify().problems
    with suppress(StoreError):  # a number that was put in stands in the way
        sqlite(folder).append(entries("later"), NOW)

    assert any(problem in told for told in before)
    assert sqlite(folder).verify().problems


def test_the_oldest_records_may_be_thrown_away(folder: Path) -> None:
    sql(folder, "DELETE FROM events WHERE number < 3")
    sqlite(folder).append(entries("later"), NOW)
    report = sqlite(folder).verify(first=3)

    assert (report.events, report.problems) == (3, ())
    assert "records 1 to 2 are missing" in sqlite(folder).verify().problems[0]
    with pytest.raises(ConfigError, match="are a table, and none of it is in files"):
        sqlite(folder).verify([folder / "events.jsonl"])


def test_a_truncated_log_goes_on_and_tells(folder: Path) -> None:
    sql(folder, "DELETE FROM events WHERE number > 2")
    told, later = sqlite(folder).append(entries("e"), NOW)

    assert told.event == Repaired(problem="behind_head")
    assert (told.number, later.number) == (5, 6)


def test_writers_take_turns(tmp_path: Path) -> None:
    def write() -> None:
        for _ in range(20):
            sqlite(tmp_path).append(entries("a", "b"), NOW)

    writers = [threading.Thread(target=write) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    report = sqlite(tmp_path).verify()

    assert (report.events, report.problems) == (120, ())


def test_what_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "events.db").write_text("not a database, and long enough to be read as one" * 10)

    with pytest.raises(StoreError, match=r"events\.db' cannot be written: file is not a database"):
        sqlite(tmp_path).append(entries("a"), NOW)
    with pytest.raises(ConfigError, match=r"events\.db' cannot be read: file is not a database"):
        sqlite(tmp_path).verify()
    with pytest.raises(StoreError, match=r"events\.db' cannot be read: file is not a database"):
        list(sqlite(tmp_path).lines(0))


def test_a_log_that_is_not_there_is_not_whole(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"events\.db': there are none"):
        sqlite(tmp_path).verify()

    assert list(sqlite(tmp_path).lines(0)) == []


def test_a_log_of_another_secret_is_left_as_it_is(folder: Path) -> None:
    with pytest.raises(ConfigError, match="restore the secret"):
        sqlite(folder, b"not " + SECRET).append(entries("e"), NOW)

    assert sqlite(folder).verify().events == 4
