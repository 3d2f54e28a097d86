"""From scores to signals and memories: the joint test, what is latched, what is remembered and how it is bounded."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.rate import Rate
from mantlet.errors import PluginError
from mantlet.plugin import Detector
from mantlet.types import Query, State
from serving.folding import (
    ALARMS,
    CAMPAIGN,
    EVIDENCE,
    HEARD,
    HISTORY,
    POINTS,
    STEP,
    Fold,
    Folded,
    Memory,
    rows_before,
)
from serving.stores.base import pack, unpack
from tests.helpers import Bright, Scripted, TinyVictim, bright, grey, query

VICTIM = TinyVictim()


def folded(
    detectors: Sequence[Detector] | Fold,
    asked: Query,
    memories: Mapping[str, Memory] | None = None,
) -> Folded:
    fold = detectors if isinstance(detectors, Fold) else Fold(detectors, 1e-3)
    prediction = VICTIM.predict(asked.inputs)
    scores = {
        d.name: d.score(asked, prediction).double().numpy() for d in fold._detectors
    }  # as the pipeline does
    return fold.run(asked, scores, memories or {})


def alarm_at(told: Folded, name: str = EVIDENCE) -> int | None:
    """The row, from 1 on, that raised a single client's alarm."""
    alarm = told.signals[name].alarm
    return int(alarm.int().argmax()) + 1 if alarm.any() else None


WHITE = grey(*[1.0] * 30)


def test_evidence_of_all_detectors_is_one_signal_beside_their_own() -> None:
    told = folded((bright("a"), bright("b", columns=3), Rate(rows=40)), query(WHITE))

    assert told.signals.keys() == {EVIDENCE, "a", "b", "rate"}
    assert told.signals[EVIDENCE].alarm[-1]
    assert (told.signals[EVIDENCE].suspicion >= told.signals["a"].suspicion).all()


def test_two_weak_detectors_together_are_heard_before_each_alone() -> None:
    one = folded([bright("a"), bright("b")], query(grey(*[0.45] * 60)))
    joint, own = alarm_at(one), alarm_at(one, "a")

    assert joint is not None
    assert own is not None
    assert joint < own


def test_the_bound_is_of_all_detectors_together() -> None:
    """Those that see nothing take their share of the evidence: more detectors are no more alarms."""
    asked = query(grey(*[0.5] * 60))
    alone = alarm_at(folded([bright("a")], asked))
    silent = [bright(f"silent {n}") for n in range(9)]
    for detector in silent:
        detector._watches.append(lambda state, scores: (state, np.zeros_like(scores)))
    beside = alarm_at(folded([bright("a"), *silent], asked))

    assert alone is not None
    assert beside is not None
    assert alone < beside


def test_rows_are_counted_over_a_life() -> None:
    detectors = [bright()]
    first = folded(detectors, query(grey(0.0, 0.0, 0.0), ["ann", "bob", "ann"]))
    second = folded(detectors, query(grey(0.0, 0.0, 0.0), ["bob", "ann", "bob"]), first.memories)

    assert first.rows.tolist() == [1, 1, 2]
    assert second.rows.tolist() == [2, 3, 3]
    assert rows_before(second.memories["ann"]) == 3
    assert rows_before({}) == 0


def random(generator: np.random.Generator, count: int) -> torch.Tensor:
    return grey(*np.where(generator.random(count) < 0.3, generator.random(count), 0.05).tolist())


class Remembering(Bright):
    """Abstains at every third of a client's rows."""

    def initial(self) -> State:
        return {"rows": np.zeros(1)}

    def watch(self, state: State, rows: np.ndarray, at: float) -> tuple[State, np.ndarray]:
        number = state["rows"] + np.arange(len(rows))
        return {"rows": state["rows"] + len(rows)}, np.where(number[:, None] % 3 == 2, np.nan, rows)


