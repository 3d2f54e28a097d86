"""One model behind its chain, without HTTP: what is charged, remembered, released and refused."""

import asyncio
import contextlib
import math
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import structlog
import torch

from defenses.label_only import LabelOnly
from detectors.rate import Rate
from mantlet.attribution import Explainer
from mantlet.errors import RequestError, StoreError, VictimError, VictimTimeout
from mantlet.plugin import Detector
from mantlet.types import Kind, Prediction, Released
from serving import gateway as gateway_module
from serving.admission import Admission, Client
from serving.events.kinds import LevelChange
from serving.events.log import EventLog
from serving.explaining import Explain, Explaining
from serving.folding import POLICY, Memory
from serving.gateway import Gateway, Job
from serving.keys import KeyFile
from serving.metrics import Metrics
from serving.pipeline import Pipeline
from serving.policy import Level
from serving.settings import Identity, Queue, Tier
from serving.stores import open_store
from serving.stores.base import Entry, Store
from tests.helpers import Answering, Lying, Scripted, Slopes, TinyVictim, query, rows

T = TypeVar("T")
START = 1_000_000.0
SECRET = b"a secret of the tests"
DENYING = (Level(name="normal"), Level(name="denied", suspicion=0.5, deny_s=60))
PROTECTING = (Level(name="normal"), Level(name="alarmed", alarm=True, defenses=("label_only",)))


@dataclass
class Scene:
    """A gateway with a store, an admission, metrics, and a clock that a test sets."""

    gateway: Gateway
    admission: Admission
    metrics: Metrics
    events: EventLog
    now: list[float] = field(default_factory=lambda: [START])

    def visitor(self, name: str = "ann") -> Client:
        return self.admission.identify(None, name, self.now[0])

    def ask(self, count: int = 1, name: str = "ann", *, seed: int = 0) -> Released:
        """Admit and answer one request, as a route does."""

        async def exchange() -> Released:
            client = self.visitor(name)
            await self.gateway.admit(client)
            return await self.gateway.answer(client, rows(count, seed=seed).numpy())

        return self.run(exchange())

    def explain(
        self, count: int = 1, name: str = "ann", *, method: str = "", classes: Any = None
    ) -> tuple[Released, Released]:
        """Admit and explain one request, as a route does."""

        async def exchange() -> tuple[Released, Released]:
            client = self.visitor(name)
            await self.gateway.admit(client)
            why = self.gateway.explaining.ask(count, method, classes)
            return await self.gateway.explain(client, rows(count).numpy(), why)

        return self.run(exchange())

    def refused(self, count: int = 1, name: str = "ann") -> RequestError:
        with pytest.raises(RequestError) as caught:
            self.ask(count, name)
        return caught.value

    def told(self) -> list[str]:
        """The kinds of the events so far."""
        assert self.events.flush()
        return [record.event.kind.value for record in self.events.read()]

    def run(self, work: Awaitable[T]) -> T:
        async def within() -> T:
            async with asyncio.timeout(60):
                return await work

        return asyncio.run(within())

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


