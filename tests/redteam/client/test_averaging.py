"""Averaging takes noise out of answers, and pays a row for each time it asks."""

import pytest
import torch

from redteam.client.averaging import Averaging
from redteam.client.oracle import Refused
from tests.helpers import rows
from tests.redteam.oracles import Failing, Patient, labels, shares


def averaging(oracle: Patient, *, times: int, jitter: float = 0.0) -> Averaging:
    return Averaging(oracle, times=times, jitter=jitter, generator=torch.Generator().manual_seed(0))


def test_the_mean_of_noisy_answers_comes_near_the_clean_one() -> None:
    noise = torch.Generator().manual_seed(1)

    def noisy(inputs: torch.Tensor) -> torch.Tensor:
        return shares(inputs) + 0.1 * torch.randn(len(inputs), 2, generator=noise)

    inputs, errors = rows(20), {}
    for times in (1, 100):
        answers = averaging(Patient(answer=noisy), times=times).query(inputs)
        errors[times] = float((answers - shares(inputs)).abs().mean())

    assert errors[100] < errors[1] / 5


def test_every_time_is_counted() -> None:
    oracle = Patient()
    thief = averaging(oracle, times=7)
    thief.query(rows(3))

    assert (thief.rows, thief.floats) == (21, 42)


def test_jitter_makes_every_repeat_another_row_within_range() -> None:
    oracle = Patient()
    averaging(oracle, times=5, jitter=0.05).query(rows(4))
    (asked,) = oracle.asked

    assert len(asked.unique(dim=0)) == 20
    assert 0 <= float(asked.min()) <= float(asked.max()) <= 1
    assert float((asked[:4] - rows(4)).std()) < 0.06


def test_labels_are_voted_on() -> None:
    turns = iter([1, 0, 1])

    def fickle(inputs: torch.Tensor) -> torch.Tensor:
        votes = torch.tensor([next(turns) for _ in range(3)])
        return torch.repeat_interleave(votes, len(inputs) // 3)

    answers = averaging(Patient(answer=fickle), times=3).query(rows(4))

    assert answers.tolist() == [1, 1, 1, 1]
    assert averaging(Patient(answer=labels), times=1).query(rows(2)).dtype == torch.int64


def test_pictures_are_averaged_too() -> None:
    turns = iter([0.0, 0.25, 0.5, 0.75, 1.0])

    def fickle(inputs: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.full((2, 1, 4, 4), next(turns)) for _ in range(5)])

    answers = averaging(Patient(answer=fickle), times=5).query(rows(2))

    assert torch.allclose(answers, torch.full((2, 1, 4, 4), 0.5))


def test_rows_of_a_refused_query_are_told_by_the_times_that_were_answered() -> None:
    refused, inputs = Failing(Refused("no"), torch.tensor([0, 3, 5])), rows(3)
    with pytest.raises(Refused, match="no") as refusal:
        averaging(refused, times=2).query(inputs)

    came = refusal.value.came
    assert came is not None
    assert came.places.tolist() == [0, 2], "the first row twice and the last one once"
    assert torch.allclose(came.answers, shares(inputs[[0, 2]]))