@given(st.data())
@settings(max_examples=60)
def test_any_cut_and_any_company_gives_the_same_bits(data: st.DataObject) -> None:
    """Wealth, signals, alarms and counts of every client are those of its own rows, one by one."""
    columns = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    tested = [bright(f"d{n}", columns=count) for n, count in enumerate(columns)]
    remembering = Remembering(name="remembering")
    remembering._learned["tolerated"] = np.array([0.2])
    fold = Fold([*tested, remembering, Rate(rows=20)], 1e-3)
    count = data.draw(st.integers(2, 50))
    clients = data.draw(st.lists(st.sampled_from("abcd"), min_size=count, max_size=count))
    cuts = data.draw(st.sets(st.integers(1, count - 1)))
    inputs = random(np.random.default_rng(data.draw(st.integers(0, 2**31))), count)

    memories: dict[str, Memory] = {}
    parts: list[Folded] = []
    for start, stop in itertools.pairwise([0, *sorted(cuts), count]):
        parts.append(folded(fold, query(inputs[start:stop], clients[start:stop], at=7.0), memories))
        memories |= parts[-1].memories
    for client in set(clients):
        own = [row for row, name in enumerate(clients) if name == client]
        alone: dict[str, Memory] = {}
        for row in own:
            told = folded(fold, query(inputs[row : row + 1], client, at=7.0), alone)
            alone = dict(told.memories)
            part = next(i for i, c in enumerate([*sorted(cuts), count]) if row < c)
            place = row - [0, *sorted(cuts)][part]
            for name, signal in told.signals.items():
                there = parts[part].signals[name]
                assert torch.equal(signal.suspicion, there.suspicion[place : place + 1])
                assert torch.equal(signal.alarm, there.alarm[place : place + 1])
        for name in memories[client].keys() - {HISTORY}:
            for field, array in memories[client][name].items():
                assert np.array_equal(array, alone[client][name][field], equal_nan=True)


def test_an_alarm_is_latched_at_suspicion_one_whatever_the_detector_says_later() -> None:
    judge = Scripted()
    judge._folds.append(lambda s, r, at: (s, r[:, 0] * 0 + 0.2, np.arange(len(r)) == 1))
    told = folded([judge], query(grey(0.0, 0.0, 0.0, 0.0), at=5.0))
    judge._folds.append(lambda s, r, at: (s, r[:, 0] * 0, np.zeros(len(r), dtype=bool)))
    later = folded([judge], query(grey(0.0), at=9e9), told.memories)

    assert told.signals["scripted"].alarm.tolist() == [False, True, True, True]
    assert told.signals["scripted"].suspicion.tolist() == pytest.approx([0.2, 1, 1, 1])
    assert told.memories["client"][ALARMS]["scripted"].tolist() == [2.0, 5.0]
    assert later.signals["scripted"].suspicion.tolist() == [1.0]
    assert later.memories["client"][ALARMS] is told.memories["client"][ALARMS]


def test_an_alarm_of_one_client_is_nobody_elses() -> None:
    told = folded([bright()], query(torch.cat([WHITE, grey(0.0)]), [*["ann"] * 30, "bob"]))
    both = folded([bright()], query(grey(0.0, 0.0), ["ann", "bob"]), told.memories)

    assert both.signals[EVIDENCE].alarm.tolist() == [True, False]
    assert ALARMS not in told.memories["bob"]


def test_other_detectors_start_with_no_wealth_and_keep_rows_and_alarms() -> None:
    """An operator who adds, drops or renames a detector neither loses alarms nor resets the bound."""
    first = folded([bright("a")], query(WHITE, "ann"))
    for others in ([bright("a"), bright("b")], [bright("c")], [bright("a", columns=2)]):
        after = folded(others, query(grey(0.0), "ann"), first.memories)
        kept = after.memories["ann"]

        assert after.signals[EVIDENCE].alarm.tolist() == [True]
        assert rows_before(kept) == 31
        assert kept[EVIDENCE]["wealth"].shape == (sum(d.width for d in others), 16)
        assert kept[EVIDENCE]["wealth"].max() < 0.01, "new money of the 31st row, and no other"
        assert kept[ALARMS].keys() >= {"a", EVIDENCE}


