"""One NaN or infinity among many numbers, wherever it is and whatever holds them."""

import math

import numpy as np
import pytest
import torch

from mantlet.finite import all_finite
from tests.helpers import rows


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 700, 1567])
def test_one_number_that_is_not_finite_is_found(value: float, place: int) -> None:
    pictures = rows(2, shape=(1, 28, 28))
    assert all_finite(pictures)
    assert all_finite(pictures.numpy())

    pictures.view(-1)[place] = value

    assert not all_finite(pictures)
    assert not all_finite(pictures.numpy())


def test_infinities_that_cancel_are_found() -> None:
    assert not all_finite(torch.tensor([math.inf, -math.inf, 0.0]))


def test_large_numbers_are_finite_though_their_sum_is_not() -> None:
    assert all_finite(torch.full((4,), 3e38))


@pytest.mark.parametrize("part", [complex(0, math.nan), complex(math.inf, 0)])
def test_either_part_of_a_complex_number_counts(part: complex) -> None:
    assert not all_finite(torch.tensor([0j, part]))
    assert all_finite(torch.tensor([0j, 1 + 1j]))


def test_integers_and_nothing_at_all_are_finite() -> None:
    assert all_finite(np.arange(3))
    assert all_finite(torch.zeros(0, 10))


def test_numbers_of_a_graph_are_looked_at() -> None:
    assert all_finite(torch.ones(3, requires_grad=True) * 2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_floats_of_every_width_are_looked_at(dtype: torch.dtype) -> None:
    assert all_finite(torch.ones(3, dtype=dtype))
    assert not all_finite(torch.tensor([1.0, math.nan], dtype=dtype))
