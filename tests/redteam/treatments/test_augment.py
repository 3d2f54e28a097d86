"""Altered copies of answered rows."""

import pytest
import torch
from pydantic import ValidationError

from mantlet.errors import ConfigError
from redteam.learning import Means, Transfer
from redteam.treatments.augment import Augment
from tests.redteam.thieves import bands, pictures


def treated(augment: Augment, inputs: torch.Tensor, seed: int = 0) -> Transfer:
    before = Transfer(inputs, bands(inputs))
    return augment.apply(before, Means(inputs), torch.Generator().manual_seed(seed))


def square() -> torch.Tensor:
    """(1, 1, 20, 40) dark but for a bright square in the middle."""
    inputs = torch.zeros(1, 1, 20, 40)
    inputs[..., 7:13, 17:23] = 1
    return inputs


def places(copies: torch.Tensor) -> torch.Tensor:
    """(n, 2) row and column of the middle of what is bright, as (n, 1, 20, 40) have it."""
    mass = copies[:, 0] / copies[:, 0].sum(dim=(1, 2), keepdim=True)
    rows = (mass.sum(dim=2) * torch.arange(20)).sum(dim=1)
    return torch.stack([rows, (mass.sum(dim=1) * torch.arange(40)).sum(dim=1)], dim=1)


def test_the_rows_come_first_and_every_copy_has_its_rows_answer() -> None:
    inputs = pictures(30)
    after = treated(Augment(copies=4), inputs)

    assert after.inputs.shape == (150, *inputs.shape[1:])
    assert torch.equal(after.inputs[:30], inputs)
    assert torch.equal(after.answers, bands(inputs).repeat(5, 1))


def test_copies_differ_from_their_row_and_from_each_other() -> None:
    after = treated(Augment(copies=3), square())

    assert len(torch.unique(after.inputs, dim=0)) == 4


def test_the_generator_alone_decides() -> None:
    inputs = pictures(5)
    one, again, other = (treated(Augment(copies=2), inputs, seed).inputs for seed in (1, 1, 2))

    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_without_strength_copies_are_the_rows() -> None:
    inputs = pictures(5)
    after = treated(Augment(copies=2, angle=0, scale=0, shift=0), inputs)

    assert torch.allclose(after.inputs, inputs.repeat(3, 1, 1, 1), atol=1e-4)


def test_a_shift_moves_by_shares_of_the_sides() -> None:
    after = treated(Augment(copies=200, angle=0, scale=0, shift=0.1), square())
    moved = (places(after.inputs[1:]) - places(square())).abs().amax(dim=0)

    assert (moved <= torch.tensor([2.0, 4.0]) + 1e-3).all()
    assert (moved > torch.tensor([1.8, 3.6])).all()


def test_a_scale_changes_the_size() -> None:
    after = treated(Augment(copies=200, angle=0, scale=0.2, shift=0), square())
    area = after.inputs[1:].sum(dim=(1, 2, 3)) / 36

    assert 0.6 < area.min() < 0.75
    assert 1.35 < area.max() < 1.5


def test_a_turn_keeps_size_and_middle_though_sides_differ() -> None:
    after = treated(Augment(copies=200, angle=180, scale=0, shift=0), square()).inputs[1:]

    assert torch.allclose(after.sum(dim=(1, 2, 3)), torch.tensor(36.0), atol=1.5)
    assert torch.allclose(places(after), places(square()), atol=0.02)


def test_many_rows_get_fewer_copies_and_too_many_none() -> None:
    inputs = pictures(30)
    sizes = [len(treated(Augment(most=most), inputs)) for most in (100, 59, 20)]

    assert sizes == [90, 30, 30]


def test_rows_that_are_no_pictures_are_named() -> None:
    flat = Transfer(torch.zeros(3, 8), torch.full((3, 10), 0.1))
    with pytest.raises(ConfigError, match=r"'augment': rows of shape \(8,\) are no pictures"):
        Augment().apply(flat, Means(flat.inputs), torch.Generator())


@pytest.mark.parametrize(
    "setting", [{"copies": 0}, {"angle": 181}, {"scale": 1}, {"shift": -0.1}, {"most": 0}]
)
def test_strengths_have_bounds(setting: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=next(iter(setting))):
        Augment.model_validate(setting)
