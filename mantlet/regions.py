"""Maps seen from afar: the mean magnitude of square cells, and cells painted over their pixels."""

import torch
from torch import Tensor, nn


def magnitudes(maps: Tensor, cell: int) -> Tensor:
    """(B, h, w) mean magnitude of cells of ``cell`` x ``cell`` values, over all channels.

    ``maps`` is (B, C, H, W), or (B, D), which is one line. Cells at the lower and right edge may be smaller.
    """
    seen = planes(maps.abs()).mean(dim=1, keepdim=True)  # (B, 1, H, W)
    kernel = (min(cell, seen.shape[2]), min(cell, seen.shape[3]))
    pooled = nn.functional.avg_pool2d(seen, kernel, ceil_mode=True)
    return pooled[:, 0]


def spread(cells: Tensor, maps: Tensor, cell: int) -> Tensor:
    """(B, h, w) cells painted over their pixels, in the shape of ``maps``, the same in all channels."""
    seen = planes(maps)
    height, width = seen.shape[2:]
    painted = cells.repeat_interleave(min(cell, height), dim=1)[:, :height]
    painted = painted.repeat_interleave(min(cell, width), dim=2)[:, :, :width]
    return painted[:, None].repeat(1, seen.shape[1], 1, 1).view(maps.shape)


def scaled(cells: Tensor) -> Tensor:
    """Values (B, ...) as shares of the largest magnitude of their row; zeros where there is nothing else."""
    top = cells.flatten(1).abs().amax(dim=1).view(-1, *[1] * (cells.ndim - 1))
    return cells / torch.where(top > 0, top, torch.ones_like(top))


def planes(maps: Tensor) -> Tensor:
    """(B, C, H, W) of rows of any shape; the last two axes are height and width."""
    lines = maps.flatten(1)[:, None, None] if maps.ndim < 3 else maps
    return lines.reshape(len(maps), -1, *lines.shape[-2:])
