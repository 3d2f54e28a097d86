"""The expected clean answer, given the released one."""

import pytest
import torch

from defenses.reverse_sigmoid import ReverseSigmoid
from defenses.rounding import Rounding
from redteam.treatments.bayes import Bayes
from tests.redteam.thieves import apart, recovered


def test_what_a_known_defense_did_is_mostly_undone() -> None:
    clean, defended, back = recovered(Bayes, ReverseSigmoid(beta=0.9, gamma=0.4))

    torch.testing.assert_close(back.sum(dim=1), torch.ones(400))
    assert back.min() >= 0
    assert apart(back, clean) < 0.6 * apart(defended, clean)


def test_classes_stay_in_their_places() -> None:
    clean, _, back = recovered(Bayes, Rounding(decimals=2))

    assert float((clean.argmax(dim=1) == back.argmax(dim=1)).double().mean()) > 0.9


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_few_rows_are_no_reason_to_fail(rows: int) -> None:
    assert recovered(Bayes, Rounding(), rows=rows)[2].shape == (rows, 10)
