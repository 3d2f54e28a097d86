"""Logs and events for the tests of the event log."""

from pathlib import Path

from serving.events.chain import Chain
from serving.events.jsonl import JsonlFile
from serving.events.kinds import Alarm, Event, Opinion, Unban
from serving.events.log import EventLog
from serving.events.sqlite import SqliteFile

SECRET = b"a secret of the tests"
URLS = {"jsonl": "jsonl:///events.jsonl", "sqlite": "sqlite:///events.db"}
NOW = 1_700_000_000.0


def unban(name: str = "acme") -> Unban:
    return Unban(client="c0ffee", name=name, tier="default", by="operator")


def alarm(name: str = "acme") -> Alarm:
    return Alarm(
        client="c0ffee",
        name=name,
        tier="paid",
        model="mnist",
        weights="ab12",
        rows=25,
        suspicion=1.0,
        detectors={"foreign": Opinion(suspicion=1.0, alarm=True, rows_at_alarm=25)},
        campaign="k7",
        raised_by=("foreign",),
    )


def entries(*names: str) -> list[tuple[float, Event]]:
    return [(NOW, unban(name)) for name in names]


def jsonl(folder: Path, secret: bytes = SECRET, most: int | None = None) -> JsonlFile:
    return JsonlFile(folder / "events.jsonl", Chain(secret), most)


def sqlite(folder: Path, secret: bytes = SECRET) -> SqliteFile:
    return SqliteFile(folder / "events.db", Chain(secret))


def open_log(folder: Path, form: str = "jsonl") -> EventLog:
    return EventLog.open(URLS[form], folder=folder, secret=SECRET, clock=lambda: NOW)