Stage = Callable[..., Scene]


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Builds scenes on one data folder, and closes them."""
    scenes: list[Scene] = []

    def build(
        *,
        victim: Any = None,
        detectors: Sequence[Detector] = (),
        defenses: Sequence[Any] = (),
        levels: Sequence[Level] = (),
        store: str | Store = "memory://",
        tier: Tier = Tier(rows="100/day"),  # noqa: B008  # frozen
        answer: Any = "probabilities",
        queue: Queue = Queue(retry_after_s=7, max_batch_rows=64),  # noqa: B008  # frozen
        shadow: bool = False,
        allow: tuple[str, ...] = (),
        explainer: Explainer | None = None,
    ) -> Scene:
        now = [START]
        if isinstance(store, str):
            store = open_store(store, folder=tmp_path, remember_s=1e6, clock=lambda: now[0])
        admission = Admission(
            Identity(open=True, allow=allow),
            {"default": tier},
            Tier(),
            keys=KeyFile(tmp_path / "keys.json"),
            counters=store.counters,
            secret=SECRET,
        )
        pipeline = Pipeline(
            victim or TinyVictim(),
            detectors,
            defenses,
            levels=levels,
            answer=answer,
            shadow=shadow,
            explaining=explainer and Explaining(explainer, 5, Explain(classes="any")),
        )
        metrics = Metrics()
        events = EventLog.open(
            "jsonl:///events.jsonl", folder=tmp_path, secret=SECRET, clock=lambda: now[0]
        )
        made = Gateway(
            "tiny",
            pipeline,
            store,
            admission,
            queue=queue,
            clock=lambda: now[0],
            metrics=metrics,
            events=events,
        )
        scenes.append(Scene(made, admission, metrics, events, now))
        return scenes[-1]

    yield build
    for scene in scenes:
        close(scene)


def close(scene: Scene) -> None:
    scene.gateway.close()
    scene.events.close()
    with contextlib.suppress(StoreError):  # a test closed it
        scene.gateway.store.close()


def left(scene: Scene, name: str = "ann") -> int:
    """Rows of the budget of 100 that are left: the most that may be asked at once."""
    client, fits = scene.visitor(name), 0
    for count in range(1, 101):
        try:
            charged_at = scene.admission.charge(client, count)
        except RequestError:
            break
        scene.admission.refund(client, count, charged_at)
        fits = count
    return fits


def test_an_answer_is_the_pipelines_and_is_charged_once(stage: Stage) -> None:
    scene = stage()
    answer = scene.ask(30)

    assert torch.equal(answer.values, TinyVictim().predict(rows(30)).values)
    assert left(scene) == 70


def test_jobs_of_one_batch_get_their_own_rows(stage: Stage) -> None:
    scene = stage()

    async def together() -> list[Released]:
        asks = [
            scene.gateway.answer(scene.visitor(f"client {n}"), rows(n, seed=n).numpy())
            for n in range(1, 9)
        ]
        return list(await asyncio.gather(*asks))

    answers = scene.run(together())
    victim = scene.gateway.pipeline.victim

    assert isinstance(victim, TinyVictim)
    assert len(victim.batches) < 8, "some did share a batch"
    for n, answer in enumerate(answers, 1):
        assert torch.equal(answer.values, TinyVictim().predict(rows(n, seed=n)).values)


def test_a_client_that_used_its_budget_up_is_refused_before_any_compute(stage: Stage) -> None:
    scene = stage()
    scene.ask(100)
    victim = scene.gateway.pipeline.victim
    assert isinstance(victim, TinyVictim)
    victim.batches.clear()

    assert scene.refused(1).status == 429
    assert victim.batches == []
    assert scene.ask(100, "bob").values.shape == (100, 5)


def test_memory_is_of_the_client_and_of_the_model(stage: Stage) -> None:
    scene = stage(detectors=(Rate(rows=50),))
    scene.ask(3)
    scene.ask(4)
    client = scene.visitor()
    entries = scene.gateway.store.load_many([f"tiny/{client.id}", client.id], START)

    assert entries[f"tiny/{client.id}"].version == 2
    assert 7 in entries[f"tiny/{client.id}"].memory["rate"]["counts"]
    assert entries[client.id].version == 0


def test_an_alarm_acts_on_the_very_next_row_and_is_told_once(stage: Stage) -> None:
    scene = stage(detectors=(Rate(rows=10),), defenses=(LabelOnly(),), levels=PROTECTING)
    clean = scene.ask(9)
    with structlog.testing.capture_logs() as logged:
        alarmed = [scene.ask(2), scene.ask(2)]
    alarms = [entry for entry in logged if entry["event"] == "alarm"]

    assert (clean.values.amax(dim=1) < 1.0).all()
    assert all((answer.values.amax(dim=1) == 1.0).all() for answer in alarmed)
    assert [entry["client"] for entry in alarms] == [scene.visitor().id]
    assert scene.count("mantlet_alarms_total", model="tiny", detector="rate") == 1


def test_an_alarm_survives_a_restart(stage: Stage) -> None:
    def scene() -> Scene:
        return stage(
            detectors=(Rate(rows=10),),
            defenses=(LabelOnly(),),
            levels=PROTECTING,
            store="sqlite:///state.db",
        )

    first = scene()
    first.ask(10)
    close(first)
    answer = scene().ask(1)

    assert answer.values.max() == 1.0


def test_a_budget_survives_a_restart(stage: Stage) -> None:
    first = stage(store="sqlite:///state.db")
    first.ask(60)
    close(first)
    again = stage(store="sqlite:///state.db")

    assert left(again) == 40


def test_a_refusal_releases_nothing_of_the_job_and_holds_for_its_time(stage: Stage) -> None:
    scene = stage(detectors=(Rate(rows=10, window_s=20),), levels=DENYING)
    scene.ask(4)
    error = scene.refused(3)
    victim = scene.gateway.pipeline.victim
    assert isinstance(victim, TinyVictim)
    victim.batches.clear()

    assert (error.status, error.reason) == (403, "denied")
    scene.now[0] = START + 59
    assert scene.refused(1).status == 403
    assert victim.batches == [], "while it holds, nothing is computed for the client"
    assert scene.ask(1, "bob").values.shape == (1, 5)
    scene.now[0] = START + 60
    assert scene.ask(1).values.shape == (1, 5)


def test_who_comes_on_the_allow_list_is_refused_no_longer(stage: Stage) -> None:
    def scene(**changes: Any) -> Scene:
        return stage(
            detectors=(Rate(rows=10),), levels=DENYING, store="sqlite:///state.db", **changes
        )

    before = scene()
    assert before.refused(8).status == 403
    assert before.refused(1).status == 403
    close(before)
    after = scene(allow=("address:ann",))

    assert after.ask(8).values.shape == (8, 5)
    assert after.ask(1).values.shape == (1, 5), "nor by what it asks now"


def test_rows_of_a_refused_job_are_not_given_back(stage: Stage) -> None:
    scene = stage(detectors=(Rate(rows=10),), levels=DENYING)
    scene.refused(8)

    assert left(scene) == 92


def test_a_refusal_survives_a_restart_and_holds_before_any_compute(stage: Stage) -> None:
    def scene() -> Scene:
        return stage(
            detectors=(Rate(rows=10, window_s=20),), levels=DENYING, store="sqlite:///state.db"
        )

    first = scene()
    first.refused(8)
    close(first)
    again = scene()
    again.now[0] = START + 30
    error = again.refused(1)
    victim = again.gateway.pipeline.victim

    assert error.status == 403
    assert isinstance(victim, TinyVictim)
    assert victim.batches == []


def test_a_refusal_by_one_worker_holds_in_another_that_knew_the_client(stage: Stage) -> None:
    def worker() -> Scene:
        return stage(
            detectors=(Rate(rows=10, window_s=20),), levels=DENYING, store="sqlite:///state.db"
        )

    first, second = worker(), worker()
    second.ask(1)
    first.refused(8)
    second.now[0] = START + 30  # the window is over, so the client's suspicion is gone

    assert second.refused(1).status == 403
    assert second.refused(1).status == 403


@pytest.mark.parametrize("moved", [gateway_module.RECHECK_S + 0.1, -3600.0])
def test_a_refusal_that_was_lifted_elsewhere_holds_no_longer_than_a_moment(
    stage: Stage, moved: float
) -> None:
    """As at the admin port of another worker; nor when the clock is set back meanwhile."""
    scene, other = (
        stage(detectors=(Rate(rows=10, window_s=20),), levels=DENYING, store="sqlite:///state.db")
        for _ in range(2)
    )
    scene.refused(8)
    store, key = other.gateway.store, f"tiny/{scene.visitor().id}"
    (entry,) = store.load_many([key], START).values()
    assert not store.swap_many({key: replace(entry, memory={})}, START)
    scene.now[0] = START + moved

    assert scene.ask(1).values.shape == (1, 5)


LISTED = (
    Level(name="normal"),
    Level(name="busy", suspicion=0.5, requests="2/minute"),
    Level(name="alarmed", alarm=True, delay_s=0.05),
)


def test_the_requests_of_a_level_are_refused_beyond_its_rate(stage: Stage) -> None:
    scene = stage(detectors=(Rate(rows=60),), levels=LISTED)
    for _ in range(5):
        scene.ask(6)
    scene.ask(1)
    scene.ask(1)
    error = scene.refused(1)

    assert (error.status, error.reason) == (429, "rate")
    assert "2 per 1 minute" in str(error)
    assert scene.ask(1, "bob").values.shape == (1, 5)
    scene.now[0] += 60
    assert scene.ask(1).values.shape == (1, 5)


def test_the_answers_of_a_level_wait(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop's own sleep is asked, once for each answer, and for nobody else's."""
    slept: list[float] = []
    sleep = asyncio.sleep

    async def note(delay: float) -> None:
        slept.append(delay)
        await sleep(delay)

    monkeypatch.setattr(gateway_module.asyncio, "sleep", note)
    scene = stage(detectors=(Rate(rows=10),), levels=LISTED)
    scene.ask(4)
    scene.ask(8)
    scene.ask(1, "bob")

    assert [delay for delay in slept if delay] == [0.05]


