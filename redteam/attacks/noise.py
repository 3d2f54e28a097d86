"""Uniform noise: the least that a thief without any data can send."""

from typing import ClassVar, Literal

import torch

from redteam.attacks.attack import Attack, Ledger
from redteam.learning import Means


class Noise(Attack):
    """Rows whose every number is uniform in [0, 1)."""

    type: Literal["noise"] = "noise"
    needs_pool: ClassVar[bool] = False

    def steal(self, ledger: Ledger, means: Means, generator: torch.Generator) -> None:
        while ledger.left:
            rows = min(self.request, ledger.left)
            ledger.ask(torch.rand(rows, *means.shape, generator=generator))
