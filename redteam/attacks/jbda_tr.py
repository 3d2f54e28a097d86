"""JBDA towards random other classes (T-RND; Juuti et al., 2019)."""

from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from redteam.attacks.doubling import Doubling, moved
from redteam.learning import Transfer


class JbdaTr(Doubling):
    """Every new row lies ``small_steps`` of ``step`` / ``small_steps`` towards another class, drawn."""

    type: Literal["jbda_tr"] = "jbda_tr"
    small_steps: PositiveInt = 5

    def augmented(
        self, network: nn.Module, transfer: Transfer, generator: torch.Generator
    ) -> Tensor:
        label, classes = transfer.answers.argmax(dim=1), transfer.answers.shape[1]
        other = torch.randint(1, classes, label.shape, generator=generator)
        inputs = transfer.inputs
        for _ in range(self.small_steps):
            inputs = moved(network, inputs, (label + other) % classes, self.step / self.small_steps)
        return inputs
