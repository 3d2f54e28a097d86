import io
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mantlet.errors import ConfigError, StoreError
from serving.events import jsonl as module
from serving.events.kinds import Repaired
from tests.serving.events.making import NOW, SECRET, entries, jsonl, unban

SHARED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
WRITER = """
import sys
from pathlib import Path
from tests.serving.events.making import NOW, jsonl, unban
name, rounds, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
file = jsonl(folder)
print("ready", flush=True)
sys.stdin.readline()
for number in range(rounds):
    file.append([(NOW, unban(f"{name}-{number}-{part}")) for part in range(3)], NOW)
"""


def names(folder: Path) -> list[str]:
    events = [jsonl(folder)._chain.parse(line).event for line in jsonl(folder).lines(0)]
    return [event.kind if isinstance(event, Repaired) else event.name for event in events]


def test_records_follow_one_another_from_batch_to_batch(tmp_path: Path) -> None:
    jsonl(tmp_path).append(entries("a", "b"), NOW)
    jsonl(tmp_path).append(entries("c"), NOW)
    report = jsonl(tmp_path).verify()

    assert names(tmp_path) == ["a", "b", "c"]
    assert (report.events, report.problems, report.unfinished) == (3, (), 0)


def test_only_the_owner_may_read_the_files(tmp_path: Path) -> None:
    jsonl(tmp_path).append(entries("a"), NOW)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}

    assert modes == {"events.jsonl": 0o600, "events.jsonl.head": 0o600}


@SHARED
@given(place=st.integers(0, 10_000), change=st.integers(1, 255), which=st.booleans())
def test_every_changed_byte_is_found(tmp_path: Path, place: int, change: int, which: bool) -> None:
    file = jsonl(tmp_path)
    if not (tmp_path / "events.jsonl").exists():
        file.append(entries("a", "b", "c"), NOW)
    path = tmp_path / ("events.jsonl" if which else "events.jsonl.head")
    good = path.read_bytes()
    edited = bytearray(good)
    edited[place % len(good)] ^= change
    path.write_bytes(edited)
    problems = file.verify().problems
    path.write_bytes(good)

    assert problems
    assert not file.verify().problems


@SHARED
@given(length=st.integers(0, 1000))
def test_every_truncation_is_found_and_stays_found(tmp_path: Path, length: int) -> None:
    folder = tmp_path / str(length)
    file = jsonl(folder)
    if not folder.exists():
        file.append(entries("a", "b", "c"), NOW)
        path = folder / "events.jsonl"
        os.truncate(path, length % path.stat().st_size)
        before = file.verify().problems
        file.append(entries("d"), NOW)

        assert before
    assert file.verify().problems


def test_a_line_that_a_dying_process_left_is_set_aside_and_told(tmp_path: Path) -> None:
    jsonl(tmp_path).append(entries("a"), NOW)
    with (tmp_path / "events.jsonl").open("ab") as dying:
        dying.write(b'{"number":2,"ti')
    unfinished = jsonl(tmp_path).verify()
    (told,) = jsonl(tmp_path).append([], NOW)
    again = jsonl(tmp_path).append([], NOW)

    assert (unfinished.unfinished, unfinished.problems) == (15, ())
    assert told.event == Repaired(problem="torn_line", set_aside=15)
    assert again == []
    assert (tmp_path / "events.jsonl.torn").read_bytes() == b'{"number":2,"ti\n'
    assert jsonl(tmp_path).verify().problems == ()


def test_a_process_may_die_between_record_and_head(tmp_path: Path) -> None:
    jsonl(tmp_path).append(entries("a"), NOW)
    head = (tmp_path / "events.jsonl.head").read_bytes()
    jsonl(tmp_path).append(entries("b", "c"), NOW)
    (tmp_path / "events.jsonl.head").write_bytes(head)
    before = jsonl(tmp_path).verify()
    jsonl(tmp_path).append(entries("d"), NOW)

    assert before.problems == ()
    assert names(tmp_path) == ["a", "b", "c", "d"]
    assert jsonl(tmp_path).verify().problems == ()


def test_processes_share_a_file_and_the_death_of_one_breaks_nothing(tmp_path: Path) -> None:
    def start(name: str, rounds: int) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, "-c", WRITER, name, str(rounds), str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    with start("dies", 10**9) as dies, start("lives", 100) as lives:
        try:
            for writer in (dies, lives):
                assert writer.stdin is not None
                assert writer.stdout is not None
                writer.stdout.readline()
                writer.stdin.write(b"go\n")
                writer.stdin.flush()
            assert lives.wait(60) == 0
            while not any(name.startswith("dies") for name in names(tmp_path)):
                time.sleep(0.01)
        finally:
            dies.send_signal(signal.SIGKILL)
            lives.kill()
    at_death = jsonl(tmp_path).verify()
    jsonl(tmp_path).append(entries("after"), NOW)
    report = jsonl(tmp_path).verify()
    lived = [name for name in names(tmp_path) if name.startswith("lives")]

    assert at_death.problems == ()
    assert report.problems == ()
    assert lived == [f"lives-{number}-{part}" for number in range(100) for part in range(3)]