def test_what_a_level_closes_stays_closed_when_standings_are_no_longer_at_hand(
    stage: Stage,
) -> None:
    scene = stage(
        detectors=(Rate(rows=10),),
        levels=(Level(name="normal"), Level(name="busy", suspicion=0.5, latents=False)),
        store="sqlite:///state.db",
    )
    scene.ask(8)
    scene.ask(1, "bob")
    ann, bob = scene.visitor("ann"), scene.visitor("bob")
    scene.run(scene.gateway.admit(ann))
    scene.gateway._standings.clear()  # as one client too many does
    scene.gateway.require_latents(bob)
    with pytest.raises(RequestError, match="latents are not taken here"):
        scene.gateway.require_latents(ann)
    scene.gateway._standings.clear()
    scene.gateway.store.close()
    with pytest.raises(RequestError) as caught:
        scene.gateway.require_latents(ann)

    assert caught.value.status == 503


def test_a_tier_is_treated_by_its_level_from_its_first_request_on(stage: Stage) -> None:
    free = Level(name="free", tiers=("default",), latents=False, requests="2/minute")
    scene = stage(levels=(Level(name="normal"), free, Level(name="paid", tiers=("paid",))))
    ann, bob = scene.visitor("ann"), scene.visitor("bob")
    by_hand = np.frombuffer(b"normal", np.uint8)
    scene.gateway.amend(bob.id, lambda _: {POLICY: {"override": by_hand}})
    for client in (ann, bob):
        scene.run(scene.gateway.admit(client))

    with pytest.raises(RequestError, match="latents are not taken here"):
        scene.gateway.require_latents(ann)
    scene.gateway.require_latents(bob)  # by hand
    scene.ask(1)
    assert scene.refused(1).reason == "rate"


