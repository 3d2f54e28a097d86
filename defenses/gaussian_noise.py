"""Keyed Gaussian noise on probabilities."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from pydantic import PositiveFloat, PrivateAttr

from mantlet import noise, simplex
from mantlet.plugin import Defense, Setup
from mantlet.types import Prediction, Query, Signal


class GaussianNoise(Defense):
    """Adds N(0, ``sigma``) to every probability, projects to the simplex, and keeps the label.

    The noise is a function of the gateway's secret and the rounded input: the same query draws the
    same noise, so repeats cannot be averaged. Cost: one hash a row. What undoes it: inputs jittered
    beyond the rounding step and averaged, at that many times the queries; label-only training.
    """

    type: Literal["gaussian_noise"] = "gaussian_noise"
    sigma: PositiveFloat = 0.1
    """Standard deviation of the noise."""
    keeps_top1 = True

    _secret: bytes = PrivateAttr()

    def load(self, setup: Setup) -> None:
        self._secret = setup.secret

    def apply(
        self, prediction: Prediction, query: Query, signals: Mapping[str, Signal]
    ) -> Prediction:
        clean = prediction.values
        drawn = noise.normal(self._secret, self.name, query.inputs, clean.shape[1])
        noisy = simplex.normalize(clean + self.sigma * drawn.to(clean.device))
        return replace(prediction, values=simplex.blend_to_keep_top1(clean, noisy))
