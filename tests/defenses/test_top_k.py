import pytest
import torch

from defenses.top_k import TopK
from tests.helpers import probabilities, query, rows


def answered(values: list[list[float]], k: int) -> torch.Tensor:
    return TopK(k=k)(probabilities(values), query(rows(len(values))), {}).values


def test_only_the_largest_probabilities_are_left_in_their_proportions() -> None:
    values = answered([[0.1, 0.4, 0.2, 0.3]], 2)

    assert values[0].tolist() == pytest.approx([0.0, 4 / 7, 0.0, 3 / 7])


def test_more_classes_than_there_are_changes_nothing() -> None:
    clean = [[0.1, 0.4, 0.2, 0.3]]

    assert answered(clean, 9)[0].tolist() == pytest.approx(clean[0])


def test_of_equal_probabilities_the_one_that_arg_max_names_is_kept() -> None:
    values = answered([[0.25, 0.25, 0.25, 0.25]] * 50, 1)

    assert (values.argmax(dim=1) == 0).all()
    assert ((values > 0).sum(dim=1) <= 2).all()


def test_a_single_class_gets_all() -> None:
    assert answered([[0.2, 0.5, 0.3]], 1).tolist() == [[0.0, 1.0, 0.0]]
