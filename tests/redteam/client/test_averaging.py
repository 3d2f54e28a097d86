"""Averaging takes noise out of answers, and pays a row for each time it asks."""

import torch

from redteam.client.averaging import Averaging
from tests.helpers import rows
from tests.redteam.oracles import Patient, labels, shares


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
