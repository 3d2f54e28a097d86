"""The job beside the gateway: looks over all clients of a model for campaigns, and for drift of them all."""

import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter, sleep

import numpy as np
import structlog

from mantlet.errors import StoreError
from mantlet.types import State
from serving.campaigns import Campaign, Search, find, gather, marked
from serving.drift import Lately, Watch, by_detector, drifting
from serving.events import kinds
from serving.events.log import EventLog
from serving.folding import ALARMS, CAMPAIGN, Memory
from serving.gateway import Gateway
from serving.metrics import Metrics
from serving.pipeline import Pipeline
from serving.stores.base import Entry, Store

log = structlog.get_logger(__name__)
SHARED = ":patrol/"
"""Before a model's name, the key of what patrols of all replicas share; no model's name has a colon."""
TURN = "turn"
"""``until`` when, ``whose``: which replica looks; ``looks`` that were begun."""
DRIFT = "drift"
"""``columns`` (F,) that drift, and ``of``: which columns they are."""
WORK_S, REST_S = 0.002, 0.004
"""After so much work the patrol rests, so that requests are answered as fast as without it."""


@dataclass(frozen=True, slots=True)
class Found:
    """What one look over a model's clients found. ``typical`` (F,) is None where too few asked of late."""

    clients: int
    rows: int
    campaigns: Sequence[Campaign]
    typical: np.ndarray | None
    drifts: np.ndarray


def look(
    remembered: Iterator[tuple[str, Memory]],
    pipeline: Pipeline,
    search: Search,
    watch: Watch,
    *,
    shared: Memory,
    at: float,
    pause: Callable[[], None] = lambda: None,
) -> Found:
    """One look over the memories of a model's clients; nothing is changed.

    While traffic drifts no campaign is called where ``watch`` has the hold: all clients would seem to be parts of one.
    Without the hold accounts have no vote on what is normal, and a thief who owns most of them is called.
    """
    late = Lately(pipeline.fold, watch, at)

    def heard() -> Iterator[tuple[str, Memory]]:
        for client, memory in remembered:
            late.hear(memory)
            yield client, memory

    crowd = gather(heard(), pipeline, pause=pause)
    before, typical = drift_of(shared, pipeline), late.typical()
    drifts = before if typical is None else drifting(typical, before)
    looks = int(shared[TURN]["looks"][0]) if TURN in shared else 1
    silent = watch.hold and drifts.any()
    campaigns = [] if silent else find(crowd, pipeline, search, looks=looks, pause=pause)
    return Found(len(crowd.clients), int(crowd.rows.sum()), campaigns, typical, drifts)


def drift_of(shared: Memory, pipeline: Pipeline) -> np.ndarray:
    """(F,) bool: what drifts by what replicas share, if that is of the same scores and calibration."""
    state = shared.get(DRIFT)
    if state is None or int(state["of"][0]) != pipeline.fold.columns:
        return np.zeros_like(pipeline.fold.held)
    return state["columns"]


