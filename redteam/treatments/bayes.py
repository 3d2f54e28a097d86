"""Partial Bayes (Tang et al., ModelGuard, 2024): the expected clean answer, given the released one."""

from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor

from redteam.treatments.shadows import Shadows


class Bayes(Shadows):
    """The mean clean answer of the ``neighbours`` shadow answers whose defended form is nearest.

    It is an estimate of E[clean | defended] with the shadows' clean answers as the prior: no attacker
    that sees a single answer can do better in squared error, up to that prior.
    """

    type: Literal["bayes"] = "bayes"
    neighbours: PositiveInt = 10

    def back(
        self, released: Tensor, defended: Tensor, clean: Tensor, generator: torch.Generator
    ) -> Tensor:
        parts = [self._expected(part, defended, clean) for part in torch.split(released, 1024)]
        return torch.cat(parts)

    def _expected(self, released: Tensor, defended: Tensor, clean: Tensor) -> Tensor:
        """(B, C) means of clean answers."""
        count = min(self.neighbours, len(defended))
        nearest = torch.cdist(released, defended).topk(count, dim=1, largest=False).indices
        return clean[nearest].mean(dim=1)
