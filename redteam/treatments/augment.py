"""Altered copies of the answered rows: more to learn from, without a query more."""

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mantlet.errors import ConfigError
from redteam.learning import Means, Transfer
from redteam.treatments.treatment import Treatment


class Augment(Treatment):
    """The rows, and ``copies`` of each with its answer, turned, scaled and moved at random.

    Every copy draws its own angle, scale and shift, evenly within the bounds; bilinear, with zeros
    beyond the edge. Rows and copies together are ``most`` at most: the more rows, the fewer copies.
    """

    type: Literal["augment"] = "augment"
    copies: Annotated[int, Field(ge=1, le=1000)] = 40
    angle: Annotated[float, Field(ge=0, le=180)] = 15.0
    """Degrees either way."""
    scale: Annotated[float, Field(ge=0, le=0.9)] = 0.12
    """Share of the size, either way."""
    shift: Annotated[float, Field(ge=0, le=1)] = 0.07
    """Share of the sides, either way."""
    most: Annotated[int, Field(ge=1, le=1_000_000)] = 40_000

    def apply(self, transfer: Transfer, means: Means, generator: torch.Generator) -> Transfer:
        if transfer.inputs.ndim != 4:
            raise ConfigError(
                f"treatment 'augment': rows of shape {tuple(transfer.inputs.shape[1:])} are no"
                " pictures (C, H, W); leave the treatment out"
            )
        copies = max(0, min(self.copies, self.most // max(1, len(transfer)) - 1))
        altered = [self._altered(transfer.inputs, generator) for _ in range(copies)]
        return Transfer(
            torch.cat([transfer.inputs, *altered]), transfer.answers.repeat(copies + 1, 1)
        )

    def _altered(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """(n, C, H, W) one copy of each row."""
        height, width = inputs.shape[2:]
        drawn = 2 * torch.rand((4, len(inputs)), generator=generator) - 1
        angle, scale = drawn[0] * math.radians(self.angle), 1 + drawn[1] * self.scale
        shift = 2 * drawn[2:] * self.shift  # a side is 2 long in the grid's units
        cosine, sine = angle.cos() / scale, angle.sin() / scale
        across = torch.stack([cosine, -sine * height / width, shift[0]], dim=1)
        down = torch.stack([sine * width / height, cosine, shift[1]], dim=1)
        grid = nn.functional.affine_grid(
            torch.stack([across, down], dim=1), list(inputs.shape), align_corners=False
        )
        return nn.functional.grid_sample(inputs, grid, align_corners=False)
