"""ModelGuard-W (Tang, Dang and Yang, 2024): the answer that teaches least within a budget."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field

from mantlet import simplex
from mantlet.plugin import Defense
from mantlet.types import Prediction, Query, Signal

MARGIN = 1e-4
"""How far the top class of an answer leads; less where its lead was smaller in the clean row."""
UNIT = 1e-6
"""Step to which probabilities are rounded in the objective, so that rounding errors choose no class."""
PIECES = 100
"""Straight pieces of the objective that are visited at most; rows of 1,000 classes need under 30."""


class ModelGuardW(Defense):
    """Answers the vector that costs a thief who trains on it the most, within an L1 budget.

    For a clean row y the answer y' maximises ``-sum_j y'_j log y_j``, the loss that the answer would have
    under the model itself, subject to ``|y' - y|_1 <= epsilon``, the simplex, and
    ``y'_top >= y'_j + 1e-4``: Tang, Dang and Yang, "ModelGuard: Information-theoretic defense against
    model extraction attacks", USENIX Security 2024, the weakened form. The linear program is solved
    exactly: at a given top probability mass moves from the likeliest classes to the least likely ones
    (a sort and cumulative sums), and the objective is piecewise linear and convex in that probability.
    Deviations: y is rounded to 1e-6 in the objective, and a row that leads by less than 1e-4 keeps
    that lead.

    Cost: 0.03 ms a row of 10 classes in a batch of 32, and 0.5 ms for one alone. What undoes it: training
    on labels alone; for a thief who knows it, a table of model answers and what becomes of them (partial
    Bayes) or a learned inverse (D-DAE), for an answer is a fixed function of the clean row.
    """

    type: Literal["modelguard_w"] = "modelguard_w"
    epsilon: Annotated[float, Field(gt=0, le=2)] = 1.0
    """L1 distance that an answer may have from the clean row; 1.0 in the paper's experiments."""
    keeps_top1 = True

    def apply(
        self, prediction: Prediction, query: Query, signals: Mapping[str, Signal]
    ) -> Prediction:
        clean = prediction.values
        values = torch.from_numpy(farthest(clean.numpy(force=True), self.epsilon))
        released = simplex.blend_to_keep_top1(clean, values.to(clean.device, clean.dtype))
        return replace(prediction, values=released)


def farthest(rows: np.ndarray, epsilon: float) -> np.ndarray:
    """(B, C) float64 solutions of the linear program for (B, C) probabilities, C >= 2."""
    clean = np.maximum(rows.astype(np.float64), 0.0)
    clean /= clean.sum(axis=1, keepdims=True)
    keys = np.rint(clean / UNIT)
    np.put_along_axis(keys, clean.argmax(axis=1)[:, None], np.inf, axis=1)
    order = keys.argsort(axis=1, kind="stable")  # the least likely first, the top class last
    program = _Program.of(np.take_along_axis(clean, order, axis=1), epsilon)
    answers = np.empty_like(clean)
    np.put_along_axis(answers, order, program.solve(), axis=1)
    return answers


