"""What every defense promises, built in or installed, for every setting its schema allows."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

import defenses
from mantlet import simplex
from mantlet.plugin import Defense, RememberingDefense
from mantlet.types import Kind, Prediction, Query, Signal
from tests.conformance.strategies import one_by_one, rows_of_probabilities, settings_of
from tests.helpers import SETUP, query, rows

KNOWN = defenses.known()
OF_PROBABILITIES = {name: kind for name, kind in KNOWN.items() if Kind.PROBABILITIES in kind.kinds}
every_defense = pytest.mark.parametrize("plugin", KNOWN.values(), ids=KNOWN)
defense_of_probabilities = pytest.mark.parametrize(
    "plugin", OF_PROBABILITIES.values(), ids=OF_PROBABILITIES
)


def load(drawn: Defense) -> Defense:
    drawn.load(SETUP)
    return drawn


def asked(values: Tensor) -> tuple[Prediction, Query, dict[str, Signal]]:
    """A prediction, a query of as many clients, and a detector's signals about them."""
    count = len(values)
    suspicion = torch.linspace(0, 1, count)
    signals = {"foreign": Signal(suspicion, suspicion >= 1.0, "foreign")}
    clients = [f"client {row}" for row in range(count)]
    return (
        Prediction(values, Kind.PROBABILITIES),
        query(rows(count, seed=count), clients, 5.0),
        signals,
    )


@defense_of_probabilities
@given(data=st.data())
def test_rows_stay_on_the_simplex_with_their_top_class(
    plugin: type[Defense], data: st.DataObject
) -> None:
    defense = load(data.draw(settings_of(plugin)))
    values = data.draw(rows_of_probabilities())
    answer = defense(*asked(values))

    assert answer.kind is Kind.PROBABILITIES
    assert answer.values.dtype is values.dtype
    assert answer.values.shape == values.shape
    assert simplex.on_simplex(answer.values)
    if plugin.keeps_top1:
        assert torch.equal(answer.values.argmax(dim=1), values.argmax(dim=1))


@defense_of_probabilities
@given(data=st.data())
def test_rows_that_a_victim_rounded_are_taken_too(
    plugin: type[Defense], data: st.DataObject
) -> None:
    """Upstreams answer sums a little off one, and zeros a little below zero: within the tolerance."""
    defense = load(data.draw(settings_of(plugin)))
    values = data.draw(rows_of_probabilities())
    size = simplex.TOLERANCE / (4 * values.shape[1])
    noise = torch.rand(values.shape, generator=torch.Generator().manual_seed(0))
    rounded = values + size * (2.0 * noise - 1.0)

    answer = defense(*asked(rounded))

    assert simplex.on_simplex(answer.values)


@defense_of_probabilities
@given(data=st.data())
def test_the_same_query_gets_the_same_answer(plugin: type[Defense], data: st.DataObject) -> None:
    """Of this instance, and of another with the same settings, as after a restart."""
    first = load(data.draw(settings_of(plugin)))
    second = load(plugin(**first.model_dump()))
    arguments = asked(data.draw(rows_of_probabilities()))

    assert torch.equal(first(*arguments).values, first(*arguments).values)
    assert torch.equal(first(*arguments).values, second(*arguments).values)


@defense_of_probabilities
@given(data=st.data())
def test_a_row_is_answered_alike_alone_and_in_a_batch(
    plugin: type[Defense], data: st.DataObject
) -> None:
    defense = load(data.draw(settings_of(plugin)))
    arguments = asked(data.draw(rows_of_probabilities()))
    together = defense(*arguments).values
    alone = one_by_one(defense, *arguments)

    assert torch.allclose(together, alone, atol=1e-5)


@defense_of_probabilities
@given(data=st.data(), steps=st.integers(1, 10))
def test_a_change_by_suspicion_stays_on_the_simplex_with_the_top_class(
    plugin: type[Defense], data: st.DataObject, steps: int
) -> None:
    if issubclass(plugin, RememberingDefense):  # what it remembers must be what it answered
        with pytest.raises(ValidationError, match="by_suspicion"):
            plugin(by_suspicion=steps)
        return
    defense = load(plugin(by_suspicion=steps))
    prediction, query, signals = asked(data.draw(rows_of_probabilities()))
    suspicion = signals["foreign"].suspicion
    whole = defense(prediction, query, signals)
    answer = defense.scaled(prediction, whole, suspicion).values

    assert simplex.on_simplex(answer)
    assert torch.equal(answer[suspicion == 0], prediction.values[suspicion == 0])
    if plugin.keeps_top1:
        assert torch.equal(answer.argmax(dim=1), prediction.values.argmax(dim=1))


@defense_of_probabilities
@given(data=st.data())
def test_arguments_are_not_written_into(plugin: type[Defense], data: st.DataObject) -> None:
    defense = load(data.draw(settings_of(plugin)))
    prediction, query, signals = asked(data.draw(rows_of_probabilities()))
    tensors = [prediction.values, query.inputs, *(s.suspicion for s in signals.values())]
    before = [tensor.clone() for tensor in tensors]
    answer = defense(prediction, query, signals)
    answer.values.add_(1.0)  # nor is the answer a view of them

    assert all(torch.equal(b, t) for b, t in zip(before, tensors, strict=True))


@every_defense
@pytest.mark.parametrize(("setting", "value"), [("name", "x"), ("type", "y")])
def test_settings_are_frozen(plugin: type[Defense], setting: str, value: str) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        setattr(plugin(), setting, value)


@every_defense
def test_unknown_settings_are_refused(plugin: type[Defense]) -> None:
    unknown: dict[str, Any] = {"a_setting_that_is_not_there": 1}

    with pytest.raises(ValidationError, match="a_setting_that_is_not_there"):
        plugin(**unknown)


@every_defense
def test_a_defense_says_what_it_is_costs_and_what_undoes_it(plugin: type[Defense]) -> None:
    text = plugin.__doc__ or ""

    assert isinstance(plugin.keeps_top1, bool)
    assert "Cost:" in text
    assert "What undoes it:" in text


@defense_of_probabilities
def test_no_row_of_two_to_a_hundred_classes_is_too_wide(plugin: type[Defense]) -> None:
    defense = load(plugin())

    for classes in range(2, 101):
        uniform = torch.full((1, classes), 1.0 / classes)
        one_hot = simplex.one_hot(torch.tensor([classes - 1]), classes)
        values = torch.cat([uniform, one_hot, torch.softmax(rows(1, shape=(classes,)), dim=1)])
        answer = defense(*asked(values)).values

        assert simplex.on_simplex(answer)
        assert not plugin.keeps_top1 or torch.equal(answer.argmax(1), values.argmax(1))
