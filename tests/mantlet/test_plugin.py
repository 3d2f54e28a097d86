"""The bases: what is checked of every plug-in whatever it does; the conformance suite runs the rest."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from pydantic import PrivateAttr, ValidationError
from torch import Tensor

from detectors.rate import Rate
from mantlet.errors import PluginError
from mantlet.plugin import Defense, InputDefense, RememberingDefense
from mantlet.types import Kind, Prediction, Query, Signal, State
from tests.helpers import SETUP, probabilities, query, rows

CLEAN = probabilities([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])
QUERY = query(rows(2))


class Scripted(Defense):
    """Answers what a test tells it to."""

    type: Literal["scripted"] = "scripted"
    keeps_top1 = False

    _answers: list[Callable[[Prediction], Prediction]] = PrivateAttr(default_factory=list)

    def apply(
        self, prediction: Prediction, query: Query, signals: Mapping[str, Signal]
    ) -> Prediction:
        return self._answers[-1](prediction)


class Keeping(Scripted):
    """The same, and it declares that it keeps the top class."""

    keeps_top1 = True


def scripted(
    answer: Callable[[Prediction], Prediction], kind: type[Scripted] = Scripted
) -> Scripted:
    defense = kind(name="mine")
    defense._answers.append(answer)
    return defense


def with_values(values: object) -> Callable[[Prediction], Prediction]:
    return lambda clean: replace(clean, values=torch.tensor(values))


def raises(clean: Prediction) -> Prediction:
    raise ZeroDivisionError("a secret of the plug-in")


BROKEN: dict[str, tuple[Callable[[Prediction], Prediction], str]] = {
    "raises": (raises, "raised ZeroDivisionError"),
    "nan": (with_values([[math.nan, 0.5, 0.5], [0.1, 0.3, 0.6]]), "no probabilities"),
    "infinity": (with_values([[math.inf, 0.0, 0.0], [0.1, 0.3, 0.6]]), "no probabilities"),
    "sum": (with_values([[0.7, 0.7, 0.7], [0.1, 0.3, 0.6]]), "no probabilities"),
    "negative": (with_values([[1.2, -0.2, 0.0], [0.1, 0.3, 0.6]]), "no probabilities"),
    "a class less": (with_values([[0.7, 0.3], [0.4, 0.6]]), r"returned probabilities \(2, 2\)"),
    "a row less": (with_values([[0.7, 0.2, 0.1]]), r"for probabilities \(2, 3\)"),
    "kind": (lambda clean: replace(clean, kind=Kind.IMAGES), "returned images"),
    "nothing": (lambda clean: None, "returned a NoneType"),  # type: ignore[arg-type, return-value]
    "a tensor": (lambda clean: clean.values, "returned a Tensor"),  # type: ignore[arg-type, return-value]
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_defense_that_breaks_its_promise_raises_and_names_itself(name: str) -> None:
    answer, words = BROKEN[name]

    with pytest.raises(PluginError, match=f"defense 'mine' .*{words}"):
        scripted(answer)(CLEAN, QUERY, {})


def test_the_error_does_not_repeat_what_the_plugin_said() -> None:
    """A plug-in's message may hold inputs; the cause is kept for the traceback."""
    with pytest.raises(PluginError) as caught:
        scripted(raises)(CLEAN, QUERY, {})

    assert "a secret of the plug-in" not in str(caught.value)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_defense_that_declares_the_top_class_and_changes_it_is_caught() -> None:
    swapped = with_values([[0.2, 0.7, 0.1], [0.1, 0.3, 0.6]])

    with pytest.raises(PluginError, match="keeps the top class and changed it"):
        scripted(swapped, Keeping)(CLEAN, QUERY, {})


def test_a_defense_that_declares_nothing_may_change_the_top_class() -> None:
    swapped = scripted(with_values([[0.2, 0.7, 0.1], [0.1, 0.3, 0.6]]))

    assert swapped(CLEAN, QUERY, {}).values[0].argmax() == 1


@pytest.mark.parametrize(
    ("suspicion", "share"), [(0.0, 0.0), (0.24, 0.0), (0.25, 0.25), (0.99, 0.75), (1.0, 1.0)]
)
def test_a_change_by_suspicion_is_taken_in_steps(suspicion: float, share: float) -> None:
    altered = replace(CLEAN, values=torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.2, 0.6]]))
    defense = Keeping(by_suspicion=4)
    scaled = defense.scaled(CLEAN, altered, torch.full((2,), suspicion)).values

    assert torch.allclose(scaled, (1 - share) * CLEAN.values + share * altered.values)


def test_a_change_by_suspicion_keeps_a_top_class_that_leads_by_a_rounding_error() -> None:
    """Halfway between two answers with one top class, that class ties with the one before it."""
    low, high = 0.33333414793014526, 0.3785969316959381
    clean, altered = (probabilities([[v, v + 3e-8, 1 - 2 * v - 3e-8]]) for v in (low, high))
    scaled = Keeping(by_suspicion=2).scaled(clean, altered, torch.full((1,), 0.5)).values

    assert clean.values.argmax() == altered.values.argmax() == 1
    assert torch.lerp(clean.values, altered.values, 0.5).argmax() == 0
    assert scaled.argmax() == 1


def test_without_steps_a_change_is_whole_for_everybody() -> None:
    altered = replace(CLEAN, values=CLEAN.values.flip(1))

    assert Scripted().scaled(CLEAN, altered, torch.zeros(2)) is altered


def test_pictures_are_changed_by_suspicion_too() -> None:
    clean, altered = (Prediction(torch.full((2, 3, 4, 4), v), Kind.IMAGES) for v in (0.0, 1.0))
    scaled = Keeping(by_suspicion=1).scaled(clean, altered, torch.tensor([0.9, 1.0])).values

    assert scaled.mean(dim=(1, 2, 3)).tolist() == [0.0, 1.0]


