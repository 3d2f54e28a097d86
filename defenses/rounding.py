"""Probabilities rounded to a few decimals that still sum to one."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field

from mantlet.plugin import Defense
from mantlet.types import Prediction, Query, Signal


class Rounding(Defense):
    """Rounds to ``decimals``; a row that would leave the simplex is rounded by largest remainders.

    Where rounding ties the top class with an earlier one, one unit moves to the top class: the label
    stays. Cost: one sort. What undoes it: it only coarsens; a thief loses next to nothing at two
    decimals (Tramer et al., 2016), so it is a first layer and never the only one.

    >>> row = Prediction(torch.tensor([[0.335, 0.334, 0.331]]), Kind.PROBABILITIES)
    >>> Rounding(decimals=2).apply(row, None, {}).values.mul(100).round().int().tolist()
    [[34, 33, 33]]
    """

    type: Literal["rounding"] = "rounding"
    decimals: Annotated[int, Field(ge=1, le=6)] = 3
    """Decimals that are kept."""
    keeps_top1 = True

    def apply(
        self, prediction: Prediction, query: Query, signals: Mapping[str, Signal]
    ) -> Prediction:
        units = 10**self.decimals
        scaled = np.multiply(prediction.values.numpy(force=True), units, dtype=np.float64)
        rounded = np.rint(scaled)
        top = scaled.argmax(axis=1)
        # plain rounding serves the rows that it leaves on the simplex with their label
        wrong = (rounded.sum(axis=1) != units) | (rounded.argmax(axis=1) != top)
        if wrong.any():
            rounded[wrong] = _largest_remainders(scaled[wrong], top[wrong], units)
        values = torch.from_numpy((rounded / units).astype(np.float32))
        return replace(prediction, values=values.to(prediction.values.device))


def _largest_remainders(scaled: np.ndarray, top: np.ndarray, units: int) -> np.ndarray:
    """Round (n, C) down, then hand the missing units to the largest remainders, the label kept."""
    floor = np.floor(scaled)
    missing = units - floor.sum(axis=1, keepdims=True)
    rank = (floor - scaled).argsort(axis=1, kind="stable").argsort(axis=1)
    rounded: np.ndarray = floor + (rank < missing)
    # one unit goes from the class that ties with, or beats, the top class
    rival = rounded.argmax(axis=1)
    rows = (rival != top).nonzero()[0]
    if len(rows):
        rounded[rows, top[rows]] += 1
        rounded[rows, rival[rows]] -= 1
    return rounded
