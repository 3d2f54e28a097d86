"""Queries against a budget: how much of the rows that a thief needs has this client had."""

from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from mantlet.plugin import ThresholdDetector
from mantlet.types import Prediction, Query, State, Task


class Rate(ThresholdDetector):
    """Suspicion is the share of ``rows`` that a client has used in the current window.

    Windows are ``window_s`` seconds long and aligned to the clock. The alarm comes at the last row of
    the budget and is latched. It is a count and no statistical test: an honest client with heavy traffic
    reaches it too, so set ``rows`` from the extraction curve of the model and answer the alarm mildly.

    >>> rate = Rate(rows=4, window_s=60)
    >>> _, suspicion, alarm = rate.update(rate.initial(), np.zeros((5, 1)), 0.0)
    >>> suspicion.tolist(), alarm.tolist()
    ([0.25, 0.5, 0.75, 1.0, 1.0], [False, False, False, True, True])

    What undoes it: many accounts, or patience. Control: OWASP AISVS 11.3.1, MITRE ATLAS AML.M0004.
    """

    type: Literal["rate"] = "rate"
    rows: Annotated[int, Field(ge=1, le=10**15)] = 1_000_000
    """Rows of the budget."""
    window_s: Annotated[float, Field(ge=1)] = 30 * 86_400.0
    """Length of a window."""

    tasks = frozenset(Task)

    def score(self, query: Query, prediction: Prediction) -> Tensor:
        return torch.zeros(len(query.clients), 1)

    def initial(self) -> State:
        return {"counts": np.zeros(3, dtype=np.int64)}  # window, rows used in it, alarm

    def update(
        self, state: State, rows: np.ndarray, at: float
    ) -> tuple[State, np.ndarray, np.ndarray]:
        last, before, alarmed = state["counts"].tolist()
        # a clock that steps back stays in the window it was in: budgets are never refilled by it
        window = max(int(at // self.window_s), last)
        start = before if window == last else 0
        used = np.arange(start + 1, start + len(rows) + 1)
        suspicion = used / self.rows
        alarm = used >= self.rows
        if alarmed or alarm[-1]:
            alarm |= bool(alarmed)
            suspicion[alarm] = 1.0
        after = {"counts": np.array([window, used[-1], alarm[-1]], dtype=np.int64)}
        return after, suspicion, alarm
