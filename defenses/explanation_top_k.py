"""Explanations that say where, and not how much."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import Field

from mantlet import regions
from mantlet.plugin import Defense
from mantlet.types import Kind, Prediction, Query, Signal


class ExplanationTopK(Defense):
    """Answers 1 in the cells that matter most, a ``share`` of all, and 0 in the others.

    A cell of ``cell`` x ``cell`` values matters as much as their mean magnitude, over all channels; of cells
    that matter as much the first counts, and one without magnitude never does.

    Cost: a pooling and a sort. What undoes it: as of `explanation_display`: the mask says where a thief's probes
    should point. The fewer cells are marked the better they do, so a small share tells more, not less; with
    the defaults it is no more than the display tells.
    """

    type: Literal["explanation_top_k"] = "explanation_top_k"
    share: Annotated[float, Field(gt=0, le=1)] = 0.35
    """Cells that are marked, of all."""
    cell: Annotated[int, Field(ge=1, le=256)] = 7
    """Side of a cell, in values."""
    keeps_top1 = True
    kinds = frozenset({Kind.ATTRIBUTIONS})

    def apply(
        self, prediction: Prediction, query: Query, signals: Mapping[str, Signal]
    ) -> Prediction:
        maps = prediction.values
        cells = regions.magnitudes(maps, self.cell)
        flat = cells.flatten(1)  # (B, N)
        count = math.ceil(self.share * flat.shape[1])
        strongest = flat.argsort(dim=1, descending=True, stable=True)[:, :count]
        mask = torch.zeros_like(flat).scatter(1, strongest, 1.0) * (flat > 0)
        return replace(prediction, values=regions.spread(mask.view_as(cells), maps, self.cell))