def test_the_thousandth_record_is_found_without_reading_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", 512)
    file = jsonl(tmp_path)
    file.append([(NOW, unban("n" * (number % 50))) for number in range(1000)], NOW)
    for after in (0, 1, 499, 500, 501, 998, 999, 1000, 5000):
        numbers = [file._chain.parse(line).number for line in file.lines(after)]

        assert numbers == list(range(after + 1, 1001))


def test_a_record_longer_than_what_is_read_at_once_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", 16)
    jsonl(tmp_path).append(entries("a"), NOW)
    jsonl(tmp_path).append(entries("b"), NOW)

    assert jsonl(tmp_path).verify().problems == ()
    assert names(tmp_path) == ["a", "b"]


def test_where_there_is_no_room_nothing_is_written(tmp_path: Path) -> None:
    """``/dev/full`` is a disk without room."""
    jsonl(tmp_path).append(entries("a"), NOW)
    (tmp_path / "events.jsonl.head.new").symlink_to("/dev/full")
    with pytest.raises(StoreError, match=r"cannot be written: .*No space left"):
        jsonl(tmp_path).append(entries("b"), NOW)
    (tmp_path / "events.jsonl.head.new").unlink()
    jsonl(tmp_path).append(entries("c"), NOW)

    assert names(tmp_path) == ["a", "c"]
    assert jsonl(tmp_path).verify().problems == ()


def test_a_log_that_is_not_there_is_not_whole(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"events\.jsonl': there are none"):
        jsonl(tmp_path).verify()

    jsonl(tmp_path).append(entries("a"), NOW)
    (tmp_path / "events.jsonl").unlink()
    assert "record 1 is missing" in jsonl(tmp_path).verify().problems[0]


def test_a_log_of_another_secret_is_left_as_it_is(tmp_path: Path) -> None:
    jsonl(tmp_path).append(entries("a"), NOW)
    before = (tmp_path / "events.jsonl").read_bytes()
    with pytest.raises(ConfigError, match="restore the secret"):
        jsonl(tmp_path, b"not " + SECRET).append(entries("b"), NOW)

    assert (tmp_path / "events.jsonl").read_bytes() == before


# --- files that are put away ---

SMALL = 600
"""Bytes that two records have, and one has not."""


def filled(folder: Path, rounds: int = 7) -> list[str]:
    """A log in several files; their names, but for that of the head."""
    for number in range(rounds):
        jsonl(folder, most=SMALL).append(entries(f"n{number}"), NOW)
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".head")


def test_a_file_that_is_too_large_is_put_away_and_the_chain_goes_on(tmp_path: Path) -> None:
    files = filled(tmp_path)
    report = jsonl(tmp_path).verify()

    assert files == ["events.jsonl", "events.jsonl.2", "events.jsonl.4", "events.jsonl.6"]
    assert (report.events, report.problems) == (7, ())
    assert names(tmp_path) == [f"n{number}" for number in range(7)]
    assert [len(list(jsonl(tmp_path).lines(after))) for after in (0, 1, 2, 5, 6, 7)] == [
        7,
        6,
        5,
        2,
        1,
        0,
    ]
    assert stat.S_IMODE((tmp_path / "events.jsonl.2").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("file", "telling"),
    [
        ("events.jsonl.2", "events.jsonl.4: line 1: before record 3, records 1 to 2 are missing"),
        ("events.jsonl.4", "events.jsonl.6: line 1: before record 5, records 3 to 4 are missing"),
        ("events.jsonl", "record 7 is missing"),
    ],
)
def test_a_file_that_is_taken_away_is_missed(tmp_path: Path, file: str, telling: str) -> None:
    filled(tmp_path)
    (tmp_path / file).unlink()

    assert telling in jsonl(tmp_path).verify().problems[0]


def test_a_file_that_was_edited_after_it_was_put_away_is_named(tmp_path: Path) -> None:
    filled(tmp_path)
    path = tmp_path / "events.jsonl.4"
    path.write_bytes(path.read_bytes().replace(b"n3", b"n9"))
    (problem,) = jsonl(tmp_path).verify().problems

    assert problem.endswith("events.jsonl.4: line 2: was edited, or sealed with another secret")


def test_the_oldest_files_may_be_moved_or_thrown_away(tmp_path: Path) -> None:
    filled(tmp_path)
    moved = tmp_path / "attic" / "old"
    moved.parent.mkdir()
    (tmp_path / "events.jsonl.2").rename(moved)
    jsonl(tmp_path, most=SMALL).append(entries("n7"), NOW)
    with_it, without = jsonl(tmp_path).verify([moved]), jsonl(tmp_path).verify(first=3)

    assert (with_it.events, with_it.problems) == (8, ())
    assert (without.events, without.problems) == (6, ())
    assert jsonl(tmp_path).verify().problems
    with pytest.raises(ConfigError, match=r"cannot be read: .*none"):
        jsonl(tmp_path).verify([tmp_path / "none"])


