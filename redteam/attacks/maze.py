"""MAZE (Kariyappa, Prakash and Qureshi, 2021): zeroth-order gradients of a divergence, and replay."""

from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from redteam.attacks.data_free import DataFree


class Maze(DataFree):
    """Disagreement is KL[p_V : p_S], the victim's answers raised to ``floor`` first.

    Ten directions a picture, and the clone sees what was answered before once more.
    """

    type: Literal["maze"] = "maze"
    batch: PositiveInt = 64
    directions: PositiveInt = 10
    replay_steps: Annotated[int, Field(ge=0)] = 10
    lr_generator: PositiveFloat = 1e-3
    lr_clone: PositiveFloat = 0.1
    floor: PositiveFloat = 1e-6

    def disagreement(self, scores: Tensor, answers: Tensor) -> Tensor:
        raised = answers.clamp_min(self.floor)
        apart: Tensor = (raised * (raised.log() - torch.log_softmax(scores, dim=1))).sum(dim=1)
        return apart
