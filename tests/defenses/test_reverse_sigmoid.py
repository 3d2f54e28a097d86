import math

import pytest
import torch

from defenses.reverse_sigmoid import ReverseSigmoid
from mantlet.types import Kind, Prediction
from tests.helpers import probabilities, query, rows


def textbook(row: list[float], beta: float, gamma: float) -> list[float]:
    """Equations 3 and 4 of the paper, in plain Python."""
    bent = [y - beta * (1 / (1 + math.exp(-gamma * math.log(y / (1 - y)))) - 0.5) for y in row]
    clipped = [max(y, 0.0) for y in bent]
    return [y / sum(clipped) for y in clipped]


def answered(values: list[list[float]], beta: float = 0.7, gamma: float = 0.2) -> list[list[float]]:
    defense = ReverseSigmoid(beta=beta, gamma=gamma)
    return defense(probabilities(values), query(rows(len(values))), {}).values.tolist()


@pytest.mark.parametrize("row", [[0.6, 0.3, 0.1], [0.4, 0.35, 0.25], [0.5, 0.49, 0.01]])
def test_where_the_label_holds_the_answer_is_the_papers(row: list[float]) -> None:
    expected = textbook(row, 0.3, 0.2)

    assert max(expected) == expected[0], "an example of a row whose label the formula keeps"
    assert answered([row], 0.3) == [pytest.approx(expected, abs=1e-5)]


def test_where_the_formula_flips_the_label_the_row_goes_back_until_it_holds() -> None:
    row = [0.98, 0.015, 0.005]
    flipped = textbook(row, 1.5, 1.0)
    (answer,) = answered([row], 1.5, 1.0)

    assert max(flipped) != flipped[0], "an example of a row that the formula flips"
    assert answer[0] == max(answer)
    assert answer[0] < 0.75, "and it is still far from the clean answer"


def test_one_released_value_comes_from_several_clean_ones() -> None:
    """The released top probability falls while the clean one rises: no thief can invert it."""
    tops = torch.linspace(0.55, 0.999, 200)
    released = [answered([[t, 1 - t]], 0.3, 0.4)[0][0] for t in tops.tolist()]
    steps = torch.tensor(released).diff()

    assert (steps > 1e-5).any()
    assert (steps < -1e-5).any()


def test_one_hot_rows_become_no_nan() -> None:
    (answer,) = answered([[1.0, 0.0, 0.0]])

    assert all(math.isfinite(value) for value in answer)
    assert answer[0] == max(answer)


@pytest.mark.parametrize("seed", range(60))
def test_classes_that_tie_are_parted_alike_alone_and_in_a_batch(seed: int) -> None:
    """Rounding, which differs with the number of rows, does not decide how far a row goes back."""
    generator = torch.Generator().manual_seed(seed)
    flat = torch.softmax(torch.randn(4, 10, generator=generator) * 0.05, dim=1)
    flat[:, torch.randperm(10, generator=generator)[:3]] = flat.amax(dim=1, keepdim=True)
    defense = ReverseSigmoid()

    def released(values: torch.Tensor) -> torch.Tensor:
        prediction = Prediction(values, Kind.PROBABILITIES)
        return defense.apply(prediction, query(rows(len(values))), {}).values

    alone = torch.cat([released(row[None]) for row in flat])

    assert torch.allclose(released(flat), alone, atol=1e-5)
