"""Pictures of any size go through a model as they would go through it whole."""

import math

import pytest
import torch
from torch import Tensor, nn

from mantlet.errors import VictimError
from mantlet.types import Kind
from serving.victims import pictures
from serving.victims.pictures import Tiling


def drawn(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def enlarger(scale: int) -> nn.Module:
    """Two convolutions that look three pixels far, and a shuffle of pixels."""
    layers = nn.Sequential(
        nn.Conv2d(1, 4, 5, padding=2),
        nn.ReLU(),
        nn.Conv2d(4, scale * scale, 3, padding=1),
        nn.PixelShuffle(scale),
    )
    for weights in layers.parameters():
        weights.data = drawn(*weights.shape) - 0.5
    return layers.eval().requires_grad_(False)


def test_the_range_of_the_model_becomes_black_and_white() -> None:
    raw = torch.tensor([-1.0, 0.0, 1.0, 3.0]).view(1, 1, 2, 2)

    made = pictures.prediction(raw, -1.0, 1.0)

    assert made.kind is Kind.IMAGES
    assert made.values.flatten().tolist() == [0.0, 0.5, 1.0, 1.0]


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_what_is_not_finite_is_no_picture(value: float) -> None:
    with pytest.raises(VictimError, match="not finite"):
        pictures.prediction(torch.full((1, 1, 2, 2), value), 0.0, 1.0)


def test_thumbnails_have_one_size_whatever_the_picture_has() -> None:
    sizes = [pictures.thumbnails(drawn(2, 3, h, w)).shape for h, w in ((5, 9), (28, 28), (300, 40))]

    assert sizes == [(2, 64)] * 3


@pytest.mark.parametrize(("height", "width"), [(70, 90), (64, 65), (31, 200)])
@pytest.mark.parametrize("scale", [1, 2])
def test_tiles_that_overlap_enough_answer_like_the_whole_picture(
    height: int, width: int, scale: int
) -> None:
    network, inputs = enlarger(scale), drawn(2, 1, height, width)

    tiled = Tiling(side=32, margin=3, multiple=1, scale=scale).run(network, inputs)

    assert torch.allclose(tiled, network(inputs), atol=1e-5)


def test_no_tile_is_larger_than_asked() -> None:
    seen: list[int] = []

    def run(tile: Tensor) -> Tensor:
        seen.append(max(tile.shape[2:]))
        assert tile.shape[2] % 4 == tile.shape[3] % 4 == 0
        return tile

    Tiling(side=32, margin=3, multiple=4, scale=1).run(run, drawn(1, 1, 100, 70))

    assert max(seen) <= 32


@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 7), (30, 33)])
def test_sides_that_are_no_multiple_are_filled_up_and_cut_off(height: int, width: int) -> None:
    def run(tile: Tensor) -> Tensor:
        assert tile.shape[2] % 4 == tile.shape[3] % 4 == 0
        return tile

    inputs = drawn(1, 1, height, width)
    assert torch.equal(Tiling(64, 3, 4, 1).run(run, inputs), inputs)


def test_an_answer_of_another_size_is_refused() -> None:
    with pytest.raises(VictimError, match="wanted 16 x 16"):
        Tiling(64, 0, 1, 2).run(lambda tile: tile, drawn(1, 1, 8, 8))


def test_a_model_of_brightness_keeps_the_hues() -> None:
    def brighter(bright: Tensor) -> Tensor:
        return bright + 0.1

    inputs = drawn(1, 3, 8, 8)

    assert torch.allclose(pictures.by_luma(brighter, 1)(inputs), inputs + 0.1, atol=1e-5)


class Normalised(nn.Module):
    """Looks at the whole picture: it divides by the largest brightness."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs / inputs.amax(dim=(2, 3), keepdim=True)


def test_what_looks_at_whole_pictures_is_told_from_what_does_not() -> None:
    tiling = Tiling(side=64, margin=3, multiple=1, scale=1)

    assert tiling.difference(enlarger(1), 1) < 1e-5
    assert tiling.difference(Normalised(), 1) > 0.1


def test_narrow_pictures_are_filled_up_to_what_a_model_can_mirror() -> None:
    mirror = nn.ReflectionPad2d(3)

    def run(inputs: Tensor) -> Tensor:
        padded: Tensor = mirror(inputs)
        return padded[:, :, 3:-3, 3:-3]

    tiling = Tiling(side=64, margin=3, multiple=1, scale=1).fitted(run, 1)
    narrow = drawn(1, 1, 1, 40)

    assert tiling.least == 4
    assert torch.equal(tiling.run(run, narrow), narrow)
