"""The oracle counts every row and every number, carries its client's memory, and ends at a refusal."""

import numpy as np
import pytest
import torch

from redteam.oracle import Capped, InProcess, Refused
from serving.pipeline import Pipeline
from serving.policy import Level
from tests.helpers import TinyVictim, rows


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
