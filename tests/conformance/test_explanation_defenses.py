"""What every defense of explanations promises, for every setting its schema allows."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import defenses
from mantlet.plugin import Defense, RememberingDefense, Setup
from mantlet.types import Kind, Prediction, Query, Signal
from tests.conformance.strategies import one_by_one, settings_of
from tests.helpers import SETUP, rows

KNOWN = {name: kind for name, kind in defenses.known().items() if Kind.ATTRIBUTIONS in kind.kinds}
SHAPES = ((1, 4, 4), (3, 8, 8), (1, 28, 28), (2, 5, 7), (16,), (1,))
every_defense = pytest.mark.parametrize("plugin", KNOWN.values(), ids=KNOWN)


@st.composite
def maps(draw: st.DrawFn) -> Tensor:
    """(B, *shape) of every sort: noise, smooth, nothing at all, one place, faint, strong, of one sign."""
    shape = draw(st.sampled_from(SHAPES))
    kinds = st.sampled_from(["noise", "nothing", "place", "faint", "strong", "positive", "flat"])
    drawn = draw(st.lists(st.tuples(kinds, st.integers(0, 2**31)), min_size=1, max_size=5))
    return torch.stack([_map(kind, shape, seed) for kind, seed in drawn])


def _map(kind: str, shape: tuple[int, ...], seed: int) -> Tensor:
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    if kind == "place":
        return torch.where(noise == noise.max(), noise, torch.zeros_like(noise))
    sorts = {"nothing": 0 * noise, "faint": 1e-20 * noise, "strong": 1e12 * noise}
    sorts |= {"positive": noise.abs(), "flat": torch.ones_like(noise)}
    return sorts.get(kind, noise)


def load(drawn: Defense, values: Tensor) -> Defense:
    drawn.load(Setup(SETUP.device, SETUP.secret, shape=tuple(values.shape[1:])))
    return drawn


def asked(values: Tensor) -> tuple[Prediction, Query, dict[str, Signal]]:
    """Maps of rows that as many clients sent."""
    count = len(values)
    suspicion = torch.linspace(0, 1, count)
    clients = [f"client {row}" for row in range(count)]
    inputs = rows(count, seed=count, shape=values.shape[1:])
    signals = {"foreign": Signal(suspicion, suspicion >= 1.0, "foreign")}
    return Prediction(values, Kind.ATTRIBUTIONS), Query(clients, inputs, 5.0), signals


@every_defense
@given(data=st.data())
def test_maps_stay_finite_maps_of_their_shape(plugin: type[Defense], data: st.DataObject) -> None:
    values = data.draw(maps())
    answer = load(data.draw(settings_of(plugin)), values)(*asked(values))

    assert answer.kind is Kind.ATTRIBUTIONS
    assert answer.values.dtype is values.dtype
    assert answer.values.shape == values.shape
    assert bool(torch.isfinite(answer.values).all())


@every_defense
@given(data=st.data())
def test_the_same_query_gets_the_same_map(plugin: type[Defense], data: st.DataObject) -> None:
    """Of this instance, and of another with the same settings, as after a restart."""
    values = data.draw(maps())
    first = load(data.draw(settings_of(plugin)), values)
    second = load(plugin(**first.model_dump()), values)
    arguments = asked(values)

    assert torch.equal(first(*arguments).values, first(*arguments).values)
    assert torch.equal(first(*arguments).values, second(*arguments).values)


@every_defense
@given(data=st.data())
def test_a_row_is_explained_alike_alone_and_in_a_batch(
    plugin: type[Defense], data: st.DataObject
) -> None:
    values = data.draw(maps())
    defense, arguments = load(data.draw(settings_of(plugin)), values), asked(values)
    together = defense(*arguments).values
    alone = one_by_one(defense, *arguments)
    largest = together.flatten(1).abs().amax(dim=1) + 1e-30
    apart = (together - alone).flatten(1).abs().amax(dim=1)

    assert bool((apart <= 1e-4 * largest).all())


@every_defense
@given(data=st.data())
def test_where_nothing_matters_nothing_is_shown(plugin: type[Defense], data: st.DataObject) -> None:
    values = torch.zeros_like(data.draw(maps()))
    answer = load(data.draw(settings_of(plugin)), values)(*asked(values))

    assert not answer.values.any()


@every_defense
@given(data=st.data(), steps=st.integers(1, 10))
def test_without_suspicion_a_change_by_suspicion_changes_nothing(
    plugin: type[Defense], data: st.DataObject, steps: int
) -> None:
    values = data.draw(maps())
    defense = load(plugin(by_suspicion=steps), values)
    prediction, query, signals = asked(values)
    suspicion = signals["foreign"].suspicion
    whole = defense(prediction, query, signals)
    answer = defense.scaled(prediction, whole, suspicion).values

    assert torch.equal(answer[suspicion == 0], values[suspicion == 0])


@every_defense
@given(data=st.data())
def test_arguments_are_not_written_into(plugin: type[Defense], data: st.DataObject) -> None:
    values = data.draw(maps())
    defense = load(data.draw(settings_of(plugin)), values)
    prediction, query, signals = asked(values)
    tensors = [prediction.values, query.inputs, *(s.suspicion for s in signals.values())]
    before = [tensor.clone() for tensor in tensors]
    answer = defense(prediction, query, signals)
    answer.values.add_(1.0)  # nor is the answer a view of them

    assert all(torch.equal(b, t) for b, t in zip(before, tensors, strict=True))


@every_defense
def test_a_defense_of_explanations_remembers_nothing(plugin: type[Defense]) -> None:
    """What it would remember was stored before the explanation was made."""
    assert not issubclass(plugin, RememberingDefense)