def test_who_is_on_the_allow_list_is_served_as_before_and_watched(stage: Stage) -> None:
    scene = stage(
        detectors=(Rate(rows=10),),
        defenses=(LabelOnly(),),
        levels=(*PROTECTING, Level(name="denied", rows=20, deny_s=60)),
        allow=("address:ann",),
    )
    answers = [scene.ask(25), scene.ask(5)]

    assert all((answer.values.amax(dim=1) < 1.0).all() for answer in answers)
    assert scene.count("mantlet_alarms_total", model="tiny", detector="rate") == 1
    assert scene.refused(25, "bob").status == 403


def test_in_shadow_mode_all_is_served_as_before_and_told_as_it_would_be(stage: Stage) -> None:
    shadow = stage(
        detectors=(Rate(rows=10),),
        defenses=(LabelOnly(),),
        levels=(*PROTECTING, Level(name="denied", rows=20, deny_s=60, requests="1/day")),
        shadow=True,
    )
    answers = [shadow.ask(12), shadow.ask(12), shadow.ask(1)]
    assert shadow.events.flush()
    events = [record.event for record in shadow.events.read()]
    changes = [event for event in events if isinstance(event, LevelChange)]

    assert all((answer.values.amax(dim=1) < 1.0).all() for answer in answers)
    assert [(c.before, c.after) for c in changes] == [("normal", "alarmed"), ("alarmed", "denied")]
    assert all(change.shadow for change in changes)
    assert "ban" not in shadow.told()


def test_an_old_refusal_does_not_bite_in_shadow_mode(stage: Stage) -> None:
    def scene(shadow: bool) -> Scene:
        return stage(
            detectors=(Rate(rows=10),), levels=DENYING, store="sqlite:///state.db", shadow=shadow
        )

    enforcing = scene(shadow=False)
    enforcing.refused(8)
    close(enforcing)

    assert scene(shadow=True).ask(1).values.shape == (1, 5)


def test_what_happens_to_a_client_is_told_once_over_races_and_restarts(
    stage: Stage, tmp_path: Path
) -> None:
    def scene(races: int) -> Scene:
        plain = open_store(
            "sqlite:///state.db", folder=tmp_path, remember_s=1e6, clock=lambda: START
        )
        return stage(
            detectors=(Rate(rows=10),), levels=PROTECTING, store=Contested(plain, races=races)
        )

    first = scene(races=1)
    first.ask(4)
    first.ask(4)
    first.ask(4)
    close(first)
    again = scene(races=0)
    again.ask(1)
    told = again.told()

    assert told.count("alarm") == 1
    assert told.count("level") == 1
    assert told.count("standing") == 3, "one for each request that moved it by a step"


def test_a_ban_is_told_once_while_it_lasts_and_again_when_it_begins_again(stage: Stage) -> None:
    scene = stage(detectors=(Rate(rows=10),), levels=DENYING)
    scene.refused(8)
    scene.refused(1)
    scene.now[0] += 61
    scene.refused(1)

    assert scene.told().count("ban") == 2


def raises(error: Exception) -> Callable[[Any], Any]:
    def answer(_: Any) -> Any:
        raise error

    return answer


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (VictimError("it answers nonsense, with details"), 503, "VictimError"),
        (RuntimeError("details"), 503, "VictimError"),
        (VictimTimeout("details"), 504, "victim_timeout"),
    ],
)
def test_a_victim_that_fails_gives_no_answer_and_the_rows_back(
    stage: Stage, error: Exception, status: int, reason: str
) -> None:
    scene = stage(victim=Lying(raises(error)))
    refusal = scene.refused(30)

    assert (refusal.status, refusal.reason) == (status, reason)
    assert "details" not in str(refusal)
    assert left(scene) == 100


def nan_for_negative(prediction: Any) -> Any:
    """What a network does with inputs that overflow it: here, those whose features are far below."""
    poisoned = prediction.features.amin(dim=1, keepdim=True) < -10
    return replace(prediction, values=prediction.values.masked_fill(poisoned, math.nan))


