"""What is told of a client, and that it is told once."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from detectors.rate import Rate
from serving.admission import Client
from serving.events.kinds import Alarm, Ban, Event, LevelChange, Standing
from serving.events.log import EventLog
from serving.folding import EVIDENCE, Memory
from serving.metrics import Metrics
from serving.pipeline import Pipeline
from serving.policy import ALLOWED, Level
from serving.reporting import Reporter
from serving.stores.base import pack, unpack
from tests.helpers import TinyVictim, bright, grey, query

LEVELS = (
    Level(name="normal"),
    Level(name="suspected", suspicion=0.5),
    Level(name="alarmed", alarm=True, deny_s=60),
)
ANN = Client("1d", "ann", "paid")


class Desk:
    """A reporter over a pipeline whose memory of one client goes on, as in a store."""

    def __init__(self, folder: Path, *detectors: Any, shadow: bool = False) -> None:
        self.pipeline = Pipeline(TinyVictim(), detectors, levels=LEVELS, alpha=1e-3, shadow=shadow)
        self.metrics = Metrics()
        self.events = EventLog.open(
            "jsonl:///events.jsonl", folder=folder, secret=b"s" * 16, clock=lambda: 0.0
        )
        names = self.pipeline.fold.names
        self.reporter = Reporter(
            "tiny",
            self.pipeline,
            self.events,
            {name: self.metrics.alarms.labels("tiny", name) for name in names},
        )
        self.memory: Memory = {}

    def ask(self, *shades: float, at: float = 0.0, client: Client = ANN) -> list[Event]:
        """The events that a request gives rise to."""
        before = unpack(pack(self.memory)) if self.memory else {}
        asked = query(grey(*shades), client.id, at, [client.judged_as] * len(shades))
        self.memory = self.pipeline.run(asked, {client.id: before}).memories[client.id]
        count = len(list(self.events.read()))
        self.reporter.note(client, before, self.memory, at)
        assert self.events.flush()
        return [record.event for record in self.events.read()][count:]

    def alarms(self, detector: str) -> float:
        labels = {"model": "tiny", "detector": detector}
        return self.metrics.registry.get_sample_value("mantlet_alarms_total", labels) or 0.0


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Callable[..., Desk]]:
    """Builds desks that write into one log, and closes them."""
    made: list[Desk] = []

    def build(*detectors: Any, **settings: Any) -> Desk:
        made.append(Desk(tmp_path, *detectors, **settings))
        made[-1].events.begin()
        return made[-1]

    yield build
    for one in made:
        one.events.close()


Build = Callable[..., Desk]


def kinds(events: list[Event]) -> list[str]:
    return [event.kind.value for event in events]


def test_of_an_honest_client_nothing_is_told(desk: Build) -> None:
    scene = desk(Rate(rows=1000), bright())

    assert [scene.ask(0.01, 0.02) for _ in range(10)] == [[]] * 10
    assert scene.reporter.note(ANN, scene.memory, scene.memory, 0.0) is None


def test_an_alarm_is_told_once_with_the_evidence_for_it(desk: Build) -> None:
    scene = desk(Rate(rows=1000), bright())
    with structlog.testing.capture_logs() as logged:
        told = scene.ask(*[1.0] * 20) + scene.ask(1.0) + scene.ask(0.0)
    (alarm,) = [event for event in told if isinstance(event, Alarm)]

    assert alarm.raised_by == ("bright", EVIDENCE)
    assert (alarm.client, alarm.name, alarm.tier, alarm.model) == ("1d", "ann", "paid", "tiny")
    assert alarm.weights == scene.pipeline.victim.fingerprint
    assert (alarm.rows, alarm.suspicion, alarm.shadow) == (20, 1.0, False)
    assert alarm.detectors["bright"].alarm
    assert 1 <= (alarm.detectors["bright"].rows_at_alarm or 0) < 20
    assert alarm.detectors["rate"].suspicion == pytest.approx(0.02)
    assert [scene.alarms(name) for name in ("bright", EVIDENCE, "rate")] == [1, 1, 0]
    assert {entry["detector"] for entry in logged} == {"bright", EVIDENCE}
    assert {entry["client"] for entry in logged} == {"1d"}


def test_a_second_detectors_alarm_is_told_when_it_comes(desk: Build) -> None:
    scene = desk(Rate(rows=25), bright())
    told = scene.ask(*[1.0] * 20) + scene.ask(*[0.0] * 10)
    alarms = [event for event in told if isinstance(event, Alarm)]

    assert [alarm.raised_by for alarm in alarms] == [("bright", EVIDENCE), ("rate",)]


def test_a_change_of_level_is_told_up_and_down(desk: Build) -> None:
    scene = desk(Rate(rows=10, window_s=100))
    told = [scene.ask(*[0.0] * 6), scene.ask(0.0), scene.ask(0.0, at=100.0)]
    changes = [[(e.before, e.after) for e in part if isinstance(e, LevelChange)] for part in told]

    assert changes == [[("normal", "suspected")], [], [("suspected", "normal")]]


def test_a_refusal_is_told_with_its_end_when_it_begins(desk: Build) -> None:
    scene = desk(Rate(rows=10))
    told = [scene.ask(*[0.0] * 12, at=5.0), scene.ask(0.0, at=20.0), scene.ask(0.0, at=500.0)]
    bans = [[(e.until, e.level) for e in part if isinstance(e, Ban)] for part in told]

    assert bans == [[(65.0, "alarmed")], [], [(560.0, "alarmed")]]


def test_each_step_of_suspicion_is_told(desk: Build) -> None:
    scene = desk(Rate(rows=100))
    told = [scene.ask(*[0.0] * count) for count in (4, 2, 1, 40)]
    steps = [[e.step for e in part if isinstance(e, Standing)] for part in told]

    assert steps == [[], [pytest.approx(0.06)], [], [pytest.approx(0.47)]]


def test_nothing_is_told_again_after_a_restart(desk: Build) -> None:
    first = desk(Rate(rows=10))
    first.ask(*[0.0] * 12)
    again = desk(Rate(rows=10))
    again.memory = unpack(pack(first.memory))

    assert again.ask(0.0, at=1.0) == []


def test_what_a_lost_race_would_have_told_is_not_told(desk: Build) -> None:
    """Only the memory that was stored is noted: here the rows of another worker came between."""
    scene = desk(Rate(rows=10))
    lost = scene.pipeline.run(query(grey(*[0.0] * 8), ANN.id), {})
    assert lost.signals["rate"].suspicion[-1] > 0.7
    scene.ask(*[0.0] * 3)
    told = scene.ask(*[0.0] * 8)

    assert kinds(told).count("alarm") == 1
    assert kinds([record.event for record in scene.events.read()]).count("alarm") == 1


@pytest.mark.parametrize("shadow", [True, False])
def test_what_was_decided_and_not_done_is_marked(desk: Build, shadow: bool) -> None:
    client = ANN if shadow else Client("1d", "ann", "paid", ALLOWED)
    scene = desk(Rate(rows=10), shadow=shadow)
    told = scene.ask(*[0.0] * 12, client=client)

    assert set(kinds(told)) == {"alarm", "level", "standing"}, "and nobody is refused"
    assert all(event.shadow for event in told)  # type: ignore[union-attr]  # all are judged


def test_how_the_client_stands_is_returned_when_something_changed(desk: Build) -> None:
    scene = desk(Rate(rows=10))
    asked = query(grey(*[0.0] * 6), ANN.id)
    after = scene.pipeline.run(asked, {}).memories[ANN.id]
    standing = scene.reporter.note(ANN, {}, after, 0.0)

    assert standing is not None
    assert standing.level == "suspected"
