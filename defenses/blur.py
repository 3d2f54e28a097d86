"""Gaussian blur of pictures (Hu and Pang, 2021)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from mantlet.plugin import Defense
from mantlet.types import Kind, Prediction, Query, Signal


class Blur(Defense):
    """Convolves pictures with a Gaussian of standard deviation ``sigma`` pixels; edges are continued.

    Source: the filtering of Hu and Pang, ACSAC 2021. It takes the high frequencies that a copy of an
    image-to-image model has to fit, and those that people look at. Cost: 1 ns a pixel for each of 12 ``sigma`` + 2
    taps. What undoes it: sharpening, which is exact where the kernel is known and little else was
    done; a copy that learns the blurred pictures and is sharpened after.
    """

    type: Literal["blur"] = "blur"
    sigma: Annotated[float, Field(ge=0.1, le=50)] = 0.4
    """Standard deviation, in pixels; 0.4 in the paper."""
    keeps_top1 = True
    kinds = frozenset({Kind.IMAGES})

    def apply(
        self, prediction: Prediction, query: Query, signals: Mapping[str, Signal]
    ) -> Prediction:
        clean = prediction.values
        reach = math.ceil(3 * self.sigma)
        weights = [math.exp(-0.5 * (tap / self.sigma) ** 2) for tap in range(-reach, reach + 1)]
        kernel = [weight / sum(weights) for weight in weights]
        blurred = _along(_along(clean, kernel, 3), kernel, 2)
        return replace(prediction, values=blurred.clamp(0, 1))


def _along(images: Tensor, kernel: Sequence[float], axis: int) -> Tensor:
    """(B, C, H, W) convolved along an axis: sums of shifted copies, faster than a convolution of one channel."""
    reach, length = len(kernel) // 2, images.shape[axis]
    edges = (reach, reach, 0, 0) if axis == 3 else (0, 0, reach, reach)
    padded = nn.functional.pad(images, edges, mode="replicate")
    total = padded.narrow(axis, 0, length) * kernel[0]
    for tap, weight in enumerate(kernel[1:], start=1):
        total.add_(padded.narrow(axis, tap, length), alpha=weight)
    return total