@pytest.mark.parametrize("thieves", [{"c"}, {"a", "h"}, {"b", "c", "d"}])
def test_a_row_that_breaks_the_model_costs_nobody_else_an_answer(
    stage: Stage, thieves: set[str]
) -> None:
    scene = stage(victim=Lying(nan_for_negative), detectors=(Rate(rows=50),))

    async def together() -> list[Released | BaseException]:
        asks = [
            scene.gateway.answer(
                scene.visitor(name), (rows(3, seed=n) - 99 * (name in thieves)).numpy()
            )
            for n, name in enumerate("xabcdefgh")
        ]
        return list(await asyncio.gather(*asks, return_exceptions=True))

    answers = scene.run(together())
    batches = scene.gateway.pipeline.victim.batches  # type: ignore[attr-defined]

    assert max(batches) > 3, "they did share a batch"
    for n, (name, answer) in enumerate(zip("xabcdefgh", answers, strict=True)):
        if name in thieves:
            assert isinstance(answer, RequestError)
            assert (answer.status, left(scene, name)) == (503, 100)
            continue
        assert not isinstance(answer, BaseException)
        assert torch.equal(answer.values, TinyVictim().predict(rows(3, seed=n)).values)
        assert left(scene, name) == 97
        key = f"tiny/{scene.visitor(name).id}"
        assert scene.gateway.store.load_many([key], START)[key].version == 1, "counted once"


def test_an_upstream_that_fails_is_not_asked_for_every_job(stage: Stage) -> None:
    victim = Lying(raises(VictimError("down")))
    victim.concurrency = 4
    scene = stage(victim=victim)

    async def together() -> list[Any]:
        asks = [scene.gateway.answer(scene.visitor(name), rows(1).numpy()) for name in "abcdefgh"]
        return list(await asyncio.gather(*asks, return_exceptions=True))

    answers = scene.run(together())

    assert all(isinstance(answer, RequestError) for answer in answers)
    assert sum(victim.batches) == 8, "every row once"


def test_a_plugin_that_ends_the_program_ends_one_request(stage: Stage) -> None:
    def leave(_: Any) -> Any:
        raise SystemExit(3)

    victim = Lying(leave)
    scene = stage(victim=victim)
    with pytest.raises(RuntimeError, match="SystemExit in a batch"):
        scene.ask(30)
    victim._answer = lambda prediction: prediction

    assert left(scene) == 100
    assert scene.ask(2).values.shape == (2, 5)


@pytest.mark.parametrize(
    ("queue", "reason"),
    [(Queue(max_queue_rows=29), "shed"), (Queue(deadline_s=1e-12), "expired")],
)
def test_a_request_that_was_shed_or_waited_too_long_gets_its_rows_back(
    stage: Stage, queue: Queue, reason: str
) -> None:
    scene = stage(queue=queue)
    error = scene.refused(30)

    assert (error.status, error.reason) == (503, reason)
    assert left(scene) == 100


@pytest.mark.parametrize("kind", ["defense", "score", "update"])
def test_a_plugin_that_fails_closes_and_remembers_nothing(stage: Stage, kind: str) -> None:
    detector, defense = Scripted(), Answering()
    broken = raises(ZeroDivisionError("details"))
    if kind == "defense":
        defense._answers.append(broken)
    elif kind == "score":
        detector._scores.append(lambda q, p: broken(p))
    else:
        detector._folds.append(lambda s, r, at: broken(s))
    scene = stage(detectors=(Rate(rows=50), detector), defenses=(defense,))
    with structlog.testing.capture_logs() as logged:
        error = scene.refused(30)
    key = f"tiny/{scene.visitor().id}"

    assert (error.status, error.reason) == (503, "PluginError")
    assert error.headers == {"Retry-After": "7"}
    assert str(error) == "no answer can be given now; try again later"
    assert [e["kind"] for e in logged if e["event"] == "failed_closed"] == ["PluginError"]
    assert left(scene) == 100
    assert scene.gateway.store.load_many([key], START)[key] == Entry(0, {})


class Contested:
    """A store in which another worker changes every client so many times before we swap."""

    def __init__(self, store: Store, races: int) -> None:
        self._store = store
        self.counters = store.counters
        self.races = races

    def load_many(self, keys: Sequence[str], at: float) -> dict[str, Entry]:
        return self._store.load_many(keys, at)

    def swap_many(self, entries: Mapping[str, Entry], at: float) -> set[str]:
        if self.races:
            self.races -= 1
            current = self._store.load_many(list(entries), at)
            self._store.swap_many({k: one_more_row(e) for k, e in current.items()}, at)
        return self._store.swap_many(entries, at)

    def close(self) -> None:
        self._store.close()


def one_more_row(entry: Entry) -> Entry:
    rate = Rate(rows=50)
    state = entry.memory.get("rate") or rate.initial()
    after: Memory = {**entry.memory, "rate": rate.update(state, np.zeros((1, 1)), START)[0]}
    return Entry(entry.version, after)


