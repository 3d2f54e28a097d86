"""A temperature on answers, against defenses that flatten them."""

from typing import Literal

import torch
from pydantic import PositiveFloat

from redteam.learning import Means, Transfer
from redteam.treatments.treatment import Treatment


class Sharpen(Treatment):
    """Answers to the power of 1 / ``temperature``, normalised: sharper below 1, flatter above."""

    type: Literal["sharpen"] = "sharpen"
    temperature: PositiveFloat = 0.5

    def apply(self, transfer: Transfer, means: Means, generator: torch.Generator) -> Transfer:
        logs = transfer.answers.clamp_min(1e-12).log()  # a zero stays next to nothing
        return Transfer(transfer.inputs, torch.softmax(logs / self.temperature, dim=1))
