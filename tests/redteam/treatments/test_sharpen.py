"""A temperature on answers."""

import torch

from redteam.learning import Means, Transfer
from redteam.treatments.sharpen import Sharpen


def treated(answer: list[float], temperature: float) -> torch.Tensor:
    inputs = torch.zeros(1, 1, 28, 28)
    transfer = Transfer(inputs, torch.tensor([answer]))
    return (
        Sharpen(temperature=temperature).apply(transfer, Means(inputs), torch.Generator()).answers
    )


def test_half_the_temperature_squares_the_answers() -> None:
    expected = torch.tensor([[0.36, 0.09, 0.01]]) / 0.46

    torch.testing.assert_close(treated([0.6, 0.3, 0.1], 0.5), expected)


def test_it_undoes_the_temperature_that_flattened() -> None:
    clean = torch.tensor([[0.7, 0.2, 0.1]])
    flat = torch.softmax(clean.log() / 4, dim=1)

    torch.testing.assert_close(treated(flat[0].tolist(), 0.25), clean)


def test_zeros_stay_next_to_nothing() -> None:
    assert treated([1.0, 0.0, 0.0], 1.0)[0, 1:].max() < 1e-9
