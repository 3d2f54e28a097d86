"""Data-free model extraction (Truong, Maini, Walls and Papernot, 2021): a generator in place of data."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from redteam.attacks.data_free import DataFree


class Dfme(DataFree):
    """Disagreement is mean_k |s_k - v_k|, v the victim's logits as its probabilities show them.

    v = log p - mean_k log p, with p raised to ``floor`` first, since answers may hold zeros.
    """

    type: Literal["dfme"] = "dfme"
    batch: PositiveInt = 64
    directions: PositiveInt = 1
    replay_steps: Annotated[int, Field(ge=0)] = 0
    lr_generator: PositiveFloat = 1e-3
    lr_clone: PositiveFloat = 0.1
    floor: PositiveFloat = 1e-6

    def disagreement(self, scores: Tensor, answers: Tensor) -> Tensor:
        return (scores - self.recovered(answers)).abs().mean(dim=1)

    def recovered(self, answers: Tensor) -> Tensor:
        """(B, C) centred logits of the victim."""
        logs = answers.clamp_min(self.floor).log()
        return logs - logs.mean(dim=1, keepdim=True)
