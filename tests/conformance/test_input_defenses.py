"""What every input defense promises, built in or installed, for every setting its schema allows."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import defenses
from mantlet.plugin import InputDefense, Setup
from mantlet.types import Query, Task
from tests.conformance.strategies import settings_of
from tests.helpers import SETUP, TinyGenerator

every_input_defense = pytest.mark.parametrize(
    "plugin", defenses.known_inputs().values(), ids=defenses.known_inputs()
)
CLOSE: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "semantic_interpolation": {"probed": st.integers(1, 4)},
}
"""Settings drawn more narrowly than the schema allows, so that a test ends."""


def load(drawn: InputDefense, secret: bytes = SETUP.secret, latent: int = 8) -> InputDefense:
    victim = TinyGenerator(latent=latent)
    drawn.load(Setup(SETUP.device, secret, shape=victim.input.shape, victim=victim, model="tiny"))
    return drawn


def drawn(plugin: type[InputDefense], data: st.DataObject, latent: int = 8) -> InputDefense:
    close = CLOSE.get(plugin.model_fields["type"].default, {})
    return load(data.draw(settings_of(plugin, **close)), latent=latent)


def asked(data: st.DataObject, latent: int = 8) -> Query:
    """Rows of several clients of two identities: of the prior, far out of it, zero, repeated."""
    kinds = data.draw(st.lists(st.sampled_from("pfzr"), min_size=1, max_size=8))
    prior = latents(len(kinds), data.draw(st.integers(0, 1000)), latent)
    scale = torch.tensor([{"p": 1.0, "f": 50.0, "z": 0.0, "r": 1.0}[kind] for kind in kinds])
    repeated = torch.tensor([kind == "r" for kind in kinds])
    inputs = torch.where(repeated[:, None], prior[:1], prior * scale[:, None])
    clients = [f"client {row % 3}" for row in range(len(kinds))]
    return Query(clients, inputs, 5.0, (), [f"identity {row % 2}" for row in range(len(kinds))])


def latents(count: int, seed: int = 0, latent: int = 8) -> torch.Tensor:
    return torch.randn(count, latent, generator=torch.Generator().manual_seed(seed))


def row_of(index: int, query: Query) -> Query:
    one = slice(index, index + 1)
    return Query(query.clients[one], query.inputs[one], query.at, (), query.identities[one])


@every_input_defense
@given(data=st.data())
def test_rows_keep_their_shape_and_are_finite(
    plugin: type[InputDefense], data: st.DataObject
) -> None:
    latent = data.draw(st.integers(1, 40))
    query = asked(data, latent)
    answer = drawn(plugin, data, latent)(query)

    assert answer.inputs.shape == query.inputs.shape
    assert answer.inputs.dtype is torch.float32
    assert torch.isfinite(answer.inputs).all()
    assert (answer.clients, answer.identities) == (query.clients, query.identities)


@every_input_defense
@given(data=st.data())
def test_the_same_query_asks_the_same(plugin: type[InputDefense], data: st.DataObject) -> None:
    """By this instance, and by another with the same settings, as after a restart or on a replica."""
    first = drawn(plugin, data)
    second = load(plugin.model_validate(first.model_dump()))
    query = asked(data)

    assert torch.equal(first(query).inputs, first(query).inputs)
    assert torch.equal(first(query).inputs, second(query).inputs)


@every_input_defense
@given(data=st.data())
def test_a_row_is_rewritten_alike_alone_and_in_a_batch(
    plugin: type[InputDefense], data: st.DataObject
) -> None:
    defense, query = drawn(plugin, data), asked(data)
    alone = [defense(row_of(index, query)).inputs for index in range(len(query.clients))]

    assert torch.allclose(defense(query).inputs, torch.cat(alone), atol=1e-5)


@every_input_defense
def test_without_the_secret_nobody_knows_what_is_asked(plugin: type[InputDefense]) -> None:
    query = Query(["client"] * 200, latents(200), 0.0)
    first, second = (
        load(plugin.model_validate({}), key)(query).inputs for key in (b"one secret", b"another")
    )

    assert not torch.isclose(first, second).all(dim=1).any()


@every_input_defense
@given(data=st.data())
def test_arguments_are_not_written_into(plugin: type[InputDefense], data: st.DataObject) -> None:
    defense, query = drawn(plugin, data), asked(data)
    before = query.inputs.clone()
    defense(query).inputs.add_(1.0)  # nor is the answer a view of them

    assert torch.equal(query.inputs, before)


@every_input_defense
@pytest.mark.parametrize(("setting", "value"), [("name", "x"), ("type", "y")])
def test_settings_are_frozen(plugin: type[InputDefense], setting: str, value: str) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        setattr(plugin.model_validate({}), setting, value)


@every_input_defense
def test_unknown_settings_are_refused(plugin: type[InputDefense]) -> None:
    unknown: dict[str, Any] = {"a_setting_that_is_not_there": 1}

    with pytest.raises(ValidationError, match="a_setting_that_is_not_there"):
        plugin.model_validate(unknown)


@every_input_defense
def test_it_says_what_it_costs_what_undoes_it_and_whom_it_serves(
    plugin: type[InputDefense],
) -> None:
    text = plugin.__doc__ or ""

    assert plugin.tasks <= set(Task)
    assert "Cost:" in text
    assert "What undoes it:" in text
