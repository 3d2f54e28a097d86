"""Probabilities rounded to a few decimals that still sum to one."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from mantlet.plugin import Defense
from mantlet.types import Prediction, Query, Signal


class Rounding(Defense):
    """Rounds to ``decimals`` by largest remainders, so that rows stay on the simplex.

    Where rounding ties the top class with an earlier one, one unit moves to the top class: the label
    stays. Cost: one sort. What undoes it: it only coarsens; a thief loses next to nothing at two
    decimals (Tramer et al., 2016), so it is a first layer and never the only one.

    >>> row = Prediction(torch.tensor([[0.335, 0.334, 0.331]]), Kind.PROBABILITIES)
    >>> Rounding(decimals=2).apply(row, None, {}).values.mul(100).round().int().tolist()
    [[34, 33, 33]]
    """

    type: Literal["rounding"] = "rounding"
    decimals: Annotated[int, Field(ge=1, le=6)] = 3
    keeps_top1 = True

    def apply(
        self, prediction: Prediction, query: Query, signals: Mapping[str, Signal]
    ) -> Prediction:
        units = 10**self.decimals
        scaled = prediction.values.double() * units
        floor = scaled.floor()
        missing = (units - floor.sum(dim=1, keepdim=True)).round()  # units still to hand out
        order = (scaled - floor).argsort(dim=1, descending=True, stable=True)
        rank = torch.empty_like(order).scatter_(1, order, _positions(order))
        rounded = _keep_top(floor + (rank < missing), prediction.values.argmax(dim=1, keepdim=True))
        return replace(prediction, values=(rounded / units).to(prediction.values.dtype))


def _positions(order: Tensor) -> Tensor:
    return torch.arange(order.shape[1], device=order.device).expand_as(order)


def _keep_top(rounded: Tensor, top: Tensor) -> Tensor:
    """Take one unit from the class that ties with, or beats, the clean top class."""
    rival = rounded.argmax(dim=1, keepdim=True)
    moved = (rival != top).to(rounded.dtype)
    return rounded.scatter_add(1, top, moved).scatter_add(1, rival, -moved)