class Patrol:
    """Looks every ``search.every_s`` seconds, in a thread of its own; replicas take turns by the store.

    Two that look at once do no harm: they find the same, and a client is marked once.
    """

    def __init__(
        self,
        gateway: Gateway,
        search: Search,
        watch: Watch,
        *,
        clock: Callable[[], float],
        metrics: Metrics,
        events: EventLog,
    ) -> None:
        self._gateway, self._pipeline, self._store = gateway, gateway.pipeline, gateway.store
        self._search, self._watch, self._clock = search, watch, clock
        self._metrics, self._events = metrics, events
        self._whose = secrets.randbits(62)
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Look from now on."""
        self._thread = threading.Thread(target=self._run, name="patrol", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop, in the middle of a look if need be."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        assert self._search.every_s is not None
        while not self._ended.wait(self._search.every_s):
            try:
                self.round()
            except _Ended:
                return
            except StoreError as error:
                log.warning("patrol_failed", model=self._gateway.name, error=str(error))

    def round(self) -> Found | None:
        """Do what other replicas found out; look, if it is our turn, and act."""
        shared = shared_by(self._store, self._gateway.name, self._clock())
        self._hold(drift_of(shared, self._pipeline))
        ours = self._take_turn(shared)
        if ours is None:
            return None
        found = look(
            self._gateway.remembered(),
            self._pipeline,
            self._search,
            self._watch,
            shared=ours,
            at=self._clock(),
            pause=_Breath(self._ended),
        )
        self._tell_drift(ours, found)
        for campaign in found.campaigns:
            if campaign.alarm and campaign.new:
                self._mark(campaign)
        return found

    def _take_turn(self, shared: Memory) -> Memory | None:
        """What is shared, with our turn in it; none while another replica has its turn."""
        now, turn = self._clock(), shared.get(TURN)
        lasts_s = 0.9 * (self._search.every_s or 0.0)
        # of a clock that was set back, more than it lasts
        left_s = turn["until"][0] - now if turn is not None else 0.0
        if turn is not None and 0 < left_s <= lasts_s and turn["whose"][0] != self._whose:
            return None
        looks = int(turn["looks"][0]) + 1 if turn is not None else 1
        until = now + lasts_s
        taken = {
            "until": np.array([until]),
            "whose": np.array([self._whose]),
            "looks": np.array([looks]),
        }
        return self._share(TURN, lambda _: taken)

    def _share(self, name: str, change: Callable[[State | None], State]) -> Memory | None:
        """Change a part of what is shared; none when another replica was faster."""
        key, now = SHARED + self._gateway.name, self._clock()
        entry = self._store.load_many([key], now)[key]
        after = {**entry.memory, name: change(entry.memory.get(name))}
        lost = self._store.swap_many({key: Entry(entry.version, after)}, now)
        return None if lost else after

    def _hold(self, drifts: np.ndarray) -> None:
        if self._watch.hold:
            self._pipeline.fold.hold(drifts)
        self._metrics.drift.labels(self._gateway.name).set(bool(drifts.any()))

    def _tell_drift(self, shared: Memory, found: Found) -> None:
        """Share what drifts, act upon it, and tell of it once, when it begins."""
        before = drift_of(shared, self._pipeline)
        if (found.drifts == before).all():
            return
        state = {"columns": found.drifts, "of": np.array([self._pipeline.fold.columns])}
        if self._share(DRIFT, lambda _: state) is None:
            return  # another replica tells it
        self._hold(found.drifts)
        name = self._gateway.name
        if found.typical is None or before.any():
            log.info("drift", model=name, drifts=bool(found.drifts.any()))
            return
        log.warning(
            "drift",
            model=name,
            detectors=[d for d, part in self._parts(found.drifts).items() if part.any()],
            meaning="most clients' traffic is unlike what the detectors were calibrated on",
            remedy="run: mantlet calibrate CONFIG --benign FILE, with traffic of today",
        )
        self._events.record(
            kinds.Drift(
                model=name,
                weights=self._pipeline.victim.fingerprint,
                rows=found.rows,
                detectors={
                    d: kinds.Opinion(
                        suspicion=min(float(part.max()), 1.0),
                        alarm=bool(self._parts(found.drifts)[d].any()),
                    )
                    for d, part in self._parts(found.typical).items()
                },
            )
        )

    def _parts(self, columns: np.ndarray) -> Mapping[str, np.ndarray]:
        return by_detector(self._pipeline.fold, columns)

    def _mark(self, campaign: Campaign) -> None:
        """Mark the new members in their memories; the event tells of the campaign as it is now."""
        mark = partial(marked, number=campaign.number, at=self._clock())
        before = [self._gateway.amend(client, mark) for client in campaign.new]
        fresh = sum(CAMPAIGN not in memory.get(ALARMS, {}) for memory in before)
        if not fresh:
            return
        name, number = self._gateway.name, f"{campaign.number:x}"
        self._metrics.campaigns.labels(name).inc()
        self._metrics.alarms.labels(name, CAMPAIGN).inc(fresh)
        log.warning("campaign", model=name, campaign=number, members=len(campaign.members))
        self._events.record(
            kinds.Campaign(
                model=name,
                weights=self._pipeline.victim.fingerprint,
                rows=campaign.rows,
                campaign=number,
                members=campaign.members[: kinds.MEMBERS],
                suspicion=campaign.suspicion,
                alarm=campaign.alarm,
            )
        )


def shared_by(store: Store, model: str, at: float) -> Memory:
    """What the patrols of all replicas share about a model."""
    key = SHARED + model
    return store.load_many([key], at)[key].memory


class _Ended(Exception):
    """The gateway closes while the patrol looks."""


class _Breath:
    """Called often; rests now and then, so that whoever waits for the interpreter gets it."""

    def __init__(self, ended: threading.Event) -> None:
        self._ended, self._since = ended, perf_counter()

    def __call__(self) -> None:
        if self._ended.is_set():
            raise _Ended
        if perf_counter() - self._since > WORK_S:
            sleep(REST_S)
            self._since = perf_counter()
