"""Answers to one query are kept by the place of their row, whoever gave them and whatever failed between."""

import pytest
import torch

from mantlet.errors import TargetError
from redteam.client.answers import Answers
from redteam.client.oracle import Came, Cut, Refused
from tests.helpers import rows
from tests.redteam.oracles import Failing, Patient, shares

HALF = torch.tensor([4, 1])
"""Places that are answered, in the order in which they came."""


def test_what_one_oracle_leaves_open_another_answers() -> None:
    inputs, rest = rows(6), Patient()
    answers = Answers(inputs)
    with pytest.raises(Refused, match="no more") as refusal:
        answers.ask(Failing(Refused("no more"), HALF), answers.open)
    answers.ask(rest, answers.open)

    came = refusal.value.came
    assert came is not None
    assert came.places.tolist() == [1, 4]
    assert torch.equal(came.answers, shares(inputs[[1, 4]]))
    assert torch.equal(torch.cat(rest.asked), inputs[[0, 2, 3, 5]])
    assert torch.equal(answers.whole, shares(inputs))


@pytest.mark.parametrize("why", [TargetError("down"), KeyboardInterrupt()])
def test_a_failure_carries_what_came_before_it(why: BaseException) -> None:
    inputs = rows(6)
    answers = Answers(inputs)
    answers.ask(Patient(), torch.tensor([0]))
    with pytest.raises(Cut) as cut:
        answers.ask(Failing(why, HALF), answers.open)

    assert cut.value.why is why
    assert cut.value.came.places.tolist() == [0, 2, 5], "places 1 and 4 of the five that were open"
    assert torch.equal(cut.value.came.answers, shares(inputs[[0, 2, 5]]))


def test_a_failure_with_nothing_to_carry_is_raised_as_it_is() -> None:
    answers = Answers(rows(3))
    with pytest.raises(TargetError, match="down"):
        answers.ask(Failing(TargetError("down")), answers.open)

    assert answers.came is None
    assert answers.open.tolist() == [0, 1, 2]


def test_answers_are_found_by_their_places() -> None:
    answers = Answers(rows(5))
    answers.keep(Came(torch.tensor([3, 0]), torch.tensor([7, 8])))
    some, none = answers.among(torch.tensor([1, 2, 3])), answers.among(torch.tensor([1, 2]))

    assert some is not None
    assert (some.places.tolist(), some.answers.tolist()) == ([3], [7])
    assert none is None
