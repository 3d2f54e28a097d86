"""Answers mixed with the uniform distribution."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from mantlet import Defense, Prediction, Query, Signal, simplex


class UniformMix(Defense):
    """Moves every row towards the centre of the simplex by ``share``.

    Cost: none. What undoes it: subtracting the same share.
    """

    type: Literal["uniform_mix"] = "uniform_mix"
    share: Annotated[float, Field(ge=0, le=0.9)] = 0.5
    keeps_top1 = True

    def apply(
        self, prediction: Prediction, query: Query, signals: Mapping[str, Signal]
    ) -> Prediction:
        clean = prediction.values
        mixed = (1 - self.share) * clean + self.share / clean.shape[1]
        # a lead of a few units in the last place may drown in the rounding of the sum
        return replace(prediction, values=simplex.blend_to_keep_top1(clean, mixed))
