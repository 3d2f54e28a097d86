"""Explanations fit for eyes and for little else."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from mantlet import regions
from mantlet.plugin import Defense
from mantlet.types import Kind, Prediction, Query, Signal


class ExplanationDisplay(Defense):
    """Shows how much each cell of ``cell`` x ``cell`` values matters, from 0 to 1, in 2**``bits`` steps.

    ``round(s**gamma * L) / L`` with the mean magnitude of the cell as a share of the row's largest, s, and
    L = 2**bits - 1. The magnitude takes the sign away, the share the scale, the mean all that is finer than a
    cell, and the steps what is left of the numbers; a thief who climbs gradients (MEGEX, Miura et al., 2021)
    needs all of them. ``gamma`` under 1 shows weak cells, and brings the map closer to a flat one, which tells
    of no direction, until a thief who knows it takes the root. Channels are averaged, and all show the same. The
    order of cells stays.

    Cost: a pooling. What undoes it: finite differences along the strong cells, which recover signs at as many
    rows as without a map; a network that learns maps and gradients on the thief's clone. Where gradients of
    a network share one sign nearly everywhere, a flat map points down as well as this one.
    """

    type: Literal["explanation_display"] = "explanation_display"
    cell: Annotated[int, Field(ge=1, le=256)] = 4
    """Side of a cell, in values."""
    bits: Annotated[int, Field(ge=1, le=16)] = 4
    """Bits a cell."""
    gamma: Annotated[float, Field(ge=0.1, le=4)] = 0.5
    """Exponent of the shown share."""
    keeps_top1 = True
    kinds = frozenset({Kind.ATTRIBUTIONS})

    def apply(
        self, prediction: Prediction, query: Query, signals: Mapping[str, Signal]
    ) -> Prediction:
        maps = prediction.values
        levels = 2**self.bits - 1
        shares = regions.scaled(regions.magnitudes(maps, self.cell)) ** self.gamma  # (B, h, w)
        shown = (shares * levels).round() / levels
        return replace(prediction, values=regions.spread(shown, maps, self.cell))
