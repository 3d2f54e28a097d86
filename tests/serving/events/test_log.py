import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
import structlog

from mantlet.errors import ConfigError, StoreError
from serving.events import log as module
from serving.events.audit import Report
from serving.events.chain import Chain, Record
from serving.events.jsonl import JsonlFile
from serving.events.kinds import Dropped, Event, EventKind, Unban
from serving.events.log import EventLog
from serving.metrics import Metrics
from tests.serving.events.making import NOW, SECRET, URLS, alarm, jsonl, open_log, unban


class Slow:
    """A journal that writes when a test lets it, and fails when it is told to."""

    def __init__(self, file: JsonlFile) -> None:
        self._file = file
        self.asked = threading.Semaphore(0)
        self.may_go = threading.Event()
        self.failures = 0

    def append(self, entries: Sequence[tuple[float, Event]], at: float) -> list[Record]:
        self.asked.release()
        assert self.may_go.wait(60)
        if self.failures:
            self.failures -= 1
            raise StoreError("no room")
        return self._file.append(entries, at)

    def lines(self, after: int) -> Iterator[bytes]:
        return self._file.lines(after)

    def verify(self, files: Sequence[Path] = (), first: int = 1) -> Report:
        return self._file.verify(files, first)


def slow_log(folder: Path, *, waiting: int = 3) -> tuple[EventLog, Slow, Metrics]:
    slow, metrics = Slow(jsonl(folder)), Metrics()
    log = EventLog(slow, Chain(SECRET), lambda: NOW, metrics=metrics, waiting=waiting)
    return log, slow, metrics


def total(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(name, labels) or 0.0


@pytest.mark.parametrize("form", URLS)
def test_what_is_recorded_from_many_threads_is_all_there(tmp_path: Path, form: str) -> None:
    log = open_log(tmp_path, form)

    def tell(who: str) -> None:
        for number in range(50):
            log.record(unban(f"{who}{number}"))

    tellers = [threading.Thread(target=tell, args=(who,)) for who in "abcd"]
    for teller in tellers:
        teller.start()
    for teller in tellers:
        teller.join()
    log.close()
    events = [record.event for record in log.read()]
    names = [event.name for event in events if isinstance(event, Unban)]

    assert sorted(names) == sorted(f"{who}{number}" for who in "abcd" for number in range(50))
    assert [n for n in names if n[0] == "a"] == [f"a{number}" for number in range(50)]
    assert log.verify().problems == ()


def test_closing_writes_what_waits(tmp_path: Path) -> None:
    log, slow, _ = slow_log(tmp_path, waiting=100)
    log.record(unban("first"))
    assert slow.asked.acquire(timeout=60)
    for _ in range(50):
        log.record(unban())
    slow.may_go.set()
    log.close()

    assert log.verify().events == 51


def test_flushing_waits_for_what_was_recorded(tmp_path: Path) -> None:
    log, slow, _ = slow_log(tmp_path)
    log.record(unban())
    early = log.flush(timeout_s=0.0)
    slow.may_go.set()

    assert (early, log.flush()) == (False, True)
    assert log.verify().events == 1
    log.close()


def test_a_full_queue_holds_nobody_up_and_the_log_tells_what_is_missing(tmp_path: Path) -> None:
    log, slow, metrics = slow_log(tmp_path, waiting=3)
    log.record(unban("writing"))
    assert slow.asked.acquire(timeout=60)
    for number in range(10):
        log.record(unban(f"{number}"))
    slow.may_go.set()
    assert log.flush()
    log.record(unban("room again"))
    log.close()
    events = [record.event for record in log.read()]
    told = [event.count if isinstance(event, Dropped) else event.name for event in events]  # type: ignore[union-attr]  # unbans only

    assert told == ["writing", "0", "1", "2", 7, "room again"]
    assert total(metrics, "mantlet_events_dropped_total") == 7


def test_what_could_not_be_written_is_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "AGAIN_S", 0.001)
    log, slow, metrics = slow_log(tmp_path)
    slow.failures = 2
    slow.may_go.set()
    with structlog.testing.capture_logs() as logged:
        log.record(alarm())
        assert log.flush()
    log.close()

    assert [entry["event"] for entry in logged] == ["events_not_written"] * 2
    assert total(metrics, "mantlet_events_total", kind="alarm") == 1
    assert total(metrics, "mantlet_events_dropped_total") == 0


