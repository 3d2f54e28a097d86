"""Drift is what most clients do; a thief cannot make it, and few clients say nothing."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from mantlet.types import Query
from serving.drift import Lately, Watch, by_detector, drifting
from serving.folding import Memory
from serving.pipeline import Pipeline
from tests.helpers import TinyVictim, bright, grey

PIPELINE = Pipeline(TinyVictim(), [bright("first", bound=0.1), bright("second", columns=2)])
QUIET = np.zeros(3, dtype=bool)


def memories(shades: Sequence[float], *, rows: int = 30, at: float = 0.0) -> Mapping[str, Memory]:
    """What is remembered of a client a shade; every row scores its shade in all three columns."""
    names = [f"client {i}" for i in range(len(shades)) for _ in range(rows)]
    asked = Query(names, grey(*np.repeat(shades, rows).tolist()), at)
    scores = PIPELINE.score(asked, PIPELINE.predict(asked))
    return PIPELINE.fold.run(asked, scores, {}).memories


def typical(found: Mapping[str, Memory], *, at: float = 0.0, **watch: float) -> np.ndarray | None:
    late = Lately(PIPELINE.fold, Watch.model_validate(watch), at)
    for memory in found.values():
        late.hear(memory)
    return late.typical()


def test_the_typical_client_is_the_median_one() -> None:
    shares = typical(memories([0.02] * 10 + [0.05] * 3 + [0.9] * 10))

    assert shares == pytest.approx([0.5] * 3, abs=0.01)


def test_many_thieves_are_no_drift_and_a_majority_is() -> None:
    for thieves, drifts in ((14, False), (16, True)):
        shares = typical(memories([0.9] * thieves + [0.02] * (30 - thieves)))

        assert shares is not None
        assert drifting(shares, QUIET).all() == drifts


def test_a_larger_majority_may_be_asked_for() -> None:
    found = memories([0.9] * 18 + [0.02] * 12)
    shares = typical(found, majority=0.8)

    assert shares == pytest.approx([0.2] * 3, abs=0.01)


def test_few_clients_new_ones_and_those_of_yesterday_say_nothing() -> None:
    assert typical(memories([0.9] * 19)) is None
    assert typical(memories([0.9] * 30, rows=20)) is None
    assert typical(memories([0.9] * 30), at=7200.0) is None
    assert typical(memories([0.9] * 30), at=1800.0) is not None


def test_a_drift_ends_later_than_it_begins() -> None:
    shares = np.array([1.1, 0.8, 0.5])

    assert drifting(shares, QUIET).tolist() == [True, False, False]
    assert drifting(shares, ~QUIET).tolist() == [True, True, False]


def test_columns_belong_to_detectors() -> None:
    parts = by_detector(PIPELINE.fold, np.array([1.0, 2.0, 3.0]))

    assert {name: part.tolist() for name, part in parts.items()} == {
        "first": [1.0],
        "second": [2.0, 3.0],
    }
