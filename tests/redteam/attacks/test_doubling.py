"""Rounds that double the rows, and the step along a score."""

import pytest
import torch
from torch import nn

from redteam.attacks.doubling import moved
from redteam.attacks.jbda import Jbda
from redteam.learning import Training
from tests.redteam.thieves import QUICK, Teller, pictures, stolen

SMALL = Jbda(seeds=12, training=QUICK, substitute=Training(steps=5), request=500)


def test_every_round_sends_as_many_new_rows_as_were_sent_before() -> None:
    oracle = Teller()
    loot = stolen(SMALL, oracle, budget=100, pool=pictures(40))

    assert [len(query) for query in oracle.queries] == [12, 12, 24, 48, 4]
    assert loot.rows == 100
    assert len({row.numpy().tobytes() for row in oracle.sent}) == 100
    assert oracle.sent.min() >= 0
    assert oracle.sent.max() <= 1


def test_the_seeds_are_of_the_pool_and_new_rows_lie_a_step_beside_old_ones() -> None:
    oracle, pool = Teller(), pictures(40)
    stolen(SMALL, oracle, budget=48, pool=pool)

    assert all((pool == row).all(dim=(1, 2, 3)).any() for row in oracle.sent[:12])
    assert float((oracle.sent[24:] - oracle.sent[:24]).abs().amax()) == pytest.approx(0.1, abs=1e-6)


def test_a_step_goes_up_the_score_of_the_class_and_stays_in_range() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, 2, bias=False))
    with torch.no_grad():
        network[1].weight[0], network[1].weight[1] = 1.0, -1.0
    inputs = torch.full((600, 1, 28, 28), 0.97)
    towards = torch.tensor([0, 1]).repeat(300)
    got = moved(network, inputs, towards, 0.1)

    torch.testing.assert_close(got[0::2], torch.ones(300, 1, 28, 28))
    torch.testing.assert_close(got[1::2], torch.full((300, 1, 28, 28), 0.87))
