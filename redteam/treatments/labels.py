"""Labels alone: what no defense that keeps the top class can spoil."""

from typing import Literal

import torch

from mantlet import simplex
from redteam.learning import Means, Transfer
from redteam.treatments.treatment import Treatment


class Labels(Treatment):
    """Every answer becomes its top class."""

    type: Literal["labels"] = "labels"

    def apply(self, transfer: Transfer, means: Means, generator: torch.Generator) -> Transfer:
        top = transfer.answers.argmax(dim=1)
        return Transfer(transfer.inputs, simplex.one_hot(top, means.classes))
