"""Pictures put together: solid shapes of one picture, filled with another, on black."""

import pytest
import torch
from torch import Tensor

from mantlet.errors import ConfigError
from redteam.composing import composed


@pytest.fixture
def pool() -> Tensor:
    """Ten thin bright strokes on black, and ten pictures of one grey each."""
    strokes = torch.zeros(10, 1, 28, 28)
    strokes[:, :, 8:20, 13:15] = 1.0
    greys = torch.linspace(0.4, 0.5, 10).view(10, 1, 1, 1).expand(10, 1, 28, 28)
    return torch.cat([strokes, greys])


def made(pool: Tensor, *, seed: int = 0) -> Tensor:
    return composed(pool, 200, torch.Generator().manual_seed(seed))


def test_shapes_are_solid_on_a_black_ground_and_filled_with_the_other_pictures(
    pool: Tensor,
) -> None:
    pictures = made(pool)
    share = (pictures > 0).flatten(1).double().mean(dim=1)
    inside = pictures[pictures > 0]

    assert pictures.shape == (200, 1, 28, 28)
    assert share.median() > 3 * float((pool[0] > 0).double().mean())
    assert share.max() < 0.9
    assert inside.min() >= 0.4
    assert inside.max() <= 0.8


def test_every_second_shape_is_symmetric(pool: Tensor) -> None:
    shapes = made(pool) > 0
    symmetric = (shapes == shapes.flip(3)).flatten(1).all(dim=1)

    assert 0.35 < float(symmetric.double().mean()) < 0.75


def test_the_same_seed_makes_the_same_pictures_and_no_two_are_alike(pool: Tensor) -> None:
    pictures = made(pool)

    assert torch.equal(pictures, made(pool))
    assert not torch.equal(pictures, made(pool, seed=1))
    assert len({picture.numpy().tobytes() for picture in pictures}) == len(pictures)


def test_drawings_alone_are_filled_with_drawings(pool: Tensor) -> None:
    pictures = made(pool[:10])

    assert pictures.max() <= 1
    assert (pictures.flatten(1).amax(dim=1) > 0).double().mean() > 0.9


def test_pictures_in_color_and_of_another_size_stay_so(pool: Tensor) -> None:
    large = torch.nn.functional.interpolate(pool, size=(33, 33)).repeat(1, 3, 1, 1)

    assert made(large).shape == (200, 3, 33, 33)


def test_a_pool_without_a_dark_ground_is_refused(pool: Tensor) -> None:
    with pytest.raises(ConfigError, match="dark ground"):
        made(pool[10:])
