"""What a thief who knows of a defense does with its answers before it learns from them."""

from abc import ABC, abstractmethod

import torch
from pydantic import BaseModel, ConfigDict

from redteam.learning import Means, Transfer


class Treatment(BaseModel, ABC):
    """Frozen settings with a ``type``, its name in a plan; a subclass writes ``apply``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: str

    @abstractmethod
    def apply(self, transfer: Transfer, means: Means, generator: torch.Generator) -> Transfer:
        """The transfer set to learn from: other answers on the simplex, fewer rows, or more."""