class Counting(RememberingDefense):
    """Answers with the number of the row in the client's life, as a share of ten."""

    type: Literal["counting"] = "counting"
    keeps_top1 = False

    def initial(self) -> State:
        return {"rows": np.zeros(1, np.int64)}

    def answer(self, state: State, rows: Tensor) -> tuple[State, Tensor]:
        numbers = state["rows"][0] + torch.arange(1, len(rows) + 1)
        first = (numbers / 10).unsqueeze(1)
        values = torch.cat([first, 1 - first, torch.zeros_like(first)], dim=1)
        return {"rows": state["rows"] + len(rows)}, values


def test_a_defense_that_remembers_has_a_state_for_each_client() -> None:
    states: dict[str, State] = {"ann": {"rows": np.array([4])}}
    clean = probabilities([[0.7, 0.2, 0.1]] * 3)
    answer = Counting().recall(clean, ["ann", "bob", "ann"], states)

    assert answer.values[:, 0].tolist() == pytest.approx([0.5, 0.1, 0.6])
    assert {client: int(state["rows"][0]) for client, state in states.items()} == {
        "ann": 6,
        "bob": 1,
    }


def test_a_defense_that_remembers_answers_as_a_function_whom_it_never_saw() -> None:
    answer = Counting()(CLEAN, QUERY, {})

    assert answer.values[:, 0].tolist() == pytest.approx([0.1, 0.2])


@pytest.mark.parametrize("answer", [torch.zeros(1, 3), torch.zeros(2, 2), torch.full((2, 3), 0.4)])
def test_a_defense_that_remembers_is_checked_as_others_are(answer: Tensor) -> None:
    class Broken(Counting):
        def answer(self, state: State, rows: Tensor) -> tuple[State, Tensor]:
            return state, answer

    with pytest.raises(PluginError, match="defense 'counting'"):
        Broken().recall(CLEAN, QUERY.clients, {})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.01, 1.01])
def test_one_pixel_that_is_none_is_refused(value: float) -> None:
    pictures = Prediction(torch.zeros(2, 1, 2, 2), Kind.IMAGES)
    values = pictures.values.clone()
    values[1, 0, 1, 0] = value

    with pytest.raises(PluginError, match=r"returned pixels from .*; wanted 0 to 1"):
        scripted(lambda clean: replace(clean, values=values))(pictures, QUERY, {})


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_one_number_of_a_map_that_is_not_finite_is_refused(value: float) -> None:
    maps = Prediction(torch.full((2, 4), 7.0), Kind.ATTRIBUTIONS)
    values = maps.values.clone()
    values[1, 2] = value

    assert scripted(lambda clean: clean)(maps, QUERY, {}) is maps
    with pytest.raises(PluginError, match="values that are not finite"):
        scripted(lambda clean: replace(clean, values=values))(maps, QUERY, {})


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int64])
def test_numbers_of_another_type_are_refused(dtype: torch.dtype) -> None:
    """They cannot be put beside the rows of clients at another level, nor on the wire."""
    corner = torch.eye(3)[CLEAN.values.argmax(dim=1)]

    with pytest.raises(PluginError, match=f"returned {dtype} for torch.float32"):
        scripted(lambda clean: replace(clean, values=corner.to(dtype)))(CLEAN, QUERY, {})


class Rewriting(InputDefense):
    """Asks what a test tells it to."""

    type: Literal["rewriting"] = "rewriting"

    _rewrites: list[Callable[[Query], Tensor]] = PrivateAttr(default_factory=list)

    def rewrite(self, query: Query) -> Tensor:
        return self._rewrites[-1](query)


@pytest.mark.parametrize(
    ("rewrite", "words"),
    [
        (raises, "raised ZeroDivisionError"),
        (lambda query: query.inputs[:1], "rows of another shape"),
        (lambda query: query.inputs.numpy(), "rows of another shape"),
        (lambda query: query.inputs.double(), "rows of another shape or type"),
        (lambda query: query.inputs / 0, "values that are not finite"),
    ],
)
def test_an_input_defense_that_breaks_its_promise_raises_and_names_itself(
    rewrite: Any, words: str
) -> None:
    defense = Rewriting(name="mine")
    defense._rewrites.append(rewrite)

    with pytest.raises(PluginError, match=f"^input defense 'mine' .*{words}") as caught:
        defense(QUERY)
    assert "secret" not in str(caught.value)


def test_pictures_need_not_sum_to_one() -> None:
    pictures = Prediction(torch.full((2, 1, 2, 2), 0.5), Kind.IMAGES)

    assert scripted(lambda clean: clean)(pictures, QUERY, {}) is pictures


def test_the_name_of_a_plugin_is_its_type_unless_given() -> None:
    assert (Rate().name, Rate(name="monthly").name) == ("rate", "monthly")


def test_settings_cannot_be_changed_and_unknown_ones_are_refused() -> None:
    rate = Rate()

    with pytest.raises(ValidationError, match="frozen"):
        rate.rows = 5  # type: ignore[misc]  # that is the test
    with pytest.raises(ValidationError, match="rws"):
        Rate(rws=5)  # type: ignore[call-arg]  # that is the test


def test_a_plugin_that_needs_nothing_loads_without_work() -> None:
    defense = scripted(lambda clean: clean)
    defense.load(SETUP)

    assert defense(CLEAN, QUERY, {}) is CLEAN


def test_a_detector_has_nothing_to_learn_unless_it_says_so() -> None:
    rate = Rate()

    assert rate.calibrate(QUERY, CLEAN) == {}
    assert rate.enforces
    assert not rate.needs_calibration
