import torch
from hypothesis import given
from torch import Tensor

from defenses.label_only import LabelOnly
from tests.conformance.strategies import rows_of_probabilities
from tests.helpers import probabilities, query, rows


@given(rows_of_probabilities())
def test_nothing_but_the_label_is_left(values: Tensor) -> None:
    answer = LabelOnly()(probabilities(values.tolist()), query(rows(len(values))), {}).values

    assert set(answer.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(answer.argmax(dim=1), values.argmax(dim=1))


def test_two_rows_of_one_label_cannot_be_told_apart() -> None:
    clean = probabilities([[0.5, 0.3, 0.2], [0.9, 0.05, 0.05]])
    answer = LabelOnly()(clean, query(rows(2)), {}).values

    assert torch.equal(answer[0], answer[1])
