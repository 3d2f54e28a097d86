"""Active learning: rows of the pool in rounds, chosen by what the clone says of them."""

import pytest
import torch

from redteam.attacks.active import Active, Choice, _apart, _uncertain
from redteam.learning import Training
from tests.redteam.thieves import QUICK, SHORT, Teller, agreement, pictures, stolen

SMALL = Active(rounds=3, training=QUICK, substitute=Training(steps=20))


@pytest.mark.parametrize("choice", list(Choice))
def test_a_random_start_and_rounds_of_one_size_spend_the_budget(choice: Choice) -> None:
    oracle, pool = Teller(), pictures(250)
    attack = SMALL.model_copy(update={"choice": choice, "training": SHORT})
    loot = stolen(attack, oracle, budget=200, pool=pool)

    assert [len(query) for query in oracle.queries] == [40, 54, 53, 53]
    assert loot.ended == "budget spent"
    assert len({row.numpy().tobytes() for row in oracle.sent}) == 200
    assert agreement(loot) > 0.3


def test_a_pool_smaller_than_the_budget_is_sent_whole() -> None:
    assert stolen(SMALL, Teller(), budget=100, pool=pictures(30)).rows == 30


def test_the_two_choices_and_two_seeds_send_other_rows() -> None:
    def sent(choice: Choice, seed: int) -> torch.Tensor:
        oracle = Teller()
        attack = SMALL.model_copy(update={"choice": choice})
        stolen(attack, oracle, budget=60, seed=seed, pool=pictures(150))
        return oracle.sent

    assert torch.equal(sent(Choice.ENTROPY, 0), sent(Choice.ENTROPY, 0))
    assert not torch.equal(sent(Choice.ENTROPY, 0), sent(Choice.ENTROPY, 1))
    assert not torch.equal(sent(Choice.ENTROPY, 0), sent(Choice.K_CENTER, 0))


def test_the_least_sure_answers_are_chosen() -> None:
    answers = torch.tensor([[0.9, 0.1], [0.5, 0.5], [1.0, 0.0], [0.6, 0.4]])

    assert sorted(_uncertain(answers, 2).tolist()) == [1, 3]


def test_each_center_is_the_farthest_from_those_before_it() -> None:
    answers = torch.tensor([[0.9, 0.1], [0.1, 0.9], [0.5, 0.5], [0.1, 0.9]])

    assert _apart(answers, torch.tensor([[1.0, 0.0]]), 4).tolist() == [1, 2, 0, 3]