def test_a_reset_of_the_wealth_buys_no_second_chance() -> None:
    """The money of later rows is what was left: changes of the config do not add up to more alarms."""
    memories: dict[str, Memory] = {}
    for change in range(20):
        told = folded([bright(f"d{change}")], query(grey(*[0.1] * 10)), memories)
        memories = dict(told.memories)
    wealth = memories["client"][EVIDENCE]["wealth"]

    assert wealth.mean() <= 1 / 190 + 1e-9


def test_a_detector_without_a_calibration_only_observes() -> None:
    """It is neither tested nor enforced, its signal is silent, and the others have its share."""
    fold = Fold([Bright(name="new"), bright("old"), Rate(rows=5)], 1e-3)
    told = folded(fold, query(WHITE))

    assert fold.enforcing == (EVIDENCE, "rate")
    assert [d.name for d in fold.tested] == ["old"]
    assert not told.signals["new"].suspicion.any()
    assert not told.signals["new"].alarm.any()
    assert alarm_at(told) == alarm_at(folded([bright("old")], query(WHITE)))


def test_without_any_calibration_no_evidence_enforces_and_rows_are_counted_still() -> None:
    fold = Fold([Bright()], 1e-3)
    told = folded(fold, query(WHITE))
    calibrated = folded([bright()], query(WHITE), told.memories)

    assert fold.enforcing == ()
    assert not any(s.suspicion.any() for s in told.signals.values())
    assert calibrated.rows.tolist() == list(range(31, 61))


def test_each_tier_has_the_bound_that_was_measured_for_it() -> None:
    detectors = [bright(bound=0.1, partner=0.5)]
    inputs = grey(*[0.45] * 80)
    asked = query(inputs, ["ann", "bob"] * 40, tiers=["default", "partner"] * 40)
    told = folded(detectors, asked)
    partner = folded(detectors, query(inputs, tiers=["partner"] * 80))
    other = folded(detectors, query(inputs, tiers=["unheard of"] * 80))

    assert ALARMS in told.memories["ann"]
    assert ALARMS not in told.memories["bob"]
    assert alarm_at(partner) is None
    assert alarm_at(other) == alarm_at(folded(detectors, query(inputs)))


def test_a_campaign_is_a_signal_of_those_who_belong_to_it() -> None:
    member: Memory = {ALARMS: {CAMPAIGN: np.array([5, 1.0, 0xABC])}}
    told = folded([bright()], query(grey(0.0, 0.0), ["ann", "bob"]), {"ann": member})
    nobody = folded([bright()], query(grey(0.0)))

    assert told.signals[CAMPAIGN].alarm.tolist() == [True, False]
    assert told.signals[CAMPAIGN].suspicion.tolist() == [1.0, 0.0]
    assert CAMPAIGN not in nobody.signals


def test_what_was_heard_last_of_each_signal_is_remembered() -> None:
    fold = Fold([bright(), Rate(rows=10)], 1e-3)
    told = folded(fold, query(grey(0.9, 0.9, 0.9)))
    heard = told.memories["client"][HEARD]["suspicion"]

    assert fold.names == (EVIDENCE, "bright", "rate")
    assert heard.tolist() == [float(told.signals[name].suspicion[-1]) for name in fold.names]


def test_who_is_near_an_alarm_leaves_a_history_of_steps() -> None:
    fold = Fold([Rate(rows=40, window_s=100)], 1e-3)
    memories: dict[str, Memory] = {}
    for at in range(30):
        memories = dict(folded(fold, query(grey(0.0), at=float(at)), memories).memories)
    points = memories["client"][HISTORY]["points"]

    assert len(points) == pytest.approx(30 / 40 / STEP, abs=1)
    assert (np.diff(points, axis=0) > 0).all(), "times, rows and suspicion of its way"
    assert points[-1].tolist() == [29.0, 30.0, pytest.approx(0.75)]


