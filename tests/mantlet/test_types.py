import dataclasses
from typing import Any

import pytest
import torch

from mantlet.types import InputSpec, Kind, Prediction, Query, Signal
from tests.helpers import TinyVictim, probabilities, query, rows

VALUES: list[Any] = [
    InputSpec((1, 4, 4)),
    query(rows(2)),
    probabilities([[0.5, 0.5]]),
    Signal(torch.zeros(1), torch.zeros(1, dtype=torch.bool), "rate"),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_values_are_frozen_and_have_slots(value: Any) -> None:
    field = dataclasses.fields(value)[0].name

    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, field, None)
    assert not hasattr(value, "__dict__")


@pytest.mark.parametrize(("shape", "size"), [((1, 28, 28), 784), ((7,), 7), ((), 1)])
def test_the_size_of_a_row_counts_its_numbers(shape: tuple[int, ...], size: int) -> None:
    assert InputSpec(shape).size == size


def test_a_prediction_shows_no_logits_and_no_features_unless_it_has_them() -> None:
    prediction = Prediction(torch.ones(1, 1), Kind.PROBABILITIES)

    assert prediction.logits is None
    assert prediction.features is None


def test_a_query_names_a_client_for_every_row() -> None:
    asked = Query(["a", "b"], rows(2), 3.0)

    assert len(asked.clients) == len(asked.inputs)


def test_the_victim_of_the_tests_answers_a_row_the_same_in_every_batch() -> None:
    victim, inputs = TinyVictim(), rows(33)
    together = victim.predict(inputs).values
    alone = torch.cat([victim.predict(row[None]).values for row in inputs])

    assert torch.equal(together, alone)
