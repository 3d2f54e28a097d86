"""Weakens or exaggerates the fine details of pictures, within what the eye tolerates."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mantlet import likeness
from mantlet.plugin import Defense
from mantlet.types import Kind, Prediction, Query, Signal


class BandLimit(Defense):
    """Multiplies the high band of pictures by ``details``: below 1 it is limited, above 1 exaggerated.

    picture' = low + details (picture - low), low a Gaussian blur of ``sigma`` pixels; the change is scaled down
    where a picture would fall under a structural similarity of ``similarity`` to the clean one. The loss of
    attacks on translators asks for the high bands of the answers (Mi et al., AAAI 2024), and the copy learns
    these. A model that answers a mean of what may be is too smooth, so exaggeration costs the truth less than it
    moves a copy; limiting costs more. Cost: 0.1 us a pixel, up to 0.5 with ``similarity``. What undoes it:
    a thief who guesses ``details`` and ``sigma``, or measures them on a few true pairs, and puts the filter behind
    its copy while it trains: such copies lose nothing (`I2i.behind`).
    """

    type: Literal["band_limit"] = "band_limit"
    details: Annotated[float, Field(ge=0, le=4)] = 1.4
    """Factor on the high band; 1 leaves it as it is."""
    sigma: Annotated[float, Field(ge=0.3, le=10)] = 1.0
    """Standard deviation of the blur that parts the bands, in pixels."""
    similarity: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Structural similarity to the clean picture that is kept, before rounding to 8 bits; 0 bounds nothing."""
    keeps_top1 = True
    kinds = frozenset({Kind.IMAGES})

    def apply(
        self, prediction: Prediction, query: Query, signals: Mapping[str, Signal]
    ) -> Prediction:
        return replace(prediction, values=self.changed(prediction.values))

    def changed(self, clean: Tensor) -> Tensor:
        """What is served of (B, C, H, W) pictures; it has a gradient, of which thieves make use."""
        change = (self.details - 1) * (clean - smoothed(clean, self.sigma))
        if self.similarity:
            change = change * likeness.strength_within(clean, change, self.similarity)
        return (clean + change).clamp(0, 1)


def smoothed(images: Tensor, sigma: float) -> Tensor:
    """(B, C, H, W) under a Gaussian of ``sigma`` pixels; edges are continued."""
    reach = max(1, round(3 * sigma))
    taps = torch.arange(-reach, reach + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (taps / sigma) ** 2)
    weights = (kernel / kernel.sum()).to(images)
    flat = images.flatten(0, 1).unsqueeze(1)  # (B C, 1, H, W)
    padded = nn.functional.pad(flat, (reach,) * 4, mode="replicate")
    across = nn.functional.conv2d(padded, weights.view(1, 1, 1, -1))
    return nn.functional.conv2d(across, weights.view(1, 1, -1, 1)).view(images.shape)
