"""Accounts answer as one thief: in turn or one after the other, until all are refused."""

import pytest
import torch

from mantlet.errors import TargetError
from redteam.client.accounts import Rotate, Split, Together, Turns
from redteam.client.oracle import Cut, Refused, Withheld
from tests.helpers import rows
from tests.redteam.explainers import Shower
from tests.redteam.oracles import Failing, Patient, labels, shares


def test_rows_are_dealt_in_turn_over_all_queries() -> None:
    accounts = [Patient() for _ in range(3)]
    thief, inputs = Split(accounts), rows(10)
    answers = torch.cat([thief.query(part) for part in torch.split(inputs, 4)])

    assert torch.equal(answers, shares(inputs))
    assert [account.rows for account in accounts] == [4, 3, 3]
    for turn, account in enumerate(accounts):
        assert torch.equal(torch.cat(account.asked), inputs[turn::3])


def test_what_one_account_is_refused_the_others_ask_for() -> None:
    accounts = [Patient(), Patient(most=5), Patient()]
    thief, inputs = Split(accounts), rows(60)
    answers = torch.cat([thief.query(part) for part in torch.split(inputs, 10)])

    assert torch.equal(answers, shares(inputs))
    assert thief.left == 2
    assert thief.rows == sum(account.rows for account in accounts) > 60


def test_whole_queries_go_to_the_accounts_in_turn_and_no_answer_is_lost() -> None:
    accounts = [Patient(), Patient(most=10), Patient(most=20)]
    thief, inputs = Turns(accounts), rows(80)
    answers = torch.cat([thief.query(part) for part in torch.split(inputs, 10)])

    assert torch.equal(answers, shares(inputs))
    assert [len(account.asked) for account in accounts] == [5, 1, 2]
    assert thief.left == 1
    assert thief.floats == 2 * len(inputs), "what came back was passed on"


@pytest.mark.parametrize("kind", [Split, Turns, Rotate])
def test_the_first_account_that_is_given_explanations_brings_them(
    kind: type[Split | Turns | Rotate],
) -> None:
    pictures = rows(3, shape=(1, 28, 28))
    given = Shower()
    told = kind([Patient(), Shower(withholds=True), given]).explain(pictures)

    assert torch.equal(told.maps, Shower().explain(pictures).maps)
    assert given.rows == 3
    with pytest.raises(Withheld, match="not this one"):
        kind([Patient(), Shower(withholds=True)]).explain(pictures)


def test_one_account_is_used_until_it_is_refused() -> None:
    accounts = [Patient(most=25), Patient(most=25), Patient()]
    thief, inputs = Rotate(accounts), rows(60)
    answers = torch.cat([thief.query(part) for part in torch.split(inputs, 10)])

    assert torch.equal(answers, shares(inputs))
    assert [account.rows for account in accounts] == [30, 30, 20]
    assert thief.floats == 120


@pytest.mark.parametrize("kind", [Split, Turns, Rotate])
def test_a_thief_is_refused_when_all_accounts_are(kind: type[Split | Turns | Rotate]) -> None:
    thief = kind([Patient(most=10), Patient(most=10)])
    thief.query(rows(10))

    with pytest.raises(Refused, match="all 2 accounts are refused; the last one: denied after"):
        thief.query(rows(20))
    assert thief.left == 0


@pytest.mark.parametrize("kind", [Split, Turns, Rotate])
def test_labels_go_through(kind: type[Split | Turns | Rotate]) -> None:
    inputs = rows(9)
    thief = kind([Patient(answer=labels), Patient(answer=labels)])

    assert torch.equal(thief.query(inputs), labels(inputs))


def test_all_accounts_are_asked_the_same_and_their_mean_is_the_answer() -> None:
    accounts = [Patient(answer=lambda x, n=n: shares(x) + n) for n in (0.0, 1.0, 5.0)]
    thief, inputs = Together(accounts), rows(4)

    assert torch.allclose(thief.query(inputs), shares(inputs) + 2)
    assert thief.rows == 12


def test_the_mean_is_of_those_who_are_left() -> None:
    accounts = [Patient(), Patient(most=4, answer=lambda x: shares(x) + 1)]
    thief, inputs = Together(accounts), rows(4)
    thief.query(inputs)

    assert torch.allclose(thief.query(inputs), shares(inputs))
    with pytest.raises(Refused, match=r"^refused: "):
        Together([Patient(most=0)]).query(inputs)


PART = torch.tensor([0, 2])
"""Places that an account answers before it is refused."""


@pytest.mark.parametrize("kind", [Split, Turns, Rotate])
def test_what_an_account_answered_before_it_was_refused_is_not_asked_of_the_next(
    kind: type[Split | Turns | Rotate],
) -> None:
    last, inputs = Patient(), rows(8)
    thief = kind([Failing(Refused("no"), PART), last])

    assert torch.equal(thief.query(inputs), shares(inputs))
    assert last.rows == 6


@pytest.mark.parametrize("kind", [Split, Turns, Rotate])
def test_the_last_refusal_brings_what_all_were_told(kind: type[Split | Turns | Rotate]) -> None:
    inputs = rows(8)
    with pytest.raises(Refused, match="all 2 accounts") as refusal:
        kind([Failing(Refused("no"), PART), Failing(Refused("no"), PART)]).query(inputs)

    came = refusal.value.came
    assert came is not None
    assert len(came.places) == 4
    assert torch.equal(came.answers, shares(inputs[came.places]))


@pytest.mark.parametrize("kind", [Split, Turns, Rotate])
def test_a_target_that_fails_is_no_refusal_of_an_account(
    kind: type[Split | Turns | Rotate],
) -> None:
    thief = kind([Failing(TargetError("down"), PART), Patient()])
    with pytest.raises(Cut, match="down") as cut:
        thief.query(rows(8))

    assert len(cut.value.came.places) == 2
    assert thief.left == 2
