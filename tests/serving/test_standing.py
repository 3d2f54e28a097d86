"""How a client stands, read from what is remembered of it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from detectors.rate import Rate
from mantlet.plugin import ThresholdDetector
from serving.folding import ALARMS, CAMPAIGN, EVIDENCE, POLICY, Memory
from serving.pipeline import Pipeline
from serving.policy import Level
from serving.standing import Opinion, Standing, standing_of
from tests.helpers import Bright, Scripted, TinyVictim, bright, grey, query

LEVELS = (
    Level(name="normal"),
    Level(name="suspected", suspicion=0.5),
    Level(name="alarmed", alarm=True, deny_s=60),
)


def pipeline(*detectors: Any, levels: tuple[Level, ...] = LEVELS) -> Pipeline:
    return Pipeline(TinyVictim(), detectors, levels=levels, alpha=1e-3)


def after(model: Pipeline, count: int, at: float = 100.0) -> Memory:
    memories: Mapping[str, Memory] = model.run(query(grey(*[0.0] * count), at=at), {}).memories
    return memories["client"]


def test_a_client_never_seen_stands_at_the_first_level() -> None:
    standing = standing_of({}, pipeline(Rate()))

    assert (standing.rows, standing.suspicion, standing.alarm) == (0, 0.0, False)
    assert (standing.level, standing.denied_until) == ("normal", 0.0)
    assert (standing.progress, standing.campaign, standing.override) == (None, None, None)
    assert standing.detectors == {
        EVIDENCE: Opinion(0.0, False, None),
        "rate": Opinion(0.0, False, None),
    }


def test_rows_suspicion_and_level_are_those_after_the_last_row() -> None:
    model = pipeline(Rate(rows=10))
    standing = standing_of(after(model, 6), model)

    assert (standing.rows, standing.level) == (6, "suspected")
    assert standing.suspicion == pytest.approx(0.6)
    assert standing.detectors["rate"].suspicion == pytest.approx(0.6)


def test_an_alarm_is_told_with_the_rows_until_it_and_the_refusal_with_its_end() -> None:
    model = pipeline(Rate(rows=10))
    standing = standing_of(after(model, 14), model)

    assert standing.alarm
    assert standing.detectors["rate"] == Opinion(1.0, True, 10)
    assert (standing.level, standing.denied_until) == ("alarmed", 160.0)


def test_what_only_observes_is_told_and_counts_for_nothing() -> None:
    class Observing(Scripted):
        @property
        def enforces(self) -> bool:
            return False

    loud = Observing()
    loud._folds.append(lambda s, r, at: (s, np.ones(len(r)), np.ones(len(r), dtype=bool)))
    model = pipeline(loud, Bright())
    standing = standing_of(after(model, 3), model)

    assert standing.detectors["scripted"] == Opinion(1.0, True, 1)
    assert (standing.suspicion, standing.alarm, standing.level) == (0.0, False, "normal")


def test_progress_is_what_the_detector_that_measures_it_says() -> None:
    class Progress(Scripted):
        measures_progress = True

    measuring: ThresholdDetector = Progress(name="coverage")
    measuring._folds.append(lambda s, r, at: (s, np.full(len(r), 0.25), r[:, 0] > 2))  # type: ignore[attr-defined]
    model = pipeline(Rate(rows=10), measuring)

    assert standing_of(after(model, 6), model).progress == 0.25
    assert standing_of(after(pipeline(Rate()), 1), pipeline(Rate())).progress is None


def test_a_campaign_is_told_by_its_number() -> None:
    memory: Memory = {ALARMS: {CAMPAIGN: np.array([5, 1.0, 0xABC])}}

    assert standing_of(memory, pipeline()).campaign == "abc"


def test_what_was_set_by_hand_is_told() -> None:
    memory: Memory = {POLICY: {"override": np.frombuffer(b"suspected", np.uint8)}}

    assert standing_of(memory, pipeline()).override == "suspected"


def test_a_memory_of_other_settings_can_be_read() -> None:
    """Fewer levels, other detectors: what is not known is nothing, and alarms stand."""
    old = after(pipeline(Rate(rows=10), bright()), 14)
    model = pipeline(Rate(rows=99), levels=LEVELS[:2])
    standing: Standing = standing_of(old, model)

    assert standing.detectors["rate"] == Opinion(0.0, True, 10)
    assert standing.alarm
    assert standing.level == "suspected"
