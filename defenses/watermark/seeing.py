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
LIMIT = 0.04
"""No pixel speaks louder."""


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
    mean, seen = _moments(_roomy(brightness, 2))
    np.sqrt(np.clip(seen, 0, (2 * BUSY) ** 2, out=seen), out=seen)
    seen *= masking * 0.5 / BUSY
    fewer = (1 - black) * _dark(mean) if black < 1 else None
    mean -= 0.5
    mean *= mean
    mean *= masking * 2
    seen += mean
    seen += 1 - masking * 0.5
    if fewer is not None:
        seen -= fewer * (seen - (1 - masking))
    return _cropped(seen, brightness)


def darkness(brightness: Tensor) -> Tensor:
    """(B, 1, H, W) 1 where a window is black, 0 where it is not darker than `DARK`."""
    return _cropped(_dark(_box(_roomy(brightness, 1))[0]), brightness)


def residual(brightness: Tensor) -> Tensor:
    """(B, 1, H, W) what a guided filter takes for noise: the mark, and little of the picture.

    He, Sun and Tang, "Guided image filtering", 2010: where a window is flat its mean is taken away, where
    it holds an edge nearly everything is.
    """
    both = _roomy(brightness, 2)
    picture = both[0].copy()
    mean, variance = _moments(both)
    variance = np.clip(variance, 0, None)
    slope = variance / (variance + EDGE**2)
    mean *= 1 - slope
    slope, mean = _box(np.stack([slope, mean]))
    return _cropped(np.clip(picture - slope * picture - mean, -LIMIT, LIMIT), brightness)


def _roomy(brightness: Tensor, planes: int) -> np.ndarray:
    """(B, 1, H, W) to (planes, B, H + 2, W + 2), framed with zeros; all planes but the first are empty."""
    count, _, height, width = brightness.shape
    roomy = np.zeros((planes, count, height + 2, width + 2), np.float32)
    roomy[0, :, 1:-1, 1:-1] = brightness[:, 0].numpy(force=True)
    return roomy


def _cropped(roomy: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(roomy[:, None, 1:-1, 1:-1]).to(like)


def _dark(mean: np.ndarray) -> np.ndarray:
    return np.clip(1 - mean / DARK, 0, 1)


def _moments(both: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means and variances within windows, which rounding may bring below 0, in place of two planes of `_roomy`."""
    np.multiply(both[0], both[0], out=both[1])
    mean, variance = _box(both)
    variance -= mean * mean
    return mean, variance


def _box(roomy: np.ndarray) -> np.ndarray:
    """Means over windows of 3x3, in place of what is framed with zeros; windows at the border hold fewer pixels.

    The frame keeps rows and pictures apart that lie behind each other in memory, so that all pixels at once are added
    to what lies beside them there: many times as fast as pooling, and twice as fast as the same slices in torch.
    """
    height, width = roomy.shape[-2:]
    values = roomy.reshape(-1)
    across = _beside(values, 1)
    _beside(across, width, out=values[width + 1 : -width - 1])
    roomy *= _shares(height - 2, width - 2)
    return roomy


def _beside(values: np.ndarray, step: int, out: np.ndarray | None = None) -> np.ndarray:
    """Sums of each but the first and last ``step`` values with those a ``step`` before and after."""
    sums: np.ndarray = np.add(values[: -2 * step], values[step:-step], out=out)
    sums += values[2 * step :]
    return sums


@lru_cache(maxsize=16)
def _shares(height: int, width: int) -> np.ndarray:
    """(H + 2, W + 2) one over the pixels in the window around each, in a frame of zeros."""
    shares = []
    for side in (height, width):
        pixels = np.full(side, 3, np.float32)
        pixels[0] -= 1
        pixels[-1] -= 1
        shares.append(np.pad(1 / pixels, 1))
    return np.outer(*shares)
