"""The heart: what leaves, to whom, and that nothing leaves when anything fails."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from time import perf_counter
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import PrivateAttr
from torch import Tensor

from defenses.gaussian_noise import GaussianNoise
from defenses.label_only import LabelOnly
from defenses.latent_budget import LatentBudget
from defenses.modelguard_s import ModelGuardS
from defenses.reverse_sigmoid import ReverseSigmoid
from defenses.rounding import Rounding
from defenses.top_k import TopK
from detectors.foreign import Foreign
from detectors.rate import Rate
from mantlet.data import Images
from mantlet.errors import PluginError, VictimError
from mantlet.plugin import Defense, Setup
from mantlet.types import Kind, Prediction, Query, Signal, Victim
from serving import calibration
from serving.explaining import Explain, Explaining, Why
from serving.folding import ANSWERED, Memory
from serving.pipeline import Outcome, Pipeline
from serving.policy import ALLOWED, Level, end_of_refusal
from serving.victims.torch import TorchVictim
from tests.helpers import (
    SETUP,
    Answering,
    Fold,
    Lying,
    Scripted,
    Slopes,
    TinyGenerator,
    TinyVictim,
    query,
    rows,
)

LEVELS = (
    Level(name="normal", defenses=("rounding",)),
    Level(name="watched", suspicion=0.3, defenses=("gaussian_noise", "rounding")),
    Level(name="suspected", suspicion=0.6, defenses=("reverse_sigmoid", "top_k")),
    Level(name="alarmed", alarm=True, defenses=("label_only",)),
)


def loaded(*plugins: Any) -> tuple[Any, ...]:
    for plugin in plugins:
        plugin.load(SETUP)
    return plugins


@cache
def calibrated(victim: Victim) -> Foreign:
    detector = Foreign()
    learned = calibration.learn(victim, (detector,), rows(600, seed=5).numpy())
    detector.load(Setup(SETUP.device, SETUP.secret, learned["foreign"]))
    return detector


def whole_chain(victim: Victim, *, levels: Sequence[Level] = LEVELS) -> Pipeline:
    """Every plug-in that comes first, with levels close enough to be crossed within a batch."""
    defenses = loaded(
        GaussianNoise(sigma=0.05), ReverseSigmoid(), TopK(k=2), LabelOnly(), Rounding(decimals=2)
    )
    rate = Rate(rows=12, window_s=1000)
    return Pipeline(victim, (calibrated(victim), rate), defenses, levels=levels, alpha=1e-3)


def answered(
    pipeline: Pipeline, batches: Sequence[Query]
) -> tuple[list[Outcome], dict[str, Memory]]:
    """Run batches one after the other, with the memories that the ones before left."""
    memories: dict[str, Memory] = {}
    outcomes = []
    for batch in batches:
        outcome = pipeline.run(batch, memories)
        memories |= outcome.memories
        outcomes.append(outcome)
    return outcomes, memories


def cut(whole: Query, cuts: Sequence[int]) -> list[Query]:
    bounds = sorted({0, len(whole.clients), *(c for c in cuts if c < len(whole.clients))})
    return [
        Query(whole.clients[a:b], whole.inputs[a:b], whole.at)
        for a, b in itertools.pairwise(bounds)
    ]


def together(outcomes: Sequence[Outcome]) -> tuple[Tensor, list[bool], list[int]]:
    return (
        torch.cat([o.released.values for o in outcomes]),
        [bool(d) for o in outcomes for d in o.decision.denied],
        [int(level) for o in outcomes for level in o.decision.levels],
    )


VICTIM = TinyVictim()
streams = st.lists(
    st.tuples(st.sampled_from(["ann", "bob", "cat"]), st.sampled_from("nnh"), st.integers(0, 400)),
    min_size=16,
    max_size=40,
)


def stream(drawn: list[tuple[str, str, int]]) -> Query:
    """Rows as in the calibration, or black and white ones that ``foreign`` flags."""
    noise = torch.cat([rows(1, seed=seed) for _, _, seed in drawn])
    hard = torch.tensor([kind == "h" for _, kind, _ in drawn]).view(-1, 1, 1, 1)
    return query(torch.where(hard, noise.round(), noise), [c for c, _, _ in drawn], at=7.0)


@given(streams, st.lists(st.integers(1, 39), max_size=6), st.lists(st.integers(1, 39), max_size=20))
@settings(max_examples=60)
def test_an_answer_does_not_depend_on_what_it_was_batched_with(
    drawn: list[tuple[str, str, int]], cuts: list[int], other_cuts: list[int]
) -> None:
    pipeline = whole_chain(VICTIM)
    whole = stream(drawn)
    alone, single = answered(pipeline, cut(whole, range(len(drawn))))
    for some in (cuts, other_cuts, []):
        outcomes, memories = answered(pipeline, cut(whole, some))
        values, _, levels = together(outcomes)

        assert torch.allclose(values, together(alone)[0], atol=1e-5)
        assert levels == together(alone)[2]
        assert memories.keys() == single.keys()
        for client, part in [(c, p) for c in memories for p in ("evidence", "rate", "policy")]:
            for name, array in memories[client].get(part, {}).items():
                assert np.array_equal(array, single[client][part][name])


@given(streams)
def test_other_clients_rows_between_ones_own_change_nothing(
    drawn: list[tuple[str, str, int]],
) -> None:
    pipeline = whole_chain(VICTIM)
    whole = stream(drawn)
    values = pipeline.run(whole, {}).released.values
    for client in set(whole.clients):
        own = [row for row, name in enumerate(whole.clients) if name == client]
        alone = pipeline.run(query(whole.inputs[own], client, at=7.0), {}).released.values

        assert torch.allclose(values[own], alone, atol=1e-5)


def test_the_chain_of_these_tests_crosses_every_level_within_one_batch() -> None:
    outcome = whole_chain(VICTIM).run(query(rows(14)), {})

    assert sorted(set(outcome.decision.levels.tolist())) == [0, 1, 2, 3]


@given(streams, st.lists(st.integers(1, 39), max_size=6))
def test_who_is_refused_does_not_depend_on_how_the_stream_is_cut(
    drawn: list[tuple[str, str, int]], cuts: list[int]
) -> None:
    levels = (Level(name="normal"), Level(name="denied", suspicion=0.5, deny_s=60))
    pipeline = whole_chain(VICTIM, levels=levels)
    whole = stream(drawn)
    alone, single = answered(pipeline, cut(whole, range(len(drawn))))
    outcomes, memories = answered(pipeline, cut(whole, cuts))

    assert together(outcomes)[1] == together(alone)[1]
    assert {c: end_of_refusal(m) for c, m in memories.items()} == {
        c: end_of_refusal(m) for c, m in single.items()
    }


def test_the_shipped_victim_answers_a_row_alike_alone_and_in_a_batch(
    shipped_victim: TorchVictim, digits: Images
) -> None:
    """Without rounding, whose steps a difference in the seventh decimal may cross."""
    defenses = loaded(GaussianNoise(sigma=0.05), ReverseSigmoid(), TopK(k=2), LabelOnly())
    levels = [
        level.model_copy(update={"defenses": tuple(d for d in level.defenses if d != "rounding")})
        for level in LEVELS
    ]
    pipeline = Pipeline(shipped_victim, (Rate(rows=50),), defenses, levels=levels)
    whole = query(torch.from_numpy(digits.x[:64]), ["ann", "bob"] * 32)
    alone = together(answered(pipeline, cut(whole, range(64)))[0])
    batch = together(answered(pipeline, [whole])[0])

    assert set(batch[2]) == {0, 1, 2}
    assert torch.allclose(batch[0], alone[0], atol=1e-5)


def test_the_same_query_at_the_same_level_gets_the_same_answer() -> None:
    pipeline = Pipeline(VICTIM, (), loaded(GaussianNoise(sigma=0.3)))
    asked = query(rows(5))

    assert torch.equal(
        pipeline.run(asked, {}).released.values, pipeline.run(asked, {}).released.values
    )


def test_detectors_see_clean_predictions_and_defenses_see_signals_only() -> None:
    detector, spy = Scripted(), Answering()
    pipeline = Pipeline(VICTIM, (detector,), (*loaded(LabelOnly()), spy))
    asked = query(rows(6))
    pipeline.run(asked, {})
    (seen,) = detector._seen
    ((prediction, _, signals),) = spy._asked

    assert torch.equal(seen.values, VICTIM.predict(asked.inputs).values)
    assert torch.equal(prediction.values.amax(dim=1), torch.ones(6)), "label_only came before"
    assert {type(signal) for signal in signals.values()} == {Signal}
    assert {f.name for f in dataclasses.fields(Signal)} == {"suspicion", "alarm", "reason"}


class Watching(Defense):
    """Changes nothing, and remembers what it was shown."""

    type: Literal["watching"] = "watching"
    keeps_top1 = True
    _shown: list[Prediction] = PrivateAttr(default_factory=list)

    def apply(self, prediction: Prediction, query: Query, signals: Any) -> Prediction:
        self._shown.append(prediction)
        return prediction


def test_a_defense_sees_logits_and_features_of_its_own_rows_only() -> None:
    watching = Watching()
    levels = (Level(name="normal"), Level(name="late", suspicion=0.7, defenses=("watching",)))
    pipeline = Pipeline(VICTIM, (Rate(rows=4, window_s=1000),), (watching,), levels=levels)
    asked = query(rows(4), ["ann"] * 4)
    pipeline.run(asked, {})
    (shown,), clean = watching._shown, VICTIM.predict(asked.inputs)

    assert clean.logits is not None
    assert clean.features is not None
    assert torch.equal(shown.logits, clean.logits[2:])
    assert torch.equal(shown.features, clean.features[2:])


def test_a_defense_gets_just_the_rows_whose_level_asks_for_it() -> None:
    spy = Answering()
    levels = (Level(name="normal"), Level(name="pressed", suspicion=0.5, defenses=("answering",)))
    pipeline = Pipeline(VICTIM, (Rate(rows=4),), (spy,), levels=levels)
    asked = query(rows(6), ["ann", "bob", "ann", "bob", "ann", "cat"])
    outcome = pipeline.run(asked, {})
    ((prediction, part, signals),) = spy._asked
    clean = VICTIM.predict(asked.inputs)

    assert outcome.decision.levels.tolist() == [0, 0, 1, 1, 1, 0]
    assert list(part.clients) == ["ann", "bob", "ann"]
    assert torch.equal(part.inputs, asked.inputs[2:5])
    assert torch.equal(prediction.values, clean.values[2:5])
    assert prediction.logits is not None
    assert clean.logits is not None
    assert torch.equal(prediction.logits, clean.logits[2:5])
    assert signals["rate"].suspicion.tolist() == [0.5, 0.5, 0.75]


def test_a_defense_that_no_row_asks_for_is_not_called() -> None:
    spy = Answering()
    levels = (Level(name="normal"), Level(name="alarmed", alarm=True, defenses=("answering",)))
    Pipeline(VICTIM, (Rate(rows=100),), (spy,), levels=levels).run(query(rows(3)), {})

    assert spy._asked == []


def test_what_a_defense_remembers_of_a_client_decides_that_clients_answers_alone() -> None:
    """A cell for each class: Ann's second row is answered with her first of that class, Bob's with his own."""
    pipeline = Pipeline(VICTIM, (Rate(),), loaded(ModelGuardS(epsilon=2.0)))
    inputs = rows(40)
    labels = VICTIM.predict(inputs).values.argmax(dim=1)
    first, second = inputs[labels == labels[0]][:2].split(1)
    ann = pipeline.run(query(first, "ann"), {})
    both = pipeline.run(query(torch.cat([second, second]), ["ann", "bob"]), ann.memories)

    assert torch.equal(both.released.values[0], ann.released.values[0])
    assert not torch.allclose(both.released.values[1], ann.released.values[0], atol=1e-3)
    assert torch.allclose(both.released.values[1], VICTIM.predict(second).values[0], atol=1e-4)


def test_what_a_defense_remembers_is_kept_beside_the_detectors_and_written_into_nobodys_memory() -> (
    None
):
    pipeline = Pipeline(VICTIM, (Rate(),), loaded(ModelGuardS(epsilon=0.05)))
    one = pipeline.run(query(rows(8)), {}).memories
    cells = one["client"][ANSWERED + "modelguard_s"]["answers"]
    before = len(cells)
    other = pipeline.run(query(rows(8, seed=1)), one).memories

    assert one["client"].keys() - Pipeline(VICTIM, (Rate(),)).run(query(rows(1)), {}).memories[
        "client"
    ].keys() == {ANSWERED + "modelguard_s"}
    assert len(one["client"][ANSWERED + "modelguard_s"]["answers"]) == before
    assert len(other["client"][ANSWERED + "modelguard_s"]["answers"]) > before


def test_a_defense_remembers_just_the_rows_whose_level_asks_for_it() -> None:
    levels = (
        Level(name="normal"),
        Level(name="pressed", suspicion=0.5, defenses=("modelguard_s",)),
    )
    defenses = loaded(ModelGuardS(epsilon=0.01))
    pipeline = Pipeline(VICTIM, (Rate(rows=8),), defenses, levels=levels)
    quiet = pipeline.run(query(rows(3)), {}).memories
    pressed = pipeline.run(query(rows(6)), {}).memories

    assert ANSWERED + "modelguard_s" not in quiet["client"]
    assert len(pressed["client"][ANSWERED + "modelguard_s"]["answers"]) == 3


def test_after_a_lost_race_a_defense_answers_by_what_the_other_batch_left() -> None:
    pipeline = Pipeline(VICTIM, (), loaded(ModelGuardS(epsilon=2.0)))
    mine, others = query(rows(1)), query(rows(40, seed=1))
    prediction, scores = pipeline.predict(mine), {}
    alone = pipeline.respond(mine, prediction, scores, {})
    stored = pipeline.run(others, {}).memories
    again = pipeline.respond(mine, prediction, scores, stored)
    twice = pipeline.respond(mine, prediction, scores, stored)

    assert torch.allclose(alone.released.values, prediction.values, atol=1e-4)
    assert not torch.allclose(again.released.values, prediction.values, atol=1e-3)
    assert torch.equal(twice.released.values, again.released.values)


def test_without_a_policy_every_defense_runs_on_every_row() -> None:
    values = Pipeline(VICTIM, (), loaded(LabelOnly())).run(query(rows(4)), {}).released.values

    assert set(values.unique().tolist()) == {0.0, 1.0}


def test_a_detector_that_only_observes_signals_and_changes_nothing() -> None:
    class Observing(Scripted):
        @property
        def enforces(self) -> bool:
            return False

    detector = Observing()
    detector._folds.append(lambda s, r, at: (s, np.ones(len(r)), np.ones(len(r), dtype=bool)))
    outcome = Pipeline(
        VICTIM, (detector,), loaded(LabelOnly()), levels=LEVELS[:1] + LEVELS[3:]
    ).run(query(rows(3)), {})

    assert outcome.decision.levels.tolist() == [0, 0, 0]
    assert outcome.signals["scripted"].alarm.all()


def half_way(first: Tensor, second: Tensor) -> Tensor:
    return (first + second) / 2


def test_a_change_by_suspicion_grows_in_steps_and_is_whole_at_an_alarm() -> None:
    (labels,) = loaded(LabelOnly(by_suspicion=2))
    asked = query(rows(5))
    answer = Pipeline(VICTIM, (Rate(rows=4),), (labels,)).run(asked, {}).released.values
    clean = VICTIM.predict(asked.inputs).values
    whole = labels(Prediction(clean, Kind.PROBABILITIES), asked, {}).values

    assert torch.equal(answer[0], clean[0]), "suspicion 0.25"
    assert torch.allclose(answer[1:3], half_way(clean, whole)[1:3]), "0.5 and 0.75"
    assert torch.equal(answer[3:], whole[3:]), "1.0, and latched"


def test_a_change_by_suspicion_reaches_just_the_rows_whose_level_asks_for_it() -> None:
    levels = (Level(name="normal"), Level(name="late", suspicion=0.7, defenses=("label_only",)))
    defenses = loaded(LabelOnly(by_suspicion=2))
    asked = query(rows(4))
    answer = Pipeline(VICTIM, (Rate(rows=4),), defenses, levels=levels).run(asked, {})
    clean = VICTIM.predict(asked.inputs).values
    whole = defenses[0](Prediction(clean, Kind.PROBABILITIES), asked, {}).values

    assert torch.equal(answer.released.values[:2], clean[:2])
    assert torch.allclose(answer.released.values[2], half_way(clean, whole)[2])
    assert torch.equal(answer.released.values[3], whole[3])


def test_nothing_changes_by_the_suspicion_of_a_detector_that_only_observes() -> None:
    class Observing(Scripted):
        @property
        def enforces(self) -> bool:
            return False

    detector = Observing()
    detector._folds.append(lambda s, r, at: (s, np.ones(len(r)), np.ones(len(r), dtype=bool)))
    asked = query(rows(3))
    outcome = Pipeline(VICTIM, (detector,), loaded(LabelOnly(by_suspicion=3))).run(asked, {})

    assert torch.equal(outcome.released.values, VICTIM.predict(asked.inputs).values)


def test_in_shadow_mode_and_on_the_allow_list_defenses_hear_of_no_suspicion() -> None:
    asked = query(rows(4), ["ann", "bob", "ann", "bob"], tiers=[ALLOWED, "", ALLOWED, ""])
    heard = []
    for shadow in (False, True):
        spy = Answering()
        outcome = Pipeline(VICTIM, (Rate(rows=2),), (spy,), shadow=shadow).run(asked, {})
        ((_, _, signals),) = spy._asked
        heard.append((signals["rate"].suspicion.tolist(), signals["rate"].alarm.tolist()))

        assert outcome.signals["rate"].suspicion.tolist() == [0.5, 0.5, 1.0, 1.0]

    assert heard == [
        ([0.0, 0.5, 0.0, 1.0], [False, False, False, True]),
        ([0.0] * 4, [False] * 4),
    ]


def test_nothing_but_the_answer_is_released() -> None:
    released = Pipeline(VICTIM).run(query(rows(3)), {}).released

    assert VICTIM.predict(rows(1)).logits is not None
    assert released.logits is None
    assert released.features is None


def test_in_label_form_only_class_numbers_are_released() -> None:
    asked = query(rows(5))
    released = Pipeline(VICTIM, answer="labels").run(asked, {}).released

    assert released.kind is Kind.LABELS
    assert released.values.dtype is torch.int64
    assert torch.equal(released.values, VICTIM.predict(asked.inputs).values.argmax(dim=1))


def test_the_victim_is_asked_once_and_arguments_are_not_written_into() -> None:
    victim = TinyVictim()
    pipeline = whole_chain(victim)
    asked = query(rows(9))
    memories = pipeline.run(asked, {}).memories
    before = {d: {n: a.copy() for n, a in s.items()} for d, s in memories["client"].items()}
    inputs = asked.inputs.clone()
    victim.batches.clear()
    pipeline.run(asked, memories)

    assert victim.batches == [9]
    assert torch.equal(asked.inputs, inputs)
    for detector, state in before.items():
        assert all(np.array_equal(memories["client"][detector][n], a) for n, a in state.items())


def nan_in(prediction: Prediction) -> Prediction:
    values = prediction.values.clone()
    values[-1, 0] = math.nan
    return replace(prediction, values=values)


LIES: dict[str, Callable[[Prediction], Any]] = {
    "a row less": lambda p: replace(p, values=p.values[1:]),
    "a row more": lambda p: replace(p, values=torch.cat([p.values, p.values[:1]])),
    "a class less": lambda p: replace(p, values=torch.full((len(p.values), 4), 0.25)),
    "one axis": lambda p: replace(p, values=p.values[:, 0]),
    "a number": lambda p: replace(p, values=torch.tensor(0.5)),
    "nan": nan_in,
    "infinity": lambda p: replace(p, values=p.values.index_fill(1, torch.tensor([0]), math.inf)),
    "no probabilities": lambda p: replace(p, values=2 * p.values),
    "kind": lambda p: replace(p, kind=Kind.IMAGES),
    "nothing": lambda p: None,
    "a tensor": lambda p: p.values,
}


@pytest.mark.parametrize("lie", LIES)
def test_a_victim_that_answers_nonsense_answers_nothing(lie: str) -> None:
    detector = Scripted()
    pipeline = Pipeline(Lying(LIES[lie]), (detector,))

    with pytest.raises(VictimError, match="the victim answered"):
        pipeline.run(query(rows(4)), {})
    assert detector._seen == []


def test_a_victim_that_raises_answers_nothing() -> None:
    def fail(prediction: Prediction) -> Prediction:
        raise RuntimeError("out of memory, with an input in the message")

    with pytest.raises(VictimError, match="raised RuntimeError") as caught:
        Pipeline(Lying(fail)).run(query(rows(4)), {})
    assert "input" not in str(caught.value)


def test_pictures_of_a_victim_must_be_finite() -> None:
    def pictures(value: float) -> Lying:
        victim = Lying(
            lambda p: Prediction(torch.full((len(p.values), 1, 2, 2), value), Kind.IMAGES)
        )
        victim.kind, victim.output_shape = Kind.IMAGES, (1, 2, 2)
        return victim

    assert Pipeline(pictures(0.5)).run(query(rows(2)), {}).released.kind is Kind.IMAGES
    with pytest.raises(VictimError, match="not finite"):
        Pipeline(pictures(math.nan)).run(query(rows(2)), {})


def raises(*_: Any) -> Any:
    raise KeyError("a secret of the plug-in")


SCORES: dict[str, tuple[Callable[[Query, Prediction], Any], str]] = {
    "raises": (raises, "raised KeyError in score"),
    "nothing": (lambda q, p: None, "scored a NoneType"),
    "numpy": (lambda q, p: p.values.numpy(), "scored a ndarray"),
    "one axis": (lambda q, p: p.values[:, 0], r"scored \(4,\) for 4 rows"),
    "a row less": (lambda q, p: p.values[1:], r"scored \(3, 5\) for 4 rows"),
    "nan": (lambda q, p: nan_in(p).values, "scored values that are not finite"),
    "infinity": (lambda q, p: p.values / 0, "scored values that are not finite"),
}
FOLDS: dict[str, tuple[Fold, str]] = {
    "raises": (raises, "raised KeyError"),
    "nothing": (lambda s, r, at: None, "raised TypeError"),  # type: ignore[arg-type, return-value]
    "a row less": (
        lambda s, r, at: (s, np.zeros(len(r) - 1), np.zeros(len(r) - 1, dtype=bool)),
        r"gave .\d,. suspicions, .\d,. alarms for \d rows",
    ),
    "nan": (
        lambda s, r, at: (s, np.full(len(r), math.nan), np.zeros(len(r), dtype=bool)),
        r"a suspicion outside \[0, 1\]",
    ),
    "too much": (
        lambda s, r, at: (s, np.full(len(r), 1.01), np.zeros(len(r), dtype=bool)),
        r"a suspicion outside \[0, 1\]",
    ),
    "negative": (
        lambda s, r, at: (s, np.full(len(r), -0.01), np.zeros(len(r), dtype=bool)),
        r"a suspicion outside \[0, 1\]",
    ),
}


@pytest.mark.parametrize("clients", [["ann"] * 4, ["ann", "bob", "ann", "bob"]])
@pytest.mark.parametrize("broken", SCORES)
def test_a_detector_that_breaks_in_score_fails_closed(broken: str, clients: list[str]) -> None:
    detector = Scripted(name="mine")
    detector._scores.append(SCORES[broken][0])

    with pytest.raises(PluginError, match=f"detector 'mine' {SCORES[broken][1]}"):
        Pipeline(VICTIM, (detector,)).run(query(rows(4), clients), {})


@pytest.mark.parametrize("clients", [["ann"] * 4, ["ann", "bob", "ann", "bob"]])
@pytest.mark.parametrize("broken", FOLDS)
def test_a_detector_that_breaks_in_update_fails_closed(broken: str, clients: list[str]) -> None:
    detector = Scripted(name="mine")
    detector._folds.append(FOLDS[broken][0])

    with pytest.raises(PluginError, match=f"detector 'mine' .*{FOLDS[broken][1]}"):
        Pipeline(VICTIM, (detector,)).run(query(rows(4), clients), {})


@pytest.mark.parametrize(
    "answer",
    [raises, nan_in, lambda p: replace(p, values=p.values[:, 1:]), lambda p: None],
    ids=["raises", "nan", "shape", "nothing"],
)
@pytest.mark.parametrize("suspicion", [0.0, 0.5], ids=["on all rows", "on some rows"])
def test_a_defense_that_breaks_fails_closed(
    answer: Callable[[Prediction], Any], suspicion: float
) -> None:
    """Also where just a few rows asked for it, and where a good defense comes after it."""
    broken = Answering(name="mine")
    broken._answers.append(answer)
    level = Level(name="level", suspicion=suspicion or None, defenses=("mine", "label_only"))
    levels = (level,) if suspicion == 0 else (Level(name="normal"), level)
    pipeline = Pipeline(VICTIM, (Rate(rows=4),), (broken, *loaded(LabelOnly())), levels=levels)

    with pytest.raises(PluginError, match="defense 'mine'"):
        pipeline.run(query(rows(4)), {})


DENYING = (Level(name="normal"), Level(name="denied", alarm=True, deny_s=60))


def test_a_job_with_one_refused_row_gets_nothing_at_all() -> None:
    pipeline = Pipeline(VICTIM, (Rate(rows=3),), levels=DENYING)
    outcome = pipeline.run(query(rows(6), ["ann", "ann", "bob", "ann", "bob", "bob"]), {})

    assert outcome.decision.denied.tolist() == [False, False, False, True, False, True]
    assert outcome.rows(0, 4) is None
    assert outcome.rows(3, 4) is None
    first, third = outcome.rows(0, 2), outcome.rows(2, 3)
    assert first is not None
    assert third is not None
    assert torch.equal(first.values, outcome.released.values[:2])
    assert torch.equal(third.values, outcome.released.values[2:3])


def test_a_refusal_is_remembered_until_it_ends() -> None:
    pipeline = Pipeline(VICTIM, (Rate(rows=2, window_s=10),), levels=DENYING)
    memories = pipeline.run(query(rows(2), at=100.0), {}).memories

    assert end_of_refusal(memories["client"]) == 160.0
    assert end_of_refusal({}) == 0.0


def test_a_refused_client_stays_refused_whatever_its_suspicion_is_by_then() -> None:
    """As in a second worker, whose admission has not heard of the refusal."""
    levels = (Level(name="normal"), Level(name="denied", suspicion=0.5, deny_s=60))
    pipeline = Pipeline(VICTIM, (Rate(rows=10, window_s=10),), levels=levels)
    memories = pipeline.run(query(rows(5), at=9.0), {}).memories
    during = pipeline.run(query(rows(1), at=68.0), memories)
    after = pipeline.run(query(rows(1), at=69.0), memories)

    assert during.decision.levels.tolist() == [0], "its window is over, and so is its suspicion"
    assert during.decision.denied.tolist() == [True]
    assert end_of_refusal(during.memories["client"]) == 69.0
    assert after.decision.denied.tolist() == [False]


def test_a_shorter_refusal_does_not_cut_a_longer_one() -> None:
    levels = (
        Level(name="normal"),
        Level(name="short", suspicion=0.01, deny_s=5),
        Level(name="long", suspicion=0.5, deny_s=1000),
    )
    pipeline = Pipeline(VICTIM, (Rate(rows=4, window_s=10),), levels=levels)
    long = pipeline.run(query(rows(3), at=0.0), {}).memories
    still = pipeline.run(query(rows(1), at=20.0), long)

    assert end_of_refusal(long["client"]) == 1000.0
    assert still.decision.denied.tolist() == [True]
    assert end_of_refusal(still.memories["client"]) == 1000.0


def test_states_of_plugins_that_are_gone_are_kept() -> None:
    """An operator who takes a detector out for a day loses no alarm of it."""
    old: dict[str, Memory] = {"client": {"gone": {"alarm": np.ones(1)}}}
    memories = Pipeline(VICTIM, (Rate(),)).run(query(rows(1)), old).memories

    assert memories["client"].keys() >= {"gone", "rate"}
    assert memories["client"]["gone"] is old["client"]["gone"]


def test_alpha_is_the_models_and_decides_how_soon_evidence_alarms() -> None:
    asked = query(rows(80).round())

    def alarmed(alpha: float) -> int:
        outcome = Pipeline(VICTIM, (calibrated(VICTIM),), alpha=alpha).run(asked, {})
        return int(outcome.signals["evidence"].alarm.sum())

    assert alarmed(0.1) > alarmed(1e-3) > alarmed(1e-6) > 0


def test_in_shadow_mode_every_answer_is_that_of_a_client_never_suspected() -> None:
    """Also of who would be refused; what would be done is decided all the same."""
    levels = (*LEVELS, Level(name="denied", rows=12, deny_s=60))
    enforcing = whole_chain(VICTIM, levels=levels)
    shadow = Pipeline(
        VICTIM,
        enforcing.detectors,
        enforcing.defenses,
        levels=levels,
        alpha=enforcing.alpha,
        shadow=True,
    )
    asked = query(rows(14))
    treated, seen = enforcing.run(asked, {}), shadow.run(asked, {})
    alone = [shadow.run(query(row[None], f"client {i}"), {}) for i, row in enumerate(asked.inputs)]
    innocent = torch.cat([outcome.released.values for outcome in alone])

    assert torch.equal(seen.released.values, innocent)
    assert not seen.decision.denied.any()
    assert treated.decision.denied.any()
    assert seen.decision.wanted.tolist() == treated.decision.levels.tolist()
    again = shadow.run(asked, treated.memories)
    assert torch.equal(again.released.values, innocent)
    assert not again.decision.denied.any(), "an old refusal does not bite"


def test_tiers_reach_detectors_and_policy_and_the_defenses_see_those_of_their_rows() -> None:
    spy = Answering()
    levels = (Level(name="normal"), Level(name="free", tiers=("free",), defenses=("answering",)))
    pipeline = Pipeline(VICTIM, (Rate(),), (spy,), levels=levels)
    outcome = pipeline.run(query(rows(3), ["a", "b", "c"], tiers=["free", "paid", "free"]), {})
    ((_, part, _),) = spy._asked

    assert outcome.decision.levels.tolist() == [1, 0, 1]
    assert (list(part.clients), list(part.tiers)) == (["a", "c"], ["free", "free"])


def test_an_answer_takes_as_long_for_a_client_at_an_alarm_as_for_any_other() -> None:
    """With defenses that cost the same, time tells a client nothing of its level.

    Both kinds of requests alternate, so that the load of the machine is the same for both; of the many
    pairs the median is taken.
    """
    first, second = loaded(ReverseSigmoid(name="first"), ReverseSigmoid(name="second"))
    levels = (
        Level(name="normal", defenses=("first",)),
        Level(name="alarmed", alarm=True, defenses=("second",)),
    )
    rate = Rate(rows=1000)
    pipeline = Pipeline(VICTIM, (calibrated(VICTIM), rate), (first, second), levels=levels)
    asked = query(rows(16))
    prediction = pipeline.predict(asked)
    scores = pipeline.score(asked, prediction)
    honest = pipeline.run(query(rows(1)), {}).memories
    thief = pipeline.run(query(rows(1000)), {}).memories
    assert pipeline.run(asked, thief).decision.levels.all()
    assert not pipeline.run(asked, honest).decision.levels.any()

    times: dict[bool, list[float]] = {False: [], True: []}
    for flagged in [False, True, True, False] * 250:
        since = perf_counter()
        pipeline.respond(asked, prediction, scores, thief if flagged else honest)
        times[flagged].append(perf_counter() - since)
    calm, alarmed = np.median(times[False]), np.median(times[True])

    assert 0.67 < alarmed / calm < 1.5


class Faint(Answering):
    """Changes explanations."""

    kinds = frozenset({Kind.ATTRIBUTIONS})


def explains(
    victim: TinyVictim,
    *defenses: Defense,
    answer: Callable[[Prediction], Any] = lambda maps: maps,
    **settings: Any,
) -> tuple[Pipeline, Slopes]:
    slopes = Slopes(victim, answer)
    explaining = Explaining(slopes, victim.classes, Explain(classes="any"))
    return Pipeline(victim, defenses=defenses, explaining=explaining, **settings), slopes


def why(pipeline: Pipeline, rows: int, *asked: Any) -> Why:
    assert pipeline.explaining is not None
    return pipeline.explaining.ask(rows, *asked)


def test_an_explanation_comes_with_the_prediction_and_counts_as_one() -> None:
    asked, plain = query(rows(6)), whole_chain(VICTIM)
    settings: dict[str, Any] = {"levels": LEVELS, "alpha": plain.alpha}
    explaining = Explaining(Slopes(VICTIM), VICTIM.classes)
    pipeline = Pipeline(VICTIM, plain.detectors, plain.defenses, explaining=explaining, **settings)
    run = plain.run(asked, {})
    explained = pipeline.explain(asked, why(pipeline, 6), {})
    top = VICTIM.predict(asked.inputs).values.argmax(dim=1)
    maps = explained.maps(0, 6)

    assert maps is not None
    assert maps.kind is Kind.ATTRIBUTIONS
    assert torch.equal(maps.values, VICTIM.slopes(top))
    assert torch.equal(explained.released.values, run.released.values)
    assert str(explained.memories) == str(run.memories)


def test_the_class_and_the_method_that_were_asked_for_are_explained() -> None:
    pipeline, _ = explains(VICTIM)
    outcome = pipeline.explain(query(rows(3)), why(pipeline, 3, "twice", [4, 0, 1]), {})
    maps = outcome.maps(0, 3)

    assert maps is not None
    assert torch.equal(maps.values, 2 * VICTIM.slopes(torch.tensor([4, 0, 1])))


def test_each_defense_changes_its_own_kind() -> None:
    faint, other = Faint(name="faint"), Answering(name="other")
    faint._answers.append(lambda given: replace(given, values=given.values / 2))
    pipeline, _ = explains(VICTIM, faint, other)
    outcome = pipeline.explain(query(rows(3)), why(pipeline, 3, "", 1), {})
    maps = outcome.maps(0, 3)

    assert maps is not None
    assert torch.equal(maps.values, VICTIM.slopes(torch.ones(3, dtype=torch.int64)) / 2)
    assert [given.kind for given, _, _ in faint._asked] == [Kind.ATTRIBUTIONS]
    assert [given.kind for given, _, _ in other._asked] == [Kind.PROBABILITIES]


def test_rows_whose_level_gives_no_explanations_are_not_even_explained() -> None:
    levels = (Level(name="all"), Level(name="free", tiers=("free",), explanations=False))
    pipeline, slopes = explains(VICTIM, levels=levels)
    asked = query(rows(4), ["a", "b", "a", "b"], tiers=["default", "free", "default", "free"])
    outcome = pipeline.explain(asked, why(pipeline, 4), {})

    assert outcome.maps(0, 1) is not None
    assert outcome.maps(1, 2) is None
    assert outcome.maps(0, 4) is None
    assert outcome.rows(0, 4) is not None
    assert torch.equal(slopes.asked[0], asked.inputs[::2])
    assert outcome.explained is not None
    assert not outcome.explained.values[1::2].any()


def test_denied_rows_are_not_explained() -> None:
    levels = (Level(name="all"), Level(name="out", rows=3, deny_s=60))
    pipeline, slopes = explains(VICTIM, levels=levels)
    outcome = pipeline.explain(query(rows(4)), why(pipeline, 4), {})

    assert [outcome.maps(i, i + 1) is None for i in range(4)] == [False, False, True, True]
    assert [len(inputs) for inputs in slopes.asked] == [2]


def test_in_shadow_mode_everybody_is_explained() -> None:
    levels = (Level(name="all"), Level(name="out", rows=3, explanations=False))
    pipeline, _ = explains(VICTIM, levels=levels, shadow=True)

    assert pipeline.explain(query(rows(4)), why(pipeline, 4), {}).maps(0, 4) is not None


def test_where_nobody_gets_one_the_explainer_is_not_asked() -> None:
    pipeline, slopes = explains(VICTIM, levels=(Level(name="all", explanations=False),))
    pipeline.explain(query(rows(4)), why(pipeline, 4), {})

    assert slopes.asked == []


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda maps: replace(maps, values=maps.values[:1]), "gave attributions"),
        (lambda maps: replace(maps, values=maps.values / 0), "not finite"),
        (lambda maps: replace(maps, kind=Kind.IMAGES), "gave images"),
        (lambda maps: 1 // 0, "raised ZeroDivisionError"),
    ],
    ids=["shape", "infinite", "kind", "raises"],
)
def test_an_explainer_that_fails_explains_nothing(answer: Any, message: str) -> None:
    pipeline, _ = explains(VICTIM, answer=answer)

    with pytest.raises(VictimError, match=message):
        pipeline.explain(query(rows(2)), why(pipeline, 2), {})


def test_a_model_without_an_explainer_explains_nothing() -> None:
    pipeline, _ = explains(VICTIM)

    with pytest.raises(VictimError, match="gives no explanations"):
        Pipeline(VICTIM).explain(query(rows(2)), why(pipeline, 2), {})


def test_latents_that_are_answered_by_one_picture_get_the_same_noise() -> None:
    """40 latents of a client whose pictures are three: their noise does not average out."""
    budget, noise = LatentBudget(latents=3), GaussianNoise(sigma=0.05)
    pipeline = Pipeline(TinyGenerator(), defenses=[noise], input_defenses=[budget])
    for plugin in (budget, noise):
        plugin.load(SETUP)
    latents = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    released = pipeline.run(query(latents), {}).released.values

    assert len(torch.unique(released, dim=0)) == 3
