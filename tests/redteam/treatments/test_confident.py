"""Dropping unsure answers."""

import torch

from redteam.learning import Means, Transfer
from redteam.treatments.confident import Confident
from tests.redteam.thieves import bands, pictures


def treated(floor: float) -> tuple[Transfer, Transfer]:
    inputs = pictures(200)
    before = Transfer(inputs, bands(inputs))
    return before, Confident(floor=floor).apply(before, Means(inputs), torch.Generator())


def test_only_sure_answers_stay_with_their_rows() -> None:
    before, after = treated(0.6)
    sure = before.answers.amax(dim=1) >= 0.6

    assert 0 < len(after) == int(sure.sum()) < 200
    assert torch.equal(after.inputs, before.inputs[sure])
    assert torch.equal(after.answers, before.answers[sure])


def test_where_no_answer_is_sure_all_stay() -> None:
    before, after = treated(1.0)

    assert torch.equal(after.answers, before.answers)