def test_a_lost_race_folds_anew_and_never_asks_the_victim_again(
    stage: Stage, tmp_path: Path
) -> None:
    plain = open_store("memory://", folder=tmp_path, remember_s=1e6, clock=lambda: START)
    scene = stage(detectors=(Rate(rows=50),), store=Contested(plain, races=3))
    scene.ask(5)
    victim = scene.gateway.pipeline.victim
    (entry,) = plain.load_many([f"tiny/{scene.visitor().id}"], START).values()
    signal = scene.gateway.pipeline.run(query(rows(1)), {"client": entry.memory}).signals["rate"]

    assert isinstance(victim, TinyVictim)
    assert victim.batches[0] == 5
    assert len(victim.batches) == 2, "the second is this test's own"
    assert entry.version == 4
    assert float(signal.suspicion) == pytest.approx((3 + 5 + 1) / 50)
    assert scene.count("mantlet_lost_races_total") == 3
    assert left(scene) == 95


def test_a_race_lost_too_often_fails_closed(stage: Stage, tmp_path: Path) -> None:
    plain = open_store("memory://", folder=tmp_path, remember_s=1e6, clock=lambda: START)
    store = Contested(plain, races=gateway_module.ATTEMPTS + 1)
    scene = stage(detectors=(Rate(rows=50),), store=store)
    error = scene.refused(5)

    assert (error.status, error.reason) == (503, "StoreError")
    assert left(scene) == 100
    assert scene.count("mantlet_store_errors_total") == 1


def test_a_store_that_fails_closes_the_gateway(stage: Stage) -> None:
    scene = stage(detectors=(Rate(rows=50),), store="sqlite:///state.db", tier=Tier())
    scene.ask(1)
    scene.gateway.store.close()
    error = scene.refused(1)

    assert (error.status, error.reason) == (503, "StoreError")


class Full(Contested):
    """A store that can be read, and takes nothing more."""

    def swap_many(self, entries: Mapping[str, Entry], at: float) -> set[str]:
        raise StoreError("the disk is full")


def test_nothing_is_answered_that_cannot_be_remembered(stage: Stage, tmp_path: Path) -> None:
    plain = open_store("memory://", folder=tmp_path, remember_s=1e6, clock=lambda: START)
    scene = stage(detectors=(Rate(rows=50),), store=Full(plain, races=0))
    error = scene.refused(5)

    assert (error.status, error.reason) == (503, "StoreError")
    assert str(error) == "no answer can be given now; try again later"
    assert left(scene) == 100
    assert scene.count("mantlet_store_errors_total") == 1


def test_what_the_wire_needs_is_told(stage: Stage) -> None:
    probabilities, labels = stage().gateway, stage(answer="labels").gateway

    assert (probabilities.version, probabilities.output_name) == ("1", "probabilities")
    assert probabilities.answer_kind is Kind.PROBABILITIES
    assert (labels.output_name, labels.answer_kind) == ("label", Kind.LABELS)
    assert probabilities.input.shape == (1, 4, 4)


def test_labels_are_all_that_leaves_in_label_form(stage: Stage) -> None:
    answer = stage(answer="labels").ask(4)

    assert answer.values.tolist() == TinyVictim().predict(rows(4)).values.argmax(dim=1).tolist()


def test_metrics_count_rows_batches_and_stages(stage: Stage) -> None:
    scene = stage(detectors=(Rate(rows=10),))
    scene.ask(4)
    scene.ask(2)
    observed = {
        stage: scene.count("mantlet_stage_seconds_count", model="tiny", stage=stage)
        for stage in gateway_module.STAGES
        if stage != "explain"
    }

    assert scene.count("mantlet_rows_total", model="tiny") == 6
    assert scene.count("mantlet_batch_rows_count", model="tiny") == 2
    assert scene.count("mantlet_batch_rows_sum", model="tiny") == 6
    assert scene.count("mantlet_suspicion_sum", model="tiny", detector="rate") == pytest.approx(1.0)
    assert set(observed.values()) == {2.0}


def test_what_is_kept_at_hand_is_bounded(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_module, "STANDINGS", 5)
    scene = stage(detectors=(Rate(rows=1),))
    for number in range(30):
        scene.ask(1, f"client {number}")

    assert len(scene.gateway._standings) <= 5


def test_closing_lets_the_victim_go(stage: Stage) -> None:
    scene = stage()
    scene.gateway.close()
    victim = scene.gateway.pipeline.victim

    assert isinstance(victim, TinyVictim)
    assert victim.closed


def test_batches_side_by_side_fold_in_turn_and_lose_no_race(stage: Stage) -> None:
    scene = stage(detectors=[Rate(rows=10**6)], store="sqlite:///state.db", tier=Tier())
    job = Job(scene.visitor("ann"), rows(1).numpy())
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: scene.gateway._work([job]), range(200)))

    assert scene.count("mantlet_batch_rows_count", model="tiny") == 200
    assert scene.count("mantlet_lost_races_total") == 0


