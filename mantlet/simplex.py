"""Vectorised geometry of the probability simplex."""

import numpy as np
import torch
from torch import Tensor

TOLERANCE = 1e-4
"""How far a row's sum may be from 1 and a value below 0 (float32 rounding over many classes)."""


def on_simplex(values: Tensor) -> bool:
    """Whether every row of (B, C) is finite, not negative and sums to one.

    >>> on_simplex(torch.tensor([[0.25, 0.75]])), on_simplex(torch.tensor([[0.5, 0.6]]))
    (True, False)
    """
    if values.ndim != 2 or not values.numel():
        return False
    rows = values.numpy(force=True)  # numpy: a fifth of the time of torch on a few rows
    # a NaN or an infinity shows in the least value or in its row's sum, and fails the comparison
    if not rows.min() >= -TOLERANCE:
        return False
    return bool(np.abs(rows.sum(axis=1) - 1.0).max() <= TOLERANCE)


def same_top1(one: Tensor, other: Tensor) -> bool:
    """Whether the first largest class of every row is the same in both (B, C)."""
    tops = (values.numpy(force=True).argmax(axis=1) for values in (one, other))
    return np.array_equal(*tops)


def normalize(values: Tensor) -> Tensor:
    """Clip (B, C) at zero and divide each row by its sum; a row of zeros becomes uniform.

    >>> normalize(torch.tensor([[2.0, -1.0, 2.0], [0.0, 0.0, 0.0]])).tolist()[0]
    [0.5, 0.0, 0.5]
    """
    positive = values.clamp_min(0.0)
    total = positive.sum(dim=1, keepdim=True)
    uniform = torch.full_like(positive, 1.0 / values.shape[1])
    # only an exact zero becomes uniform: a NaN must stay one, so that it is seen and refused
    return torch.where(total == 0, uniform, positive / total.masked_fill(total == 0, 1.0))


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """Vertices of the simplex: (B,) labels to (B, classes) float32."""
    return torch.nn.functional.one_hot(labels, classes).to(torch.float32)


def blend_to_keep_top1(clean: Tensor, altered: Tensor) -> Tensor:
    """Move ``altered`` (B, C) back towards ``clean`` just far enough that each row's top class is clean's.

    Rows that keep their top class are returned as they are. In the others the blend
    ``w * clean + (1 - w) * altered`` takes the smallest w at which the clean top class is not
    beaten, and a hair more, so that the arg-max is the same one.

    >>> clean, altered = torch.tensor([[0.6, 0.4]]), torch.tensor([[0.2, 0.8]])
    >>> int(blend_to_keep_top1(clean, altered).argmax(dim=1))
    0
    """
    top = clean.argmax(dim=1, keepdim=True)
    lost = altered.argmax(dim=1, keepdim=True) != top
    if not bool(lost.any()):
        return altered
    clean_lead = clean.gather(1, top) - clean  # (B, C), >= 0
    altered_lead = altered.gather(1, top) - altered  # (B, C), < 0 where the top class is beaten
    gap = (clean_lead - altered_lead).clamp_min(1e-12)
    weight = (-altered_lead / gap).clamp(0.0, 1.0).amax(dim=1, keepdim=True)
    weight = (weight + 1e-3).clamp_max(1.0)
    blended = weight * clean + (1.0 - weight) * altered
    # a clean lead of a few ulp can drown in the blend's rounding: such a row is answered clean
    still_lost = blended.argmax(dim=1, keepdim=True) != top
    return torch.where(lost, torch.where(still_lost, clean, blended), altered)
