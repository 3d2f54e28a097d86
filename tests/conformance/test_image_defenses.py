"""What every defense of pictures promises, for every setting its schema allows."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import defenses
from mantlet.plugin import Defense
from mantlet.types import Kind, Prediction, Query, Signal
from tests.conformance.strategies import one_by_one, settings_of
from tests.helpers import SETUP

KNOWN = {name: kind for name, kind in defenses.known().items() if Kind.IMAGES in kind.kinds}
every_defense = pytest.mark.parametrize("plugin", KNOWN.values(), ids=KNOWN)
few = settings(max_examples=25, deadline=None)


@st.composite
def pictures(draw: st.DrawFn) -> Tensor:
    """(B, C, H, W) in [0, 1] of every sort: noise, flat, black, white, an edge; grey and RGB; odd sizes."""
    rows, channels = draw(st.integers(1, 4)), draw(st.sampled_from([1, 3]))
    height, width = draw(st.integers(28, 70)), draw(st.integers(28, 70))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    noise = torch.rand(rows, channels, height, width, generator=generator)
    edge = (torch.arange(width) > width // 2).float().expand_as(noise)
    sorts = [
        noise,
        0.5 + 0 * noise,
        0 * noise,
        1 + 0 * noise,
        edge.clone(),
        (noise * 3).clamp(max=1),
    ]
    return draw(st.sampled_from(sorts))


def load(drawn: Defense) -> Defense:
    drawn.load(SETUP)
    return drawn


def asked(values: Tensor) -> tuple[Prediction, Query, dict[str, Signal]]:
    """Pictures that were answered to as many clients, for latents."""
    latents = torch.randn(len(values), 8, generator=torch.Generator().manual_seed(len(values)))
    clients = [f"client {row}" for row in range(len(values))]
    suspicion = torch.linspace(0, 1, len(values))
    signals = {"latents": Signal(suspicion, suspicion >= 1.0, "latents")}
    return Prediction(values, Kind.IMAGES), Query(clients, latents, 5.0), signals


@every_defense
@few
@given(data=st.data())
def test_pictures_stay_pictures(plugin: type[Defense], data: st.DataObject) -> None:
    defense = load(data.draw(settings_of(plugin)))
    values = data.draw(pictures())
    answer = defense(*asked(values))

    assert answer.kind is Kind.IMAGES
    assert answer.values.dtype is values.dtype
    assert answer.values.shape == values.shape
    assert 0 <= answer.values.min() <= answer.values.max() <= 1


@every_defense
@few
@given(data=st.data())
def test_the_same_query_gets_the_same_pictures(plugin: type[Defense], data: st.DataObject) -> None:
    """Of this instance, and of another with the same settings, as after a restart."""
    first = load(data.draw(settings_of(plugin)))
    second = load(plugin(**first.model_dump()))
    arguments = asked(data.draw(pictures()))

    assert torch.equal(first(*arguments).values, first(*arguments).values)
    assert torch.equal(first(*arguments).values, second(*arguments).values)


@every_defense
@few
@given(data=st.data())
def test_a_picture_is_answered_alike_alone_and_in_a_batch(
    plugin: type[Defense], data: st.DataObject
) -> None:
    defense = load(data.draw(settings_of(plugin)))
    arguments = asked(data.draw(pictures()))
    together = defense(*arguments).values
    alone = one_by_one(defense, *arguments)

    assert torch.allclose(together, alone, atol=1e-5)


@every_defense
@few
@given(data=st.data())
def test_pictures_that_are_given_are_not_written_into(
    plugin: type[Defense], data: st.DataObject
) -> None:
    defense = load(data.draw(settings_of(plugin)))
    prediction, query, signals = asked(data.draw(pictures()))
    before = prediction.values.clone()
    answer = defense(prediction, query, signals)
    answer.values.add_(1.0)  # nor is the answer a view of them

    assert torch.equal(before, prediction.values)


@every_defense
@few
@given(data=st.data(), steps=st.integers(1, 10))
def test_a_change_by_suspicion_leaves_the_unsuspected_alone(
    plugin: type[Defense], data: st.DataObject, steps: int
) -> None:
    defense = load(plugin(by_suspicion=steps))
    prediction, query, signals = asked(data.draw(pictures()))
    suspicion = signals["latents"].suspicion
    whole = defense(prediction, query, signals)
    answer = defense.scaled(prediction, whole, suspicion).values

    assert torch.equal(answer[suspicion == 0], prediction.values[suspicion == 0])
    assert 0 <= answer.min() <= answer.max() <= 1
