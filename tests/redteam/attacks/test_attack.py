"""What every attack may rely on: a budget never exceeded, loot that is kept, and answers of one form."""

from typing import Literal

import pytest
import torch
from torch import Tensor

from mantlet.errors import ConfigError
from redteam.attacks.attack import Attack, Ended, Ledger
from redteam.learning import Means, answers_of
from redteam.treatments.labels import Labels
from tests.redteam.thieves import QUICK, SHORT, Teller, agreement, bands, pictures, stolen


class Whole(Attack):
    """Sends its pool in one go."""

    type: Literal["whole"] = "whole"

    def steal(self, ledger: Ledger, means: Means, generator: torch.Generator) -> None:
        ledger.ask(means.pool)


WHOLE = Whole(training=SHORT)
FAST = Whole(training=QUICK)


def test_the_budget_is_spent_to_the_row_and_never_exceeded() -> None:
    oracle = Teller()
    loot = stolen(FAST, oracle, budget=300, pool=pictures(500))

    assert [len(query) for query in oracle.queries] == [256, 44]
    assert loot.rows == oracle.rows == 300
    assert loot.ended == "budget spent"
    assert loot.transfer is not None
    assert torch.equal(loot.transfer.inputs, oracle.sent)


def test_rows_that_an_oracle_answered_before_do_not_count() -> None:
    oracle = Teller()
    oracle.query(pictures(70))

    assert stolen(FAST, oracle, budget=100).rows == 100


def test_a_refusal_midway_keeps_what_was_answered_and_a_clone_learns_from_it() -> None:
    oracle = Teller(rows_until_denied=250)
    attack = WHOLE.model_copy(update={"request": 50})
    loot = stolen(attack, oracle, budget=400)

    assert loot.rows == 300  # the refused query was sent
    assert loot.ended == "denied after 300 rows"
    assert loot.transfer is not None
    assert len(loot.transfer) == 250
    assert agreement(loot) > 0.4


def test_a_thief_denied_at_once_has_an_untrained_clone() -> None:
    loot = stolen(FAST, Teller(rows_until_denied=0), budget=50)

    assert loot.transfer is None
    assert agreement(loot) < 0.3


def test_labels_become_probabilities_of_one() -> None:
    loot = stolen(FAST, Teller(lambda inputs: bands(inputs).argmax(dim=1)), budget=30)

    assert loot.transfer is not None
    assert loot.transfer.answers.shape == (30, 10)
    assert torch.equal(loot.transfer.answers.sum(dim=1), torch.ones(30))
    assert torch.equal(
        loot.transfer.answers.argmax(dim=1), bands(loot.transfer.inputs).argmax(dim=1)
    )


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda inputs: inputs, r"answers \(30, 1, 28, 28\) to 30 rows; .* name a classifier"),
        (lambda inputs: bands(inputs)[:, :4], r"answers \(30, 4\)"),
        (lambda inputs: bands(inputs)[1:], r"answers \(29, 10\)"),
        (lambda inputs: bands(inputs) / 0 * 0, "not finite"),
        (lambda inputs: torch.full((len(inputs),), 12), "label 12, the clone has 10"),
    ],
)
def test_answers_that_nothing_can_be_learned_from_are_told(answer: object, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        stolen(FAST, Teller(answer), budget=30)  # type: ignore[arg-type]  # a table of functions


def test_an_attack_that_needs_pictures_says_so() -> None:
    with pytest.raises(ConfigError, match="'whole' has no pictures"):
        stolen(FAST, Teller(), budget=30, pool=torch.zeros(0, 1, 28, 28))


def test_rows_that_are_not_kept_are_not_learned_from() -> None:
    ledger = Ledger(Teller(), 50)
    ledger.ask(pictures(20), keep=False)

    assert (ledger.rows, ledger.left, ledger.transfer) == (20, 30, None)


def test_with_nothing_left_nothing_is_sent() -> None:
    oracle = Teller()
    ledger = Ledger(oracle, 20)
    ledger.ask(pictures(20))
    with pytest.raises(Ended, match="budget spent"):
        ledger.ask(pictures(1))

    assert oracle.rows == 20


def test_an_oracle_that_sends_every_row_twice_ends_with_the_budget() -> None:
    class Twice(Teller):
        def query(self, inputs: Tensor) -> Tensor:
            super().query(inputs)
            return super().query(inputs)

    ledger = Ledger(Twice(), 50, request=10)
    with pytest.raises(Ended):
        ledger.ask(pictures(40))
    with pytest.raises(Ended):
        ledger.ask(pictures(40))

    assert (ledger.rows, ledger.left) == (60, 0)  # the request that was under way is finished


def test_progress_tells_how_many_rows_of_the_budget_were_sent() -> None:
    told: list[tuple[int, int]] = []
    ledger = Ledger(Teller(), 100, request=40, progress=lambda *now: told.append(now))
    ledger.ask(pictures(90))

    assert told == [(40, 100), (80, 100), (90, 100)]


def test_a_clone_learns_from_treated_answers() -> None:
    def unsure(inputs: Tensor) -> Tensor:
        return 0.02 * bands(inputs) + 0.98 / 10

    sure = []
    for treatments in ((), (Labels(),)):
        attack = WHOLE.model_copy(update={"treatments": treatments})
        clone = stolen(attack, Teller(unsure), budget=400).clone
        sure.append(float(answers_of(clone, pictures(50, seed=5)).amax(dim=1).mean()))

    assert sure[0] < 0.2
    assert sure[1] > 0.35


def test_the_same_seed_brings_home_the_same_clone() -> None:
    weights = [
        next(stolen(FAST, Teller(), budget=60, seed=seed).clone.parameters()) for seed in (0, 0, 1)
    ]

    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
