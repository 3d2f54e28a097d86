"""How detectors see what clients send to a model that translates pictures, whatever their size."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from mantlet.types import Kind, Prediction, Query

SIDE = 8
"""Fields along each side of a picture."""


def fields(images: Tensor) -> Tensor:
    """(B, 128) mean brightness of 8 x 8 fields of (B, C, H, W) pictures, and its deviation within each.

    >>> fields(torch.rand(2, 3, 40, 31)).shape
    torch.Size([2, 128])
    """
    bright = images.float().mean(dim=1, keepdim=True)
    pooled = nn.functional.adaptive_avg_pool2d(torch.cat([bright, bright.square()], dim=1), SIDE)
    mean, square = pooled.flatten(2).unbind(dim=1)  # (B, 64) each
    spread = (square - mean.square()).clamp(min=0).sqrt()
    return torch.cat([mean, spread], dim=1)


def comparable(query: Query, prediction: Prediction) -> tuple[Query, Prediction]:
    """Pictures as rows of one length and one class, which they are then compared as; others as they are."""
    if prediction.kind is not Kind.IMAGES or query.inputs.ndim != 4:
        return query, prediction
    rows = fields(query.inputs)
    one_class = torch.ones(len(rows), 1)
    return replace(query, inputs=rows), Prediction(one_class, Kind.PROBABILITIES, features=rows)