def test_a_client_that_gives_no_cause_has_no_history() -> None:
    told = folded([Rate(rows=10**6), bright()], query(grey(*[0.01] * 50)))

    assert HISTORY not in told.memories["client"]


def test_the_history_is_bounded_and_keeps_its_first_and_last_points() -> None:
    judge = Scripted()
    judge._folds.append(
        lambda s, r, at: (s, np.full(len(r), 0.9 * (at % 2)), np.zeros(len(r), dtype=bool))
    )
    fold = Fold([judge], 1e-3)
    memories: dict[str, Memory] = {}
    for at in range(1, 500):
        memories = dict(folded(fold, query(grey(0.0), at=float(at)), memories).memories)
        assert len(memories["client"][HISTORY]["points"]) <= POINTS
    points = memories["client"][HISTORY]["points"]

    assert points[0, 0] == 1.0
    assert points[-1, 0] == 499.0
    assert (np.diff(points[:, 0]) > 0).all()


def test_the_memory_comes_back_from_the_store_and_folds_on() -> None:
    fold = Fold([bright("a", columns=2), Remembering(), Rate(rows=40)], 1e-3)
    first = folded(fold, query(WHITE, "ann")).memories
    stored = {"ann": unpack(pack(first["ann"]))}
    here, there = (folded(fold, query(WHITE, "ann"), memory) for memory in (first, stored))

    for name, signal in here.signals.items():
        assert torch.equal(signal.suspicion, there.signals[name].suspicion)


def test_what_is_kept_of_a_client_does_not_keep_its_batch() -> None:
    """A view would hold the memories of everybody who was in the batch."""
    names = [f"client {n}" for n in range(50)]
    told = folded([bright(), Rate()], query(grey(*[0.9] * 50), names))

    for memory in told.memories.values():
        for state in memory.values():
            for array in state.values():
                assert array.base is None or array.base.nbytes <= 4 * array.nbytes


def test_arguments_are_not_written_into() -> None:
    fold = Fold([bright(), Rate(rows=20)], 1e-3)
    first = folded(fold, query(WHITE, "ann")).memories
    before = {n: {f: a.copy() for f, a in state.items()} for n, state in first["ann"].items()}
    folded(fold, query(WHITE, "ann", at=5.0), first)

    assert first["ann"].keys() == before.keys()
    for name, state in before.items():
        assert all(np.array_equal(array, first["ann"][name][f]) for f, array in state.items())


def raises(*_: Any) -> Any:
    raise KeyError("a secret of the plug-in")


Watch = Callable[[State, np.ndarray], Any]
WATCHES: dict[str, tuple[Watch, str]] = {
    "raises": (raises, "raised KeyError"),
    "nothing": (lambda s, r: None, "raised TypeError"),
    "no scores": (lambda s, r: (s, None), r"gave \(\) scores; wanted 2 a row"),
    "a row less": (lambda s, r: (s, r[1:]), r"gave \(\d, 2\) scores; wanted 2 a row"),
    "a column less": (lambda s, r: (s, r[:, :1]), r"gave \(\d, 1\) scores; wanted 2 a row"),
    "a column more": (lambda s, r: (s, r[:, [0, 1, 1]]), r"gave \(\d, 3\) scores; wanted 2 a row"),
    "one axis": (lambda s, r: (s, r[:, 0]), r"gave \(\d,\) scores; wanted 2 a row"),
    "above one": (lambda s, r: (s, r + 1.01), r"gave a score outside \[0, 1\]"),
    "negative": (lambda s, r: (s, r - 1.01), r"gave a score outside \[0, 1\]"),
    "infinite": (lambda s, r: (s, r + math.inf), r"gave a score outside \[0, 1\]"),
}


