"""The patrol marks campaigns once, whoever looks, and lets no drift of all clients accuse them."""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from mantlet.types import Query
from serving.campaigns import Search
from serving.drift import Watch
from serving.events.kinds import Campaign, Drift, Event
from serving.folding import ALARMS, CAMPAIGN, EVIDENCE, Memory
from serving.gateway import Gateway
from serving.patrol import SHARED, Patrol
from serving.pipeline import Outcome
from serving.policy import Level
from serving.service import Service
from serving.stores.base import Entry
from tests.helpers import bright, grey
from tests.serving.inprocess import Clock, load, service

LEVELS = (
    Level(name="normal"),
    Level(name="suspected", suspicion=0.9),
    Level(name="alarmed", alarm=True, campaign=True),
)
THIEVES = [f"thief {i}" for i in range(12)]
HONEST = [f"honest {i}" for i in range(60)]


class Scene:
    """A gateway with clients whose rows score 1 or 0, and a patrol that a test sends round."""

    def __init__(self, folder: Path) -> None:
        self.service: Service = service(folder)
        load(self.service, detectors=[bright(bound=0.1)], levels=LEVELS)
        self.gateway: Gateway = self.service.gateways["mnist"]
        self.told: list[Event] = []
        self.rng = np.random.default_rng(0)

    def patrol(
        self, gateway: Gateway | None = None, *, alpha: float = 1e-4, **watch: bool
    ) -> Patrol:
        return Patrol(
            gateway or self.gateway,
            Search(alpha=alpha),
            Watch.model_validate(watch),
            clock=self.service.clock,
            metrics=self.service.metrics,
            events=self.service.events,
        )

    def replica(self) -> Gateway:
        """Another gateway on the same store."""
        load(self.service, detectors=[bright(bound=0.1)], levels=LEVELS)
        return self.service.gateways["mnist"]

    def ask(self, clients: Sequence[str], mean: float, rows: int = 1) -> Outcome:
        """Rows of every client, of which a share ``mean`` scores 1."""
        names = [client for client in clients for _ in range(rows)]
        shades = (self.rng.random(len(names)) < mean).astype(float)
        at, keys = self.service.clock(), {c: f"mnist/{c}" for c in clients}
        entries = self.service.store.load_many(list(keys.values()), at)
        memories = {c: entries[k].memory for c, k in keys.items()}
        asked = Query(names, grey(*shades.tolist()), at)
        outcome = self.gateway.pipeline.run(asked, memories)
        after = {k: Entry(entries[k].version, outcome.memories[c]) for c, k in keys.items()}
        assert not self.service.store.swap_many(after, at)
        return outcome

    def later(self, seconds: float) -> None:
        assert isinstance(self.service.clock, Clock)
        self.service.clock.now += seconds

    def alarmed(self, signal: str) -> set[str]:
        found: Mapping[str, Memory] = dict(self.gateway.remembered())
        return {client for client, memory in found.items() if signal in memory.get(ALARMS, {})}

    def events(self) -> list[Event]:
        self.service.events.close()
        return [record.event for record in self.service.events.read()]

    def metric(self, name: str, **labels: str) -> float | None:
        return self.service.metrics.registry.get_sample_value(name, {"model": "mnist"} | labels)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_members_are_marked_and_told_of_once(scene: Scene) -> None:
    scene.ask(THIEVES, 1.0, 6)  # one row more, and each would be alarmed by itself
    scene.ask(HONEST, 0.04, 30)
    patrol = scene.patrol()
    for _ in range(3):
        patrol.round()
        scene.later(60)
    (event,) = [e for e in scene.events() if isinstance(e, Campaign)]

    assert scene.alarmed(CAMPAIGN) == set(event.members) == set(THIEVES)
    assert not scene.alarmed(EVIDENCE)
    assert event.alarm
    assert scene.metric("mantlet_campaigns_total") == 1
    assert scene.metric("mantlet_alarms_total", detector=CAMPAIGN) == len(event.members)


def test_members_of_what_is_no_alarm_yet_are_not_marked(scene: Scene) -> None:
    scene.ask(THIEVES, 1.0, 6)
    scene.ask(HONEST, 0.04, 30)
    found = scene.patrol(alpha=1e-60).round()

    assert found is not None
    (campaign,) = found.campaigns
    assert set(campaign.members) == set(THIEVES)
    assert 0 < campaign.suspicion < 1
    assert not campaign.alarm
    assert not scene.alarmed(CAMPAIGN)
    assert not [e for e in scene.events() if isinstance(e, Campaign)]


def test_levels_with_campaign_treat_the_members_from_their_next_row_on(scene: Scene) -> None:
    scene.ask(THIEVES, 1.0, 6)
    scene.ask(HONEST, 0.04, 30)
    before = scene.ask(HONEST[:1], 0.0)
    found = scene.patrol().round()
    after = scene.ask(THIEVES[:1], 0.0)

    assert found is not None
    assert THIEVES[0] in found.campaigns[0].members
    assert (before.decision.levels.item(), after.decision.levels.item()) == (0, 2)


def test_a_campaign_that_grows_is_told_again_under_its_number(scene: Scene) -> None:
    scene.ask(HONEST, 0.04, 30)
    scene.ask(THIEVES[:8], 1.0, 10)
    patrol = scene.patrol()
    patrol.round()
    scene.later(60)
    scene.ask(THIEVES[8:], 1.0, 10)
    patrol.round()
    first, second = (e for e in scene.events() if isinstance(e, Campaign))

    assert first.campaign == second.campaign
    assert set(first.members) < set(second.members) == set(THIEVES)


