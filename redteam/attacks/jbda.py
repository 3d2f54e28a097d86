"""Jacobian-based data augmentation (Papernot et al., 2017)."""

from typing import Literal

import torch
from torch import Tensor, nn

from redteam.attacks.doubling import Doubling, moved
from redteam.learning import Transfer


class Jbda(Doubling):
    """Every new row lies a step up the substitute's score of the victim's label of an old one."""

    type: Literal["jbda"] = "jbda"

    def augmented(
        self, network: nn.Module, transfer: Transfer, generator: torch.Generator
    ) -> Tensor:
        return moved(network, transfer.inputs, transfer.answers.argmax(dim=1), self.step)