def test_a_closed_log_takes_nothing_and_counts_what_it_loses(tmp_path: Path) -> None:
    log, slow, metrics = slow_log(tmp_path)
    slow.failures = 10**9
    log.record(unban())
    assert slow.asked.acquire(timeout=60)
    slow.may_go.set()
    with structlog.testing.capture_logs():
        log.close()
    log.record(unban())

    assert total(metrics, "mantlet_events_dropped_total") == 2


@pytest.mark.parametrize("form", URLS)
def test_records_are_read_from_a_number_on_by_kind_and_up_to_a_limit(
    tmp_path: Path, form: str
) -> None:
    log = open_log(tmp_path, form)
    for event in (unban("a"), alarm("b"), unban("c"), alarm("d"), alarm("e")):
        log.record(event)
    log.close()

    assert [r.number for r in log.read()] == [1, 2, 3, 4, 5]
    assert [r.number for r in log.read(after=3)] == [4, 5]
    assert [r.number for r in log.read(after=1, limit=2, kinds={EventKind.ALARM})] == [2, 4]
    assert list(log.read(after=5)) == list(log.read(limit=0)) == []


def test_an_edited_record_is_not_read_as_if_it_were_true(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    log.record(unban("a"))
    log.record(unban("b"))
    log.close()
    path = tmp_path / "events.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"b"', b'"x"'))
    records = log.read()

    assert next(records).number == 1
    with pytest.raises(
        StoreError, match=r"what follows record 1 was edited.*mantlet events verify"
    ):
        next(records)


@pytest.mark.parametrize(
    "url", ["events.jsonl", "jsonl://x", "jsonl:///", "kafka:///x", "memory://"]
)
def test_an_unknown_url_is_named_with_what_is_known(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError, match=rf"events '{url}' .*jsonl:///FILE, sqlite:///FILE"):
        EventLog.open(url, folder=tmp_path, secret=SECRET, clock=lambda: NOW)


def test_opening_touches_nothing_and_beginning_makes_the_log(tmp_path: Path) -> None:
    log = open_log(tmp_path / "deep")
    before = list(tmp_path.iterdir())
    log.begin()

    assert before == []
    assert log.verify() == Report(0, log.verify().tip, 0, ())


def test_a_log_that_cannot_be_written_is_found_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").mkdir()

    with pytest.raises(ConfigError, match=r"events\.jsonl' cannot be written.*is the folder"):
        open_log(tmp_path).begin()


def test_a_repair_at_the_start_is_logged_counted_and_recorded(tmp_path: Path) -> None:
    with closing(open_log(tmp_path)) as log:
        log.record(unban())
    (tmp_path / "events.jsonl").write_bytes(b"torn")
    metrics = Metrics()
    with structlog.testing.capture_logs() as logged:
        EventLog(jsonl(tmp_path), Chain(SECRET), lambda: NOW, metrics=metrics).begin()
    (entry,) = logged

    assert (entry["event"], entry["problem"]) == ("events_repaired", "behind_head")
    assert total(metrics, "mantlet_events_total", kind="repaired") == 1
    assert [r.event.kind for r in open_log(tmp_path).read()] == [EventKind.REPAIRED]


def test_a_clock_that_goes_backwards_breaks_no_chain(tmp_path: Path) -> None:
    times = iter([NOW, NOW - 3600.0, NOW - 3600.0, NOW - 7200.0, 0.0, 0.0])
    log = EventLog(jsonl(tmp_path), Chain(SECRET), lambda: next(times))
    for _ in range(3):
        log.record(unban())
        assert log.flush()
    log.close()

    assert log.verify().problems == ()
    assert [r.number for r in log.read()] == [1, 2, 3]
