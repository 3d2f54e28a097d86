"""Dropping answers that are not sure: what a defense does to those it does least to the others."""

from typing import Annotated, Literal

import torch
from pydantic import Field

from redteam.learning import Means, Transfer
from redteam.treatments.treatment import Treatment


class Confident(Treatment):
    """Keeps the rows whose top answer is at least ``floor``; all of them where none is."""

    type: Literal["confident"] = "confident"
    floor: Annotated[float, Field(gt=0, le=1)] = 0.5

    def apply(self, transfer: Transfer, means: Means, generator: torch.Generator) -> Transfer:
        sure = transfer.answers.amax(dim=1) >= self.floor
        if not sure.any():
            return transfer
        return Transfer(transfer.inputs[sure], transfer.answers[sure])