@dataclass(frozen=True)
class _Program:
    """Linear programs in one unknown each, the top probability t; what is best at a t is known.

    ``others`` and ``costs`` (B, n) rise in cost; ``top``, ``top_cost``, ``margin`` are (B, 1).
    """

    others: np.ndarray
    costs: np.ndarray
    top: np.ndarray
    top_cost: np.ndarray
    margin: np.ndarray
    budget: float
    """Mass that may move: half the L1 distance."""

    @classmethod
    def of(cls, rows: np.ndarray, epsilon: float) -> "_Program":
        costs = np.log(np.rint(rows / UNIT) * UNIT + UNIT)
        others, top = rows[:, :-1], rows[:, -1:]
        margin = np.minimum(MARGIN, top - others.max(axis=1, keepdims=True))
        return cls(others, costs[:, :-1], top, costs[:, -1:], margin, epsilon / 2)

    def solve(self) -> np.ndarray:
        """(B, n + 1) best rows: where the slopes on both sides of t meet zero."""
        low, high = self._ends()
        (low_value, low_slope), (high_value, high_slope) = self._at(low), self._at(high)
        best = np.where(low_slope >= 0, low, high)
        going = (low_slope < 0) & (high_slope > 0)
        for _ in range(PIECES):
            if not going.any():
                break
            bend = np.where(going, low_slope - high_slope, 1.0)
            meet = (high_value - low_value + low_slope * low - high_slope * high) / bend
            meet = np.where(going, np.clip(meet, low, high), best)
            value, slope = self._at(meet)
            best = meet
            falls, rises = going & (slope < 0), going & (slope >= 0)
            # both lines meet on the graph: no piece lies between
            under = low_value + low_slope * (meet - low)
            going &= (value - under > 1e-13) & (slope != 0)
            low, low_value = np.where(falls, meet, low), np.where(falls, value, low_value)
            low_slope = np.where(falls, slope, low_slope)
            high, high_value = np.where(rises, meet, high), np.where(rises, value, high_value)
            high_slope = np.where(rises, slope, high_slope)
        return np.concatenate([self._moved(best)[0], best], axis=1)

    def _ends(self) -> tuple[np.ndarray, np.ndarray]:
        """(B, 1) least and largest t at which any answer is allowed."""
        count = self.others.shape[1]
        rank = np.arange(count + 1)
        # the m likeliest classes come down with the top class, all of it within the budget
        falling = -np.sort(-self.others, axis=1)
        least = self.top + np.concatenate([np.zeros_like(self.top), falling.cumsum(axis=1)], axis=1)
        least = (least + rank * self.margin - self.budget) / (rank + 1)
        fair = (1.0 + count * self.margin) / (count + 1)
        low = np.minimum(np.maximum(least.max(axis=1, keepdims=True), fair), self.top)
        return low, np.minimum(self.top + self.budget, 1.0)

    def _at(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(B, 1) cost of the best row at ``t`` and a slope there, from the prices of its classes."""
        others, taker, giver = self._moved(t)
        value = self.top_cost * t + (self.costs * others).sum(axis=1, keepdims=True)
        index = np.arange(self.costs.shape[1])
        taking = np.take_along_axis(self.costs, taker, axis=1)
        giving = np.take_along_axis(self.costs, giver, axis=1)
        held = self.others > t - self.margin  # likelier than the top class may now be
        price = np.where(held & (index <= giver), giving - self.costs, 0.0)
        price = np.where(~held & (index < taker), taking - self.costs, price)
        slope = self.top_cost - (taking + giving) / 2 - price.sum(axis=1, keepdims=True)
        slope += np.where(t < self.top, -0.5, 0.5) * (giving - taking)
        return value, slope

    def _moved(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(B, n) best other classes at ``t``, and (B, 1) who would take more mass and who would give it."""
        cap = np.maximum(t - self.margin, 0.0)
        start = np.minimum(self.others, cap)
        index = np.arange(self.others.shape[1])
        free = np.clip(1.0 - t - cap * index, 0.0, cap)  # the best without a budget
        room, spare = np.maximum(free - start, 0.0), np.maximum(start - free, 0.0)
        total = room.sum(axis=1, keepdims=True)
        taken = np.minimum(self.budget - np.maximum(t - self.top, 0.0), total)
        given = taken - (self.top - t) - (self.others - start).sum(axis=1, keepdims=True)
        filled, emptied = room.cumsum(axis=1), spare[:, ::-1].cumsum(axis=1)[:, ::-1]
        gains = np.clip(taken - (filled - room), 0.0, room)
        losses = np.clip(given - (emptied - spare), 0.0, spare)
        # who is next: the first with room, the last with mass; without a budget it is one and the same
        turn = np.minimum((1.0 - t) // np.maximum(cap, UNIT), len(index) - 1).astype(np.int64)
        bound = taken < total - 1e-12
        taker = np.where(bound, (filled > taken).argmax(axis=1)[:, None], turn)
        last = len(index) - 1 - ((emptied > given)[:, ::-1]).argmax(axis=1)[:, None]
        return start + gains - losses, taker, np.where(bound, last, turn)
