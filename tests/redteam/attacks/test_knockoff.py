"""Knockoff: rows of a pool, none twice, within the budget."""

import torch

from redteam.attacks.knockoff import knockoff
from redteam.oracle import InProcess
from serving.pipeline import Pipeline
from tests.helpers import TinyVictim, rows


def test_it_sends_rows_of_the_pool_without_replacement_and_keeps_the_answers() -> None:
    victim, pool = TinyVictim(), rows(50)
    oracle = InProcess(Pipeline(victim), recording=True)
    got = knockoff(oracle, pool, budget=30, generator=torch.Generator().manual_seed(0))

    assert oracle.rows == 30
    assert torch.equal(torch.cat(oracle.sent), got.inputs)
    assert len({row.numpy().tobytes() for row in got.inputs}) == 30
    assert all((pool == row).all(dim=(1, 2, 3)).any() for row in got.inputs)
    assert torch.equal(got.answers, victim.predict(got.inputs).values)


def test_a_pool_smaller_than_the_budget_is_sent_whole() -> None:
    oracle = InProcess(Pipeline(TinyVictim()))
    knockoff(oracle, rows(9), budget=30, generator=torch.Generator().manual_seed(0))

    assert oracle.rows == 9
