"""Reverse sigmoid (Lee et al., 2018)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import Field

from mantlet import simplex
from mantlet.plugin import Defense
from mantlet.types import Prediction, Query, Signal


class ReverseSigmoid(Defense):
    """Bends probabilities so that several clean values lead to one released value.

    ``y' = normalize(y - beta * (sigmoid(gamma * logit(y)) - 1/2))``, Lee et al., "Defending against
    machine learning model stealing attacks using deceptive perturbations", 2018, equations 3 and 4.
    Deviation: with beta >= 0.5 the formula puts other classes above a confident top class; such a
    row is moved back towards the clean one just until its label is kept.

    Cost: a few element-wise operations. What undoes it: it is deterministic, so a thief who knows it
    learns the inverse from a few hundred rows, or trains on labels alone.
    """

    type: Literal["reverse_sigmoid"] = "reverse_sigmoid"
    beta: Annotated[float, Field(gt=0, le=100)] = 0.7
    """How far probabilities are bent."""
    gamma: Annotated[float, Field(gt=0, le=100)] = 0.2
    """How steeply the bend follows the logit."""
    keeps_top1 = True

    def apply(
        self, prediction: Prediction, query: Query, signals: Mapping[str, Signal]
    ) -> Prediction:
        values = prediction.values
        # clamp: logit(1) is inf, and a one-hot row must not become NaN. Double: rounding, which may differ
        # with the size of the batch, must not part classes that tie
        clean = values.clamp(1e-7, 1.0 - 1e-7).double()
        bent = clean - self.beta * (torch.sigmoid(self.gamma * torch.logit(clean)) - 0.5)
        released = simplex.normalize(bent).to(values.dtype)
        return replace(prediction, values=simplex.blend_to_keep_top1(values, released))
