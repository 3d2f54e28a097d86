"""What an eye and a detector see of a picture: brightness, where a mark hides, and what is left of edges."""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

BUSY = 0.06
"""Standard deviation of brightness within a window that hides a mark well."""
EDGE = 0.02
"""Changes within a window that are larger belong to the picture, smaller ones may be a mark."""
DARK = 0.1
"""Brightness below which a picture is nearly black."""


def luma(images: Tensor) -> Tensor:
    """(B, C, H, W) grey or RGB pictures to their brightness (B, 1, H, W)."""
    if images.shape[1] == 1:
        return images
    weights = images.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    return (images * weights).sum(dim=1, keepdim=True)


def visibility(brightness: Tensor, *, masking: float = 1.0, black: float = 1.0) -> Tensor:
    """(B, 1, H, W) how much of a mark each pixel hides: 0.5 on flat grey, 1 on flat black, up to 2.

    Contrast hides (Watson, 1993), and so do near black and near white, where the eye tells levels worse. On a
    window that is black that is multiplied by ``black``, on a darker one than `DARK` by part of the way. With less
    ``masking``, in [0, 1], all that is moved towards 1.
    """
    if not masking:
        return torch.ones_like(brightness)
    mean, squared, seen = _moments(_roomy(brightness, 2))
    fewer = (1 - black) * _dark(mean) if black < 1 else None
    np.minimum(seen, _busiest(*mean.shape[-2:]), out=seen)
    np.sqrt(seen, out=seen)
    seen *= masking * 0.5 / BUSY
    squared -= mean
    squared *= masking * 2
    seen += squared
    seen += 1.0
    if fewer is not None:
        seen -= fewer * (seen - (1 - masking))
    return _cropped(seen, brightness)


def darkness(brightness: Tensor) -> Tensor:
    """(B, 1, H, W) 1 where a window is black, 0 where it is not darker than `DARK`."""
    return _cropped(_dark(_box(_roomy(brightness, 1))[0]), brightness)


def residual(brightness: Tensor) -> Tensor:
    """(B, 1, H, W) what a guided filter takes for noise: the mark, and little of the picture.

    He, Sun and Tang, "Guided image filtering", 2010: where a window is flat its mean is taken away, where
    it holds an edge nearly everything is. No pixel is left with more than ``EDGE`` times the root of 2.
    """
    both = _roomy(brightness, 2)
    picture = both[0].copy()
    mean, _, variance = _moments(both)
    slope = variance / (variance + EDGE**2)
    mean *= 1 - slope
    slope, mean = _box(np.stack([slope, mean]))
    return _cropped(picture - slope * picture - mean, brightness)


def _roomy(brightness: Tensor, planes: int) -> np.ndarray:
    """(B, 1, H, W) to (planes, B, H + 1, W), a row of zeros below each picture; all planes but the first are empty."""
    pictures = brightness.numpy(force=True)[:, 0]
    count, height, width = pictures.shape
    roomy = np.empty((planes, count, height + 1, width), np.float32)
    roomy[:, :, height] = 0
    roomy[0, :, :height] = pictures
    return roomy


def _cropped(roomy: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(roomy[:, None, :-1]).to(like)


def _dark(mean: np.ndarray) -> np.ndarray:
    return np.clip(1 - mean / DARK, 0, 1)


def _moments(both: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means within windows, their squares, and variances, in place of two planes of `_roomy`."""
    np.multiply(both[0], both[0], out=both[1])
    mean, variance = _box(both)
    squared = mean * mean
    np.maximum(variance, squared, out=variance)  # rounding may bring it below
    variance -= squared
    return mean, squared, variance


def _box(roomy: np.ndarray) -> np.ndarray:
    """Means over windows of 3x3, in place of what has rows of zeros; windows at the border hold fewer pixels.

    All pixels at once are added to what lies beside them in memory: many times as fast as pooling, and twice as fast
    as the same slices in torch. The zeros keep pictures apart; where rows meet, both ends are added again.
    """
    height, width = roomy.shape[-2:]
    values = roomy.reshape(-1)
    across = np.empty_like(values)
    if width > 1:
        np.add(values[:-1], values[1:], out=across[1:])
        across[1:-1] += values[2:]
        np.add(values[::width], values[1::width], out=across[::width])
        np.add(
            values[width - 2 :: width], values[width - 1 :: width], out=across[width - 1 :: width]
        )
    else:
        across[:] = values
    np.add(across[:-width], across[width:], out=values[width:])
    values[width:-width] += across[2 * width :]
    np.add(across[:width], across[width : 2 * width], out=values[:width])
    torch.from_numpy(roomy).mul_(_shares(height - 1, width))
    return roomy


@lru_cache(maxsize=16)
def _shares(height: int, width: int) -> Tensor:
    """(H + 1, W) one over the pixels in the window around each, and a row of zeros."""
    shares = []
    for side in (height, width):
        pixels = np.full(side, 3, np.float32)
        pixels[0] -= 1
        pixels[-1] -= 1
        shares.append(1 / pixels)
    return torch.from_numpy(np.outer(np.append(shares[0], np.float32(0)), shares[1]))


@lru_cache(maxsize=16)
def _busiest(height: int, width: int) -> np.ndarray:
    """(H, W) of the largest variance that counts: NumPy compares with an array much faster than with a number."""
    return np.full((height, width), (2 * BUSY) ** 2, np.float32)
