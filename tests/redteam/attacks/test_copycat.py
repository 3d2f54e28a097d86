"""Copycat: labels alone."""

import torch

from redteam.attacks.copycat import Copycat
from tests.redteam.thieves import SHORT, Teller, agreement, bands, stolen


def test_confidences_do_not_matter_to_the_clone() -> None:
    sure = stolen(Copycat(training=SHORT), Teller(), budget=200)
    unsure = stolen(Copycat(training=SHORT), Teller(lambda x: bands(x) ** 0.1), budget=200)
    weights = [list(loot.clone.parameters()) for loot in (sure, unsure)]

    assert sure.transfer is not None
    assert unsure.transfer is not None
    assert not torch.equal(sure.transfer.answers, unsure.transfer.answers)
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_the_budget_is_spent_on_rows_of_the_pool_and_the_clone_learns() -> None:
    loot = stolen(Copycat(training=SHORT), Teller(), budget=400)

    assert loot.rows == 400
    assert agreement(loot) > 0.5
