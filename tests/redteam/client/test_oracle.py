"""The oracle counts every row and every number, carries its client's memory, and ends at a refusal."""

import numpy as np
import pytest
import torch

from redteam.client.oracle import Capped, InProcess, Refused, Withheld, Wrapper
from redteam.explanations.explainable import served
from serving.pipeline import Pipeline
from serving.policy import Level
from tests.helpers import TinyVictim, rows
from tests.redteam.oracles import Patient


def test_every_row_and_every_number_is_counted() -> None:
    oracle = InProcess(Pipeline(TinyVictim(classes=5)))
    oracle.query(rows(300))
    answers = oracle.query(rows(7))

    assert answers.shape == (7, 5)
    assert (oracle.rows, oracle.floats) == (307, 307 * 5)
    assert oracle.sent == []


def test_labels_are_one_number_a_row() -> None:
    oracle = InProcess(Pipeline(TinyVictim(), answer="labels"))

    assert oracle.query(rows(4)).shape == (4,)
    assert oracle.floats == 4


def test_what_was_sent_is_kept_as_it_was() -> None:
    oracle, inputs = InProcess(Pipeline(TinyVictim()), recording=True), rows(300)
    wanted = inputs.clone()
    oracle.query(inputs)
    inputs.zero_()

    assert torch.equal(torch.cat(oracle.sent), wanted)


def test_an_attack_ends_where_its_client_is_denied() -> None:
    """The memory goes from batch to batch: no single one has the rows that the level asks for."""
    levels = (Level(name="normal"), Level(name="out", rows=600, deny_s=60))
    oracle = InProcess(Pipeline(TinyVictim(), levels=levels))
    oracle.query(rows(500))

    with pytest.raises(Refused, match=r"'thief' is denied after 756 rows"):
        oracle.query(rows(400))
    assert oracle.floats == 500 * 5


def test_the_clock_is_asked_for_every_batch() -> None:
    ticks = iter(np.arange(100.0))
    levels = (Level(name="normal"), Level(name="out", rows=600, deny_s=1.0, tiers=("default",)))
    oracle = InProcess(Pipeline(TinyVictim(), levels=levels), clock=lambda: next(ticks))
    oracle.query(rows(512))

    assert next(ticks) == 2.0


def test_a_cap_sends_nothing_of_a_query_that_goes_beyond_the_budget() -> None:
    inner = InProcess(Pipeline(TinyVictim()))
    oracle = Capped(inner, 10)
    oracle.query(rows(8))

    with pytest.raises(Refused, match="budget spent"):
        oracle.query(rows(3))
    assert (oracle.rows, oracle.floats) == (inner.rows, inner.floats) == (8, 40)


PICTURES = rows(6, shape=(1, 28, 28))


def test_an_explanation_is_a_row_with_its_prediction_and_as_many_numbers_as_the_row() -> None:
    oracle = InProcess(served("mnist"), recording=True)
    told = Capped(oracle, 6).explain(PICTURES)

    assert torch.equal(told.answers, InProcess(served("mnist")).query(PICTURES))
    assert told.maps.shape == PICTURES.shape
    assert (oracle.rows, oracle.floats) == (6, 6 * (10 + 784))
    assert torch.equal(torch.cat(oracle.sent), PICTURES)


def test_a_cap_holds_for_explanations() -> None:
    oracle = Capped(InProcess(served("mnist")), 5)

    with pytest.raises(Refused, match="budget spent"):
        oracle.explain(PICTURES)
    assert oracle.rows == 0


def test_models_and_oracles_that_explain_nothing_withhold_it() -> None:
    quiet = InProcess(Pipeline(TinyVictim()))

    with pytest.raises(Withheld, match="explains nothing"):
        quiet.explain(rows(2))
    with pytest.raises(Withheld, match="explains nothing"):
        Wrapper(Patient()).explain(rows(2))


def test_a_level_without_explanations_withholds_them_and_answers_on() -> None:
    explaining = served("mnist").explaining
    levels = (Level(name="all", explanations=False),)
    oracle = InProcess(Pipeline(served("mnist").victim, levels=levels, explaining=explaining))

    with pytest.raises(Withheld, match="gives this client no explanations"):
        oracle.explain(PICTURES)
    assert oracle.query(PICTURES).shape == (6, 10)
