"""CopycatCNN (Correia-Silva et al., 2018): nothing but labels of pictures that need not be alike."""

from typing import Literal

import torch
from torch import nn

from redteam.attacks.attack import Attack, Ledger
from redteam.learning import Means, Transfer
from redteam.treatments.labels import Labels


class Copycat(Attack):
    """Rows of the pool in random order, of whose answers the clone learns the top class alone.

    Confidences are thrown away first; treatments see labels.
    """

    type: Literal["copycat"] = "copycat"

    def steal(self, ledger: Ledger, means: Means, generator: torch.Generator) -> None:
        order = torch.randperm(len(means.pool), generator=generator)
        ledger.ask(means.pool[order[: ledger.left]])

    def learn(
        self, transfer: Transfer | None, means: Means, generator: torch.Generator
    ) -> nn.Module:
        if transfer is not None:
            transfer = Labels().apply(transfer, means, generator)
        return super().learn(transfer, means, generator)