def test_replicas_take_turns_and_two_at_once_do_no_harm(scene: Scene) -> None:
    scene.ask(HONEST, 0.04, 30)
    scene.ask(THIEVES, 1.0, 10)
    first, second = scene.patrol(), scene.patrol()

    assert first.round() is not None
    assert second.round() is None
    marks = {c: m[ALARMS][CAMPAIGN] for c, m in scene.gateway.remembered() if c in THIEVES}
    scene.later(60)
    scene.ask(THIEVES, 1.0, 1)
    assert second.round() is not None
    again = {c: m[ALARMS][CAMPAIGN] for c, m in scene.gateway.remembered() if c in THIEVES}
    assert {c: mark.tolist() for c, mark in marks.items()} == {
        c: mark.tolist() for c, mark in again.items()
    }
    assert len([e for e in scene.events() if isinstance(e, Campaign)]) == 1


def test_a_clock_that_is_set_back_ends_the_turn_of_a_replica_that_is_gone(scene: Scene) -> None:
    assert scene.patrol().round() is not None
    scene.later(-86_400)

    assert scene.patrol().round() is not None


def test_what_patrols_share_is_no_client(scene: Scene) -> None:
    scene.ask(HONEST, 0.04, 2)
    scene.patrol().round()

    assert set(dict(scene.gateway.remembered())) == set(HONEST)
    assert dict(scene.service.store.scan(SHARED))


def test_when_all_drift_there_is_one_warning_and_hardly_an_accusation(scene: Scene) -> None:
    """A hundred honest clients; after forty rows each, all their pictures change."""
    honest = [f"honest {i}" for i in range(100)]
    patrol = scene.patrol()
    scene.ask(honest, 0.04, 40)
    for _ in range(60):
        scene.later(60)
        scene.ask(honest, 0.4, 2)
        patrol.round()
    events = scene.events()
    drifts = [e for e in events if isinstance(e, Drift)]

    assert len(drifts) == 1
    assert drifts[0].detectors["bright"].alarm
    assert drifts[0].rows >= 40 * 100
    assert len(scene.alarmed(EVIDENCE)) <= 3
    assert not scene.alarmed(CAMPAIGN)
    assert scene.metric("mantlet_drift") == 1


def test_without_the_hold_all_of_them_would_be_accused(scene: Scene) -> None:
    honest = [f"honest {i}" for i in range(100)]
    patrol = scene.patrol(hold=False)
    scene.ask(honest, 0.04, 40)
    for _ in range(60):
        scene.later(60)
        scene.ask(honest, 0.4, 2)
        patrol.round()

    assert len(scene.alarmed(EVIDENCE)) > 60


@pytest.mark.parametrize(("hold", "found"), [(False, set(THIEVES)), (True, set())])
def test_without_the_hold_thieves_cannot_vote_their_campaign_away(
    scene: Scene, hold: bool, found: set[str]
) -> None:
    """Most of the clients of late are thieves."""
    scene.ask(HONEST[:10], 0.04, 30)
    scene.ask(THIEVES, 0.6, 26)
    scene.patrol(hold=hold).round()

    assert scene.metric("mantlet_drift") == 1
    assert scene.alarmed(CAMPAIGN) == found


def test_a_tenth_of_thieves_is_no_drift_and_is_accused(scene: Scene) -> None:
    honest, thieves = [f"honest {i}" for i in range(90)], [f"thief {i}" for i in range(10)]
    patrol = scene.patrol()
    scene.ask(honest + thieves, 0.04, 40)
    for _ in range(60):
        scene.later(60)
        scene.ask(honest, 0.04, 2)
        scene.ask(thieves, 0.5, 2)
        patrol.round()

    assert scene.alarmed(EVIDENCE) == set(thieves)
    assert not [e for e in scene.events() if isinstance(e, Drift)]
    assert scene.metric("mantlet_drift") == 0


def test_a_drift_that_ends_lets_thieves_be_accused_again(scene: Scene) -> None:
    patrol = scene.patrol()
    scene.ask(HONEST, 0.3, 30)
    patrol.round()
    assert scene.gateway.pipeline.fold.held.all()
    before = scene.alarmed(EVIDENCE)
    scene.ask(HONEST, 0.02, 60)
    scene.later(60)
    patrol.round()
    scene.ask(THIEVES[:1], 1.0, 20)

    assert not scene.gateway.pipeline.fold.held.any()
    assert scene.alarmed(EVIDENCE) - before == {THIEVES[0]}


def test_another_replica_holds_what_one_found_to_drift(scene: Scene) -> None:
    scene.ask(HONEST, 0.3, 30)
    scene.patrol().round()
    other = scene.replica()
    assert not other.pipeline.fold.held.any()
    scene.patrol(other).round()

    assert other.pipeline.fold.held.all()


def test_it_looks_by_itself_until_it_is_closed(scene: Scene) -> None:
    scene.ask(HONEST, 0.04, 30)
    scene.ask(THIEVES, 1.0, 10)
    seen = threading.Event()
    search = Search(every_s=0.01)
    patrol = Patrol(
        scene.gateway,
        search,
        Watch(),
        clock=scene.service.clock,
        metrics=scene.service.metrics,
        events=scene.service.events,
    )
    patrol.start()
    for _ in range(1000):
        if scene.alarmed(CAMPAIGN) == set(THIEVES) or seen.wait(0.02):
            break
    patrol.close()

    assert scene.alarmed(CAMPAIGN) == set(THIEVES)
