import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

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
