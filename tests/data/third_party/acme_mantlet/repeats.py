"""Clients that ask for confident answers only."""

from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from torch import Tensor

from mantlet import Prediction, Query, State, ThresholdDetector


class Repeats(ThresholdDetector):
    """Suspicion is the share of ``patience`` rows whose top probability was above 0.5.

    What undoes it: asking about undecided rows.
    """

    type: Literal["repeats"] = "repeats"
    patience: Annotated[int, Field(ge=1, le=1000)] = 4

    def score(self, query: Query, prediction: Prediction) -> Tensor:
        return (prediction.values.amax(dim=1, keepdim=True) > 0.5).float()

    def initial(self) -> State:
        return {"confident": np.zeros(1)}

    def update(
        self, state: State, rows: np.ndarray, at: float
    ) -> tuple[State, np.ndarray, np.ndarray]:
        confident = state["confident"] + rows[:, 0].cumsum()
        suspicion = np.minimum(confident / self.patience, 1.0)
        return {"confident": confident[-1:]}, suspicion, suspicion >= 1.0