@pytest.mark.parametrize("clients", [["ann"] * 4, ["ann", "bob", "ann", "bob"]])
@pytest.mark.parametrize("broken", WATCHES)
def test_evidence_that_breaks_its_promise_fails_closed(broken: str, clients: list[str]) -> None:
    detector = bright("mine", columns=2)
    detector._watches.append(WATCHES[broken][0])

    with pytest.raises(PluginError, match=f"detector 'mine' {WATCHES[broken][1]}") as caught:
        folded([detector], query(grey(0.5, 0.5, 0.5, 0.5), clients))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("broken", WATCHES)
def test_of_clients_that_are_folded_together_it_fails_closed_as_well(broken: str) -> None:
    detector = bright("mine", columns=2)
    detector._watches.append(WATCHES[broken][0])

    with pytest.raises(PluginError, match=r"detector 'mine' (raised|gave)"):
        folded([detector], query(grey(0.5, 0.5), ["ann", "bob"]))


def test_a_state_less_than_there_are_clients_fails_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = bright("mine", columns=2)
    given: tuple[list[State], np.ndarray] = [detector.initial()], np.zeros((2, 2))
    monkeypatch.setattr(type(detector), "watch_each", lambda *_: given)

    with pytest.raises(PluginError, match="detector 'mine' raised ValueError"):
        folded([detector], query(grey(0.5, 0.5), ["ann", "bob"]))


def test_scores_that_are_taken_as_they_are_must_have_the_width_and_the_range_too() -> None:
    fold, asked = Fold([bright("mine", columns=2)], 1e-3), query(grey(0.5))

    with pytest.raises(PluginError, match=r"detector 'mine' gave \(1, 3\) scores; wanted 2"):
        fold.run(asked, {"mine": np.zeros((1, 3))}, {})
    with pytest.raises(PluginError, match="detector 'mine' gave a score outside"):
        fold.run(asked, {"mine": np.full((1, 2), 1.5)}, {})


def test_a_state_that_other_settings_left_starts_anew() -> None:
    old: Memory = {"remembering": {"of another version": np.zeros(7)}}
    detector = Remembering(name="remembering")
    detector._learned["tolerated"] = np.array([0.2])
    told = folded([detector], query(grey(0.5, 0.5)), {"client": old})

    assert told.memories["client"]["remembering"]["rows"].tolist() == [2.0]


def test_with_a_secret_a_row_that_is_asked_again_is_no_evidence() -> None:
    """A monitor asks one picture for ever; whatever the detectors hold of it, it is one row."""
    fold = Fold([bright()], 1e-3, secret=b"a secret")
    again = folded(fold, query(grey(*[1.0] * 400)))
    shades = np.linspace(0.9, 1.0, 30).tolist()
    anew = folded(fold, query(grey(*shades)))

    assert alarm_at(again) is None
    assert alarm_at(anew) is not None


def test_repeats_among_new_rows_change_nothing() -> None:
    remembering = Remembering(name="remembering")
    remembering._learned["tolerated"] = np.array([0.2])
    fold = Fold([bright(), remembering], 1e-3, secret=b"a secret")
    shades = np.linspace(0.2, 1.0, 30)
    once = folded(fold, query(grey(*shades.tolist())))
    twice = folded(fold, query(grey(*shades.repeat(2).tolist())))
    wealth = [told.memories["client"]["remembering"]["rows"].tolist() for told in (once, twice)]

    assert wealth[0] == wealth[1]
    assert rows_before(twice.memories["client"]) == 60


def test_what_a_score_said_of_who_asks_during_a_drift_is_void() -> None:
    fold = Fold([bright()], 1e-6)
    before = folded(fold, query(grey(*[1.0] * 5)))
    fold.hold(np.array([True]))
    during = folded(fold, query(grey(0.0)), before.memories)

    assert fold.worth(before.memories["client"]) > 10
    assert fold.worth(during.memories["client"]) < 1
