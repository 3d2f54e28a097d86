"""Pictures put together from a pool: solid things on a dark ground are nearer to many tasks than what is in it."""

import math

import torch
from torch import Tensor, nn

from mantlet.errors import ConfigError

DARK, LINE = 0.1, 0.3
"""Below: ground. Above: part of a shape."""
THICKER = (3, 5, 7, 9, 11, 13)
"""Sides of the square by which strokes are made solid, in pixels of a picture 28 wide."""
SCALES = (0.7, 1.45)
TURN, SHIFT = math.radians(25), 0.1
"""Either way; a share of the side."""
BRIGHTENED = 0.6
"""The most that a filling is moved towards white."""


def composed(pool: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(count, C, H, W) in [0, 1]: the shape of one picture of (n, C, H, W), filled with another, on black.

    Shapes are the bright parts of pictures that are mostly dark, thickened, stretched, turned and moved at
    random, and every second one made symmetric. Fillings are the other pictures, or all where there is
    no other, each brightened at random. Raises `ConfigError` for a pool without a dark picture.
    """
    dark = (pool.amax(dim=1) < DARK).flatten(1).double().mean(dim=1) > 0.5
    if not dark.any():
        raise ConfigError(
            "composed: no picture of the pool has a dark ground to take a shape from; add a family of"
            " drawings in white on black, or leave 'composed' out"
        )
    shapes = _thickened(_drawn(pool[dark], count, generator).amax(dim=1, keepdim=True), generator)
    shapes = _placed(shapes, generator) > LINE
    middle = shapes.shape[3] // 2
    half = torch.rand(count, 1, 1, 1, generator=generator) < 0.5
    left = shapes[..., :middle]
    mirrored = torch.cat([left, shapes[..., middle:-middle], left.flip(3)], dim=3)
    fillings = _drawn(pool if dark.all() else pool[~dark], count, generator)
    brighter = BRIGHTENED * torch.rand(count, 1, 1, 1, generator=generator)
    return torch.where(half, mirrored, shapes) * (brighter + (1 - brighter) * fillings)


def _drawn(pictures: Tensor, count: int, generator: torch.Generator) -> Tensor:
    return pictures[torch.randint(len(pictures), (count,), generator=generator)]


def _thickened(shapes: Tensor, generator: torch.Generator) -> Tensor:
    """(n, 1, H, W) with every bright pixel as large as a square of a random size."""
    which = torch.randint(len(THICKER), (len(shapes),), generator=generator)
    thick = torch.empty_like(shapes)
    for number, side in enumerate(THICKER):
        reach = round(side * shapes.shape[3] / 28) // 2
        rows = which == number
        thick[rows] = nn.functional.max_pool2d(shapes[rows], 2 * reach + 1, 1, reach)
    return thick


def _placed(shapes: Tensor, generator: torch.Generator) -> Tensor:
    """(n, 1, H, W) each stretched in both directions by itself, turned and moved; bilinear."""
    drawn = torch.rand(5, len(shapes), generator=generator)
    low, high = map(math.log, SCALES)
    across, down = (low + (high - low) * drawn[:2]).exp()
    turn = TURN * (2 * drawn[2] - 1)
    shift = 2 * SHIFT * (2 * drawn[3:] - 1)  # a side is 2 long in the grid's units
    rows = [
        torch.stack([turn.cos() / across, -turn.sin() / across, shift[0]], dim=1),
        torch.stack([turn.sin() / down, turn.cos() / down, shift[1]], dim=1),
    ]
    grid = nn.functional.affine_grid(
        torch.stack(rows, dim=1), list(shapes.shape), align_corners=False
    )
    return nn.functional.grid_sample(shapes, grid, align_corners=False)
