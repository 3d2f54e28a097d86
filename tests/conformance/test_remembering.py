"""What every defense that remembers promises beyond what all defenses do."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import defenses
from mantlet.plugin import RememberingDefense
from mantlet.types import Kind, Prediction, State
from serving.stores.base import pack, unpack
from tests.conformance.strategies import rows_of_probabilities, settings_of
from tests.helpers import SETUP

REMEMBERING = {n: d for n, d in defenses.known().items() if issubclass(d, RememberingDefense)}
every_one = pytest.mark.parametrize("plugin", REMEMBERING.values(), ids=REMEMBERING)
STREAMS = rows_of_probabilities(max_rows=24, max_classes=5)


def drawn(plugin: type[RememberingDefense], data: st.DataObject) -> RememberingDefense:
    defense: RememberingDefense = data.draw(settings_of(plugin))
    defense.load(SETUP)
    return defense


def folded(
    defense: RememberingDefense, values: Tensor, sizes: list[int], state: State | None = None
) -> tuple[State, Tensor]:
    """The state after a stream in batches of ``sizes``, and its answers."""
    state, parts = state or defense.initial(), []
    for part in values.split(sizes):
        state, answers = defense.answer(state, part)
        parts.append(answers)
    return state, torch.cat(parts)


def same(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


@every_one
@given(data=st.data())
def test_answers_do_not_depend_on_how_the_stream_is_cut(
    plugin: type[RememberingDefense], data: st.DataObject
) -> None:
    defense, values = drawn(plugin, data), data.draw(STREAMS)
    cut = data.draw(st.integers(0, len(values)))
    whole, answers = folded(defense, values, [len(values)])
    one_by_one, alone = folded(defense, values, [1] * len(values))
    halves, parts = folded(defense, values, [n for n in (cut, len(values) - cut) if n])

    assert same(whole, one_by_one)
    assert same(whole, halves)
    assert torch.allclose(answers, alone, atol=1e-6)
    assert torch.allclose(answers, parts, atol=1e-6)


@every_one
@given(data=st.data())
def test_the_same_row_gets_the_same_answer_for_good(
    plugin: type[RememberingDefense], data: st.DataObject
) -> None:
    defense, values = drawn(plugin, data), data.draw(STREAMS)
    state, first = folded(defense, values, [len(values)])
    order = torch.randperm(len(values), generator=torch.Generator().manual_seed(0))
    after, again = folded(defense, values[order], [1] * len(values), state)

    assert torch.equal(again, first[order])
    assert same(after, state)


@every_one
@given(data=st.data())
def test_nobody_is_answered_otherwise_for_what_others_ask(
    plugin: type[RememberingDefense], data: st.DataObject
) -> None:
    defense, values = drawn(plugin, data), data.draw(STREAMS)
    clients = data.draw(st.lists(st.sampled_from("ab"), min_size=len(values), max_size=len(values)))
    states: dict[str, State] = {}
    prediction = Prediction(values, Kind.PROBABILITIES)
    together = defense.recall(prediction, clients, states).values
    for client in set(clients):
        own = torch.tensor([name == client for name in clients])
        state, alone = defense.answer(defense.initial(), values[own])

        assert same(states[client], state)
        assert torch.allclose(together[own], alone, atol=1e-6)


@every_one
@given(data=st.data())
def test_the_state_is_arrays_and_comes_back_from_the_store(
    plugin: type[RememberingDefense], data: st.DataObject
) -> None:
    defense, values = drawn(plugin, data), data.draw(STREAMS)
    state, answers = folded(defense, values, [len(values)])
    returned = unpack(pack({"kept": state}))["kept"]

    assert same(returned, state)
    assert torch.equal(folded(defense, values, [len(values)], returned)[1], answers)


@every_one
def test_a_client_costs_four_kilobytes_at_most_by_default(plugin: type[RememberingDefense]) -> None:
    defense = plugin()
    defense.load(SETUP)
    random = np.random.default_rng(0).dirichlet(np.full(10, 0.3), size=20_000)
    state, _ = folded(defense, torch.from_numpy(random).float(), [2000] * 10)

    assert len(pack({"kept": state})) <= 4096


@every_one
@given(data=st.data())
def test_arguments_are_not_written_into(
    plugin: type[RememberingDefense], data: st.DataObject
) -> None:
    defense, values = drawn(plugin, data), data.draw(STREAMS)
    state, _ = folded(defense, values, [len(values)])
    before, rows_before = {k: v.copy() for k, v in state.items()}, values.clone()
    folded(defense, values.flip(1), [len(values)], state)

    assert same(state, before)
    assert torch.equal(values, rows_before)