def test_a_process_may_die_after_it_put_a_file_away(tmp_path: Path) -> None:
    filled(tmp_path, 2)
    (tmp_path / "events.jsonl").rename(tmp_path / "events.jsonl.2")
    at_death = jsonl(tmp_path).verify()
    jsonl(tmp_path, most=SMALL).append(entries("n2"), NOW)

    assert at_death.problems == ()
    assert names(tmp_path) == ["n0", "n1", "n2"], "and no repair is told"
    assert jsonl(tmp_path).verify().problems == ()


def test_a_line_without_an_end_is_mended_before_its_file_is_put_away(tmp_path: Path) -> None:
    filled(tmp_path, 2)
    with (tmp_path / "events.jsonl").open("ab") as dying:
        dying.write(b'{"number":3,"ti')
    for name in ("a", "b"):
        jsonl(tmp_path, most=SMALL).append(entries(name), NOW)
    told = [jsonl(tmp_path)._chain.parse(line).event.kind for line in jsonl(tmp_path).lines(0)]

    assert told == ["unban", "unban", "repaired", "unban", "unban"]
    assert (tmp_path / "events.jsonl.4").is_file()
    assert jsonl(tmp_path).verify().problems == ()


def test_no_file_takes_the_place_of_another(tmp_path: Path) -> None:
    filled(tmp_path, 2)
    (tmp_path / "events.jsonl.2").write_bytes(b"of another log")
    jsonl(tmp_path, most=SMALL).append(entries("n2"), NOW)

    assert (tmp_path / "events.jsonl.2").read_bytes() == b"of another log"


def test_a_file_that_is_named_after_another_record_is_told_and_hides_nothing(
    tmp_path: Path,
) -> None:
    filled(tmp_path)
    (tmp_path / "events.jsonl.99").write_bytes(b"")
    (tmp_path / "events.jsonl.6").rename(tmp_path / "events.jsonl.50")
    renamed, put_in = jsonl(tmp_path).verify().problems

    assert "events.jsonl.50: does not end with record 50" in renamed
    assert "events.jsonl.99: does not end with record 99" in put_in
    assert names(tmp_path) == [f"n{number}" for number in range(7)]


def test_a_file_that_was_cut_off_after_it_was_put_away_is_told(tmp_path: Path) -> None:
    filled(tmp_path)
    path = tmp_path / "events.jsonl.4"
    path.write_bytes(path.read_bytes()[:-1])

    assert "cut off" in jsonl(tmp_path).verify().problems[0]


def test_what_only_looks_like_a_file_that_was_put_away_is_none(tmp_path: Path) -> None:
    filled(tmp_path)
    (tmp_path / "events.jsonl.007").write_bytes(b"")
    (tmp_path / "events.jsonl.9").mkdir()
    jsonl(tmp_path, most=SMALL).append(entries("n7"), NOW)

    assert jsonl(tmp_path).verify().problems == ()
    assert names(tmp_path) == [f"n{number}" for number in range(8)]


def test_files_that_were_put_away_are_a_log_when_the_rest_is_gone(tmp_path: Path) -> None:
    filled(tmp_path)
    (tmp_path / "events.jsonl").unlink()
    (tmp_path / "events.jsonl.head").unlink()

    assert "its head is gone" in jsonl(tmp_path).verify().problems[0]


def test_what_is_put_away_while_a_log_is_read_is_read_once(tmp_path: Path) -> None:
    filled(tmp_path)
    reading = jsonl(tmp_path).lines(0)
    read = [next(reading)]
    for number in range(7, 12):
        jsonl(tmp_path, most=SMALL).append(entries(f"n{number}"), NOW)
    read += reading
    numbers = [jsonl(tmp_path)._chain.parse(line).number for line in read]

    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) >= 7


def test_a_line_that_is_written_while_it_is_read_is_left_for_the_next_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = jsonl(tmp_path)
    file.append(entries("a", "b"), NOW)
    path = tmp_path / "events.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])

    class Watched(io.FileIO):
        """A file whose writer goes on as soon as a reader has come to its end."""

        def readinto(self, buffer: Any, /) -> int | None:
            read = super().readinto(buffer)
            if read == 0:
                with open(path, "wb") as writer:
                    writer.write(whole)
            return read

    monkeypatch.setattr(Path, "open", lambda path, _: io.BufferedReader(Watched(path)))
    seen = [*file.lines(0)]
    monkeypatch.undo()

    assert seen == whole.splitlines()[:1]
    assert [*file.lines(0)] == whole.splitlines()


def test_processes_that_share_a_log_share_its_files(tmp_path: Path) -> None:
    writer = WRITER.replace("jsonl(folder)", f"jsonl(folder, most={SMALL})")
    both = [
        subprocess.Popen(
            [sys.executable, "-c", writer, name, "30", str(tmp_path)], stdin=subprocess.PIPE
        )
        for name in ("one", "two")
    ]
    for process in both:
        process.communicate(b"go\n", timeout=60)
    report = jsonl(tmp_path).verify()

    assert [process.returncode for process in both] == [0, 0]
    assert (report.events, report.problems) == (180, ())
    assert sorted(names(tmp_path)) == sorted(
        f"{name}-{number}-{part}"
        for name in ("one", "two")
        for number in range(30)
        for part in range(3)
    )
