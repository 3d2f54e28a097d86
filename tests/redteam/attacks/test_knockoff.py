"""Knockoff: rows of a pool, none twice, within the budget; the adaptive form prefers what pays."""

import pytest
import torch

from redteam.attacks.knockoff import Knockoff
from tests.redteam.thieves import QUICK, SHORT, Teller, agreement, bands, pictures, stolen


@pytest.mark.parametrize("adaptive", [False, True])
def test_it_sends_rows_of_the_pool_without_replacement_and_spends_the_budget(
    adaptive: bool,
) -> None:
    oracle, pool = Teller(), pictures(90)
    attack = Knockoff(adaptive=adaptive, clusters=5, training=QUICK)
    loot = stolen(attack, oracle, budget=61, pool=pool)

    assert oracle.rows == 61
    assert loot.ended == "budget spent"
    assert len({row.numpy().tobytes() for row in oracle.sent}) == 61
    assert all((pool == row).all(dim=(1, 2, 3)).any() for row in oracle.sent)


@pytest.mark.parametrize("adaptive", [False, True])
def test_a_pool_smaller_than_the_budget_is_sent_whole(adaptive: bool) -> None:
    attack = Knockoff(adaptive=adaptive, training=QUICK)
    loot = stolen(attack, Teller(), budget=30, pool=pictures(9))

    assert loot.rows == 9
    assert loot.ended == "done"


def test_the_clone_agrees_with_the_victim_and_an_untrained_one_does_not() -> None:
    trained = stolen(Knockoff(training=SHORT), Teller(), budget=400)
    untrained = stolen(Knockoff(training=SHORT), Teller(rows_until_denied=0), budget=400)

    assert agreement(trained) > 0.5
    assert agreement(untrained) < 0.3


@pytest.mark.parametrize("adaptive", [False, True])
def test_the_same_seed_sends_the_same_rows(adaptive: bool) -> None:
    sent = []
    for seed in (0, 0, 1):
        oracle = Teller()
        stolen(Knockoff(adaptive=adaptive, training=QUICK), oracle, budget=60, seed=seed)
        sent.append(oracle.sent)

    assert torch.equal(sent[0], sent[1])
    assert not torch.equal(sent[0], sent[2])


def test_the_adaptive_form_asks_more_of_what_pays() -> None:
    """Bright rows are answered for sure and in many classes, dark ones all alike and unsure."""
    pool = pictures(600)
    pool[:300] *= 0.05

    oracle = Teller(lambda inputs: torch.softmax(40 * (bands(inputs) - 0.1), dim=1))
    stolen(Knockoff(adaptive=True, clusters=6, training=QUICK), oracle, budget=200, pool=pool)
    bright = float((oracle.sent.mean(dim=(1, 2, 3)) > 0.1).double().mean())

    assert bright > 0.6