def test_an_explanation_comes_with_the_answer_and_is_charged_to_both_budgets(stage: Stage) -> None:
    victim = TinyVictim()
    tier = Tier(rows="10/day", explanations="3/day")
    scene = stage(victim=victim, explainer=Slopes(victim), tier=tier)
    answer, maps = scene.explain(3)
    top = victim.predict(rows(3)).values.argmax(dim=1)
    with pytest.raises(RequestError, match=r"1 explanations asked, 0 of 3 per 1 day left") as used:
        scene.explain(1)

    assert torch.equal(answer.values, victim.predict(rows(3)).values)
    assert torch.equal(maps.values, victim.slopes(top))
    assert used.value.status == 429
    assert len(scene.ask(7).values) == 7
    assert scene.refused().status == 429, "rows were charged, too"


def test_predictions_leave_the_budget_of_explanations_alone(stage: Stage) -> None:
    victim = TinyVictim()
    scene = stage(victim=victim, explainer=Slopes(victim), tier=Tier(explanations="1/day"))
    scene.ask(50)

    assert len(scene.explain(1)[1].values) == 1


class Meeting(TinyVictim):
    """Lets the first two predictions wait for each other, and counts how many are under way."""

    def __init__(self, concurrency: int) -> None:
        super().__init__()
        self.concurrency = concurrency
        self._met, self._counting = threading.Barrier(2), threading.Lock()
        self.under = self.most = 0

    def predict(self, inputs: torch.Tensor) -> Prediction:
        with self._counting:
            self.under += 1
            self.most = max(self.most, self.under)
        with contextlib.suppress(threading.BrokenBarrierError):
            self._met.wait(0.3 if self.concurrency == 1 else 30)
        with self._counting:
            self.under -= 1
        return super().predict(inputs)


@pytest.mark.parametrize("concurrency", [1, 2])
def test_rows_to_explain_and_rows_to_answer_share_the_victims_concurrency(
    stage: Stage, concurrency: int
) -> None:
    victim = Meeting(concurrency)
    scene = stage(victim=victim, explainer=Slopes(victim))

    async def both() -> list[Any]:
        gateway, client = scene.gateway, scene.visitor()
        why = gateway.explaining.ask(1)
        asked = rows(1).numpy()
        return await asyncio.gather(
            gateway.explain(client, asked, why), gateway.answer(client, asked)
        )

    (answer, maps), alone = scene.run(both())

    assert victim.most == concurrency
    assert torch.equal(answer.values, alone.values)
    assert len(maps.values) == 1


def test_where_the_level_has_no_explanations_nothing_is_said_of_why_and_nothing_paid(
    stage: Stage,
) -> None:
    victim = TinyVictim()
    levels = (Level(name="all", explanations=False), Level(name="rest", rows=100))
    tier = Tier(rows="10/day", explanations="10/day")
    scene = stage(victim=victim, explainer=Slopes(victim), levels=levels, tier=tier)
    for _ in range(3):
        with pytest.raises(RequestError, match=r"^explanations are not available") as refused:
            scene.explain(5)
        assert refused.value.status == 403

    assert len(scene.ask(10).values) == 10


def test_rows_to_explain_are_seen_by_the_detectors(stage: Stage) -> None:
    victim = TinyVictim()
    scene = stage(
        victim=victim,
        explainer=Slopes(victim),
        detectors=(Rate(rows=4, window_s=1000),),
        levels=(Level(name="all"), Level(name="alarmed", alarm=True, explanations=False)),
    )
    scene.explain(3)
    with pytest.raises(RequestError, match="explanations are not available"):
        scene.explain(1)

    assert len(scene.ask(1).values) == 1


def test_requests_of_several_methods_and_classes_share_a_batch(stage: Stage) -> None:
    victim = TinyVictim()
    scene = stage(victim=victim, explainer=Slopes(victim))

    async def all_at_once() -> list[tuple[Released, Released]]:
        wanted = [("gradient", 1), ("twice", 2), ("gradient", 3), ("twice", [0, 4])]
        asked = []
        for method, classes in wanted:
            count = 2 if isinstance(classes, list) else 1
            why = scene.gateway.explaining.ask(count, method, classes)
            asked.append(scene.gateway.explain(scene.visitor(method), rows(count).numpy(), why))
        return await asyncio.gather(*asked)

    given = [maps.values for _, maps in scene.run(all_at_once())]
    slopes = victim.slopes(torch.arange(5))

    assert torch.equal(given[0][0], slopes[1])
    assert torch.equal(given[1][0], 2 * slopes[2])
    assert torch.equal(given[2][0], slopes[3])
    assert torch.equal(given[3], 2 * slopes[[0, 4]])


