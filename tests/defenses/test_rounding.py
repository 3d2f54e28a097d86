import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from defenses.rounding import Rounding
from tests.conformance.strategies import rows_of_probabilities
from tests.helpers import probabilities, query, rows


def rounded(values: list[list[float]], decimals: int) -> list[list[float]]:
    clean = probabilities(values)
    return Rounding(decimals=decimals)(clean, query(rows(len(values))), {}).values.tolist()


@given(rows_of_probabilities(), st.integers(1, 6))
def test_values_are_whole_units_that_sum_to_one(values: Tensor, decimals: int) -> None:
    units = 10**decimals
    answer = Rounding(decimals=decimals)(
        probabilities(values.tolist()), query(rows(len(values))), {}
    )
    scaled = answer.values.double() * units

    assert torch.allclose(scaled, scaled.round(), atol=1e-6 * units)
    assert torch.equal(scaled.round().sum(dim=1), torch.full((len(values),), float(units)).double())


@given(rows_of_probabilities(), st.integers(1, 6))
def test_no_value_moves_by_more_than_two_units(values: Tensor, decimals: int) -> None:
    answer = Rounding(decimals=decimals)(
        probabilities(values.tolist()), query(rows(len(values))), {}
    )
    moved = (answer.values.double() - values.double()).abs().max() * 10**decimals

    assert moved <= 2.0 + 1e-3


def test_missing_units_go_to_the_largest_remainders() -> None:
    assert rounded([[0.26, 0.26, 0.48]], 1) == [pytest.approx([0.3, 0.2, 0.5])]


def test_a_top_class_that_rounding_would_tie_with_an_earlier_one_gets_a_unit() -> None:
    assert rounded([[0.304, 0.4, 0.296]], 2)[0][1] == pytest.approx(0.4)
    assert rounded([[0.46, 0.47, 0.07]], 1) == [pytest.approx([0.4, 0.5, 0.1])]
    assert rounded([[0.4999, 0.5001]], 1) == [pytest.approx([0.4, 0.6])]


@pytest.mark.parametrize("classes", [11, 50, 100])
def test_a_unit_is_enough_where_there_are_more_classes_than_units(classes: int) -> None:
    values = torch.full((1, classes), 1.0 / classes)
    values[0, classes - 1] += 1e-4
    values /= values.sum()
    answer = rounded(values.tolist(), 1)[0]

    assert max(range(classes), key=answer.__getitem__) == classes - 1
    assert sum(answer) == pytest.approx(1.0)
