"""Cover rows go among a thief's own, as many as it says, and come from its stock alone."""

import pytest
import torch

from redteam.client.mixing import Mixing
from redteam.client.oracle import Refused
from tests.helpers import rows
from tests.redteam.oracles import Failing, Patient, shares


def mixing(oracle: Patient, stock: torch.Tensor, share: float) -> Mixing:
    return Mixing(oracle, stock, share=share, generator=torch.Generator().manual_seed(0))


def test_own_rows_get_their_own_answers_whatever_goes_between_them() -> None:
    inputs = rows(30)
    answers = mixing(Patient(), rows(5, seed=1), 0.7).query(inputs)

    assert torch.equal(answers, shares(inputs))


@pytest.mark.parametrize(("share", "sent"), [(0.0, 100), (0.5, 200), (0.8, 500), (0.1, 111)])
def test_cover_has_its_share_of_the_traffic_over_many_small_queries(
    share: float, sent: int
) -> None:
    oracle = Patient()
    thief = mixing(oracle, rows(7, seed=1), share)
    for part in torch.split(rows(100), 3):
        thief.query(part)

    assert abs(thief.rows - sent) <= 1
    assert thief.floats == 2 * thief.rows


def test_cover_is_of_the_stock_and_all_of_it_before_any_again() -> None:
    stock = rows(10, seed=1)
    thief = mixing(Patient(), stock, 0.5)
    thief.query(rows(10))
    cover = thief.cover

    assert cover is not None
    assert len(cover.inputs) == 10
    assert {tuple(row.flatten().tolist()) for row in cover.inputs} == {
        tuple(row.flatten().tolist()) for row in stock
    }
    assert torch.equal(cover.answers, shares(cover.inputs))


def test_cover_does_not_stand_at_one_end_of_a_query() -> None:
    oracle, stock = Patient(), torch.ones(1, 1, 4, 4)
    mixing(oracle, stock, 0.5).query(torch.zeros(50, 1, 4, 4))
    (asked,) = oracle.asked
    bright = asked.flatten(1).mean(dim=1)

    assert 10 < float(bright[:50].sum()) < 40


def test_no_cover_without_a_stock() -> None:
    assert mixing(Patient(), rows(3), 0.0).cover is None
    with pytest.raises(ValueError, match="the stock of honest rows is empty"):
        mixing(Patient(), rows(0), 0.5)


def test_own_rows_and_cover_of_a_refused_query_are_told_apart() -> None:
    inputs, stock = rows(8), rows(8, seed=1)
    thief = mixing(Failing(Refused("no"), torch.arange(9)), stock, 0.5)
    with pytest.raises(Refused, match="no") as refusal:
        thief.query(inputs)

    came, cover = refusal.value.came, thief.cover
    assert came is not None
    assert cover is not None
    assert len(came.places) + len(cover.inputs) == 9
    assert torch.equal(came.answers, shares(inputs[came.places]))
    assert torch.equal(cover.answers, shares(cover.inputs))