def test_an_explainer_that_fails_for_one_costs_nobody_else_an_explanation(stage: Stage) -> None:
    """And no row counts twice, though some were explained twice."""
    victim = TinyVictim()
    slopes = Slopes(victim)

    def fail(maps: Any) -> Any:
        return 1 // 0 if bool((slopes.asked[-1] > 0.99).any()) else maps

    slopes = Slopes(victim, fail)
    scene = stage(victim=victim, explainer=slopes, tier=Tier(explanations="2/day"))
    poison = np.ones((1, 1, 4, 4), np.float32)

    async def all_at_once() -> list[Any]:
        ask = scene.gateway.explaining.ask
        parts = [np.zeros_like(poison), poison, np.zeros_like(poison)]
        # the first occupies the thread, so that the others share a batch
        asked = [
            scene.gateway.explain(scene.visitor(f"client {i}"), part, ask(1))
            for i, part in enumerate([np.zeros_like(poison), *parts])
        ]
        return await asyncio.gather(*asked, return_exceptions=True)

    _, first, second, third = scene.run(all_at_once())

    assert isinstance(second, RequestError)
    assert second.status == 503
    assert len(first[1].values) == len(third[1].values) == 1
    assert scene.count("mantlet_batch_rows_sum", model="tiny") == 4


def test_a_failed_explanation_is_given_back(stage: Stage) -> None:
    victim = TinyVictim()
    answers: list[Any] = [lambda maps: 1 // 0, lambda maps: maps]
    slopes = Slopes(victim, lambda maps: answers.pop(0)(maps))
    scene = stage(victim=victim, explainer=slopes, tier=Tier(explanations="1/day"))
    with pytest.raises(RequestError) as failed:
        scene.explain(1)

    assert failed.value.status == 503
    assert len(scene.explain(1)[1].values) == 1


def test_an_explanation_begun_and_not_done_by_the_deadline_is_paid_for(stage: Stage) -> None:
    """Its rows are given back; the budget of explanations is what bounds the time they take."""
    victim, over = TinyVictim(), threading.Event()

    def patient(maps: Any) -> Any:
        assert over.wait(60)
        return maps

    scene = stage(
        victim=victim,
        explainer=Slopes(victim, patient),
        tier=Tier(rows="100/day", explanations="3/day"),
        queue=Queue(deadline_s=0.2),
    )
    gateway = scene.gateway

    async def begun() -> None:
        try:
            await gateway.explain(scene.visitor(), rows(2).numpy(), gateway.explaining.ask(2))
        finally:
            over.set()
            while gateway._explainer and gateway._explainer._running:  # noqa: ASYNC110  # it tells nobody
                await asyncio.sleep(0.01)

    with pytest.raises(RequestError, match="passed while it was answered") as late:
        scene.run(begun())
    with pytest.raises(RequestError, match="2 explanations asked, 1 of 3") as used:
        scene.explain(2)

    assert (late.value.status, late.value.reason, used.value.status) == (503, "late", 429)
    assert left(scene) == 100


def test_a_model_that_explains_nothing_says_so(stage: Stage) -> None:
    with pytest.raises(RequestError, match="'tiny' gives no explanations") as refused:
        stage().explain(1)

    assert refused.value.status == 404


def test_a_denied_client_is_refused_as_ever(stage: Stage) -> None:
    victim = TinyVictim()
    levels = (Level(name="all"), Level(name="out", rows=2, deny_s=60))
    scene = stage(victim=victim, explainer=Slopes(victim), levels=levels)
    for _ in range(2):
        with pytest.raises(
            RequestError, match=r"^this client is denied for now; ask the operator$"
        ) as refused:
            scene.explain(2)

        assert refused.value.status == 403


def test_rows_that_wait_for_explanations_are_counted_and_predictions_pass_them_by(
    stage: Stage,
) -> None:
    """The explainer of one client waits until another has got its prediction."""
    victim, over = TinyVictim(), threading.Event()

    def patient(maps: Any) -> Any:
        assert over.wait(60)
        return maps

    scene = stage(victim=victim, explainer=Slopes(victim, patient))

    async def both() -> list[int]:
        gateway, ask = scene.gateway, scene.gateway.explaining.ask
        explained = [
            asyncio.ensure_future(gateway.explain(scene.visitor(), rows(n).numpy(), ask(n)))
            for n in (1, 2)
        ]
        await asyncio.sleep(0)  # the first is taken up at once, the second waits
        waiting = gateway.queued_rows
        predicted = await gateway.answer(scene.visitor("bob"), rows(3).numpy())
        over.set()
        maps = [await each for each in explained]
        return [waiting, len(predicted.values), *(len(m.values) for _, m in maps)]

    assert scene.run(both()) == [2, 3, 1, 2]
