"""Explanations without fine detail, with keyed noise."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeFloat, PrivateAttr
from torch import Tensor

from mantlet import noise, regions
from mantlet.plugin import Defense, Setup
from mantlet.types import Kind, Prediction, Query, Signal


class ExplanationSmooth(Defense):
    """Blurs each map with a Gaussian of deviation ``sigma``, and adds noise of ``noise`` times its strength.

    Strength is the root mean square of the row's blurred map. The noise is a function of secret and rounded
    row: the same query draws the same noise. The sign stays, so put `explanation_display` behind it.

    Cost: two small convolutions and a hash. What undoes it: rows jittered beyond the rounding step and
    averaged, at that many times the queries; the blur keeps the direction of what is coarse.
    """

    type: Literal["explanation_smooth"] = "explanation_smooth"
    sigma: Annotated[float, Field(ge=0.1, le=32)] = 1.5
    """Deviation of the blur, in values."""
    noise: Annotated[NonNegativeFloat, Field(le=100)] = 0.5
    """Deviation of the noise, as a share of the map's strength."""
    keeps_top1 = True
    kinds = frozenset({Kind.ATTRIBUTIONS})

    _secret: bytes = PrivateAttr()

    def load(self, setup: Setup) -> None:
        self._secret = setup.secret

    def apply(
        self, prediction: Prediction, query: Query, signals: Mapping[str, Signal]
    ) -> Prediction:
        planes = regions.planes(prediction.values)  # (B, C, H, W)
        blurred = self._along(self._along(planes, 2), 3).reshape(prediction.values.shape)
        flat = blurred.flatten(1)
        top = flat.abs().amax(dim=1, keepdim=True)
        strength = top * regions.scaled(flat).square().mean(dim=1, keepdim=True).sqrt()
        drawn = noise.normal(self._secret, self.name, query.inputs, flat.shape[1]).to(flat)
        noisy = flat + self.noise * strength * drawn
        return replace(prediction, values=noisy.view_as(blurred))

    def _along(self, planes: Tensor, axis: int) -> Tensor:
        """Blurred along one axis; what lies beyond the edge is what lies at it."""
        reach = min(math.ceil(3 * self.sigma), planes.shape[axis] - 1)
        offsets = range(-reach, reach + 1)
        weights = torch.tensor([-0.5 * (offset / self.sigma) ** 2 for offset in offsets]).softmax(0)
        places = torch.arange(planes.shape[axis])
        last = planes.shape[axis] - 1
        shifted = [
            weight * planes.index_select(axis, (places + offset).clamp(0, last))
            for weight, offset in zip(weights, offsets, strict=True)
        ]
        return torch.stack(shifted).sum(dim=0)
