"""Keyed Gaussian noise on probabilities, or on the pixels of pictures."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from pydantic import PositiveFloat, PrivateAttr

from mantlet import noise, simplex
from mantlet.plugin import Defense, Setup
from mantlet.types import Kind, Prediction, Query, Signal


class GaussianNoise(Defense):
    """Adds N(0, ``sigma``) to every probability, projects to the simplex, and keeps the label; or to every pixel.

    The noise is a function of the gateway's secret and the rounded input: the same query draws the
    same noise, so repeats cannot be averaged. Pictures are clipped to [0, 1] after it; Hu and Pang (ACSAC 2021)
    take a ``sigma`` of 0.001 for those of a generator, which nobody sees and which a copy hardly minds.

    Cost: one hash a row, and of pictures 20 ns a pixel. What undoes it: inputs jittered
    beyond the rounding step and averaged, at that many times the queries; label-only training; of pictures, any
    denoiser, and training itself, which averages.
    """

    type: Literal["gaussian_noise"] = "gaussian_noise"
    sigma: PositiveFloat = 0.1
    """Standard deviation of the noise."""
    keeps_top1 = True
    kinds = frozenset({Kind.PROBABILITIES, Kind.IMAGES})

    _secret: bytes = PrivateAttr()

    def load(self, setup: Setup) -> None:
        self._secret = setup.secret

    def apply(
        self, prediction: Prediction, query: Query, signals: Mapping[str, Signal]
    ) -> Prediction:
        clean = prediction.values
        if prediction.kind is Kind.IMAGES:
            seeds = noise.row_seeds(self._secret, self.name, query.inputs)
            pixels = noise.fields(seeds, clean.shape[1:]).to(clean.device)
            return replace(prediction, values=(clean + self.sigma * pixels).clamp(0, 1))
        drawn = noise.normal(self._secret, self.name, query.inputs, clean.shape[1])
        noisy = simplex.normalize(clean + self.sigma * drawn.to(clean.device))
        return replace(prediction, values=simplex.blend_to_keep_top1(clean, noisy))
