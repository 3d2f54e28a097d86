"""The expected clean answer, given the released one."""

import pytest
import torch

from defenses.reverse_sigmoid import ReverseSigmoid
from defenses.rounding import Rounding
from mantlet.plugin import Defense
from mantlet.types import Kind, Prediction, Query
from redteam.learning import Means, Transfer
from redteam.treatments.bayes import Bayes
from tests.helpers import SETUP
from tests.redteam.thieves import SHORT, bands, pictures


def recovered(defense: Defense, *, rows: int = 400) -> tuple[torch.Tensor, ...]:
    """Clean, defended and recovered answers."""
    inputs = pictures(rows)
    clean = bands(inputs)
    defense.load(SETUP)
    prediction = Prediction(clean, Kind.PROBABILITIES, logits=clean.log())
    defended = defense(prediction, Query(["thief"] * rows, inputs, 0.0), {}).values
    treatment = Bayes(defense=defense, count=1, shadow=SHORT)
    transfer = Transfer(inputs, defended)
    back = treatment.apply(transfer, Means(inputs), torch.Generator().manual_seed(0))
    return clean, defended, back.answers


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().sum(dim=1).mean())


def test_what_a_known_defense_did_is_mostly_undone() -> None:
    clean, defended, back = recovered(ReverseSigmoid(beta=0.9, gamma=0.4))

    torch.testing.assert_close(back.sum(dim=1), torch.ones(400))
    assert back.min() >= 0
    assert apart(back, clean) < 0.6 * apart(defended, clean)


def test_classes_stay_in_their_places() -> None:
    clean, _, back = recovered(Rounding(decimals=2))

    assert float((clean.argmax(dim=1) == back.argmax(dim=1)).double().mean()) > 0.9


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_few_rows_are_no_reason_to_fail(rows: int) -> None:
    assert recovered(Rounding(), rows=rows)[2].shape == (rows, 10)
