import math

import pytest
import torch
from hypothesis import given
from torch import Tensor

from mantlet import simplex
from tests.conformance.strategies import rows_of_probabilities


@pytest.mark.parametrize(
    "values",
    [
        [[0.5, 0.6]],
        [[1.5, -0.5]],
        [[0.5, 0.5], [math.nan, 1.0]],
        [[math.inf, -math.inf]],
        [[math.inf, 0.0]],
        [[0.5, 0.5], [0.0, 0.0]],
    ],
)
def test_what_is_off_the_simplex_is_seen(values: list[list[float]]) -> None:
    assert not simplex.on_simplex(torch.tensor(values))


@pytest.mark.parametrize("shape", [(3,), (2, 2, 2), (0, 4), (4, 0)])
def test_only_rows_of_classes_can_be_on_the_simplex(shape: tuple[int, ...]) -> None:
    assert not simplex.on_simplex(torch.zeros(shape))


@given(rows_of_probabilities())
def test_probabilities_are_on_the_simplex(values: Tensor) -> None:
    assert simplex.on_simplex(values)


def test_the_tolerance_is_for_rounding_and_no_more() -> None:
    exact = torch.tensor([[0.25, 0.75]])

    assert simplex.on_simplex(exact + simplex.TOLERANCE / 4)
    assert not simplex.on_simplex(exact + simplex.TOLERANCE)


@given(rows_of_probabilities())
def test_normalizing_probabilities_changes_next_to_nothing(values: Tensor) -> None:
    assert torch.allclose(simplex.normalize(values), values, atol=2e-6)


def test_normalizing_clips_scales_and_makes_zeros_uniform() -> None:
    values = torch.tensor([[2.0, -1.0, 2.0, 0.0], [0.0, 0.0, 0.0, 0.0], [-1.0, -2.0, -3.0, -4.0]])
    expected = torch.tensor([[0.5, 0.0, 0.5, 0.0], [0.25] * 4, [0.25] * 4])

    assert torch.equal(simplex.normalize(values), expected)


def test_normalizing_keeps_a_nan_so_that_it_is_refused() -> None:
    values = simplex.normalize(torch.tensor([[math.nan, 0.5], [0.5, 0.5]]))

    assert not simplex.on_simplex(values)


def test_one_hot_rows_are_vertices_with_the_label_on_top() -> None:
    labels = torch.tensor([2, 0, 1])
    values = simplex.one_hot(labels, 3)

    assert values.dtype is torch.float32
    assert torch.equal(values.argmax(dim=1), labels)
    assert torch.equal(values.sum(dim=1), torch.ones(3))


@given(rows_of_probabilities())
def test_a_blend_keeps_the_top_class_and_stays_on_the_simplex(clean: Tensor) -> None:
    altered = clean.roll(1, dims=1)
    blended = simplex.blend_to_keep_top1(clean, altered)

    assert torch.equal(blended.argmax(dim=1), clean.argmax(dim=1))
    assert simplex.on_simplex(blended)


def test_a_blend_moves_only_rows_that_lost_their_top_class_and_no_further_than_needed() -> None:
    clean = torch.tensor([[0.6, 0.4], [0.6, 0.4]])
    altered = torch.tensor([[0.51, 0.49], [0.2, 0.8]])
    blended = simplex.blend_to_keep_top1(clean, altered)

    assert torch.equal(blended[0], altered[0])
    assert 0.5 < float(blended[1, 0]) < 0.501
