"""ModelGuard-S (Tang, Dang and Yang, 2024): all rows of one cell get one answer, per client."""

from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from mantlet import simplex
from mantlet.plugin import RememberingDefense
from mantlet.types import State

STEPS = 65_535
"""Steps of a probability in a remembered answer: two bytes a class."""


class ModelGuardS(RememberingDefense):
    """Answers a row with the first earlier answer to the same client that is near it and names its class.

    The row's L1 distance from that answer is ``epsilon`` at most; where no answer is so near, the row itself,
    rounded to 16 bits, becomes one, and is never moved or forgotten. All rows of a cell have one answer, so
    whoever recovers the clean row from it, by Bayes or by learning, recovers the mean of the cell and no
    more: Tang, Dang and Yang, "ModelGuard: Information-theoretic defense against model extraction
    attacks", USENIX Security 2024, the ordered incremental quantiser. An old row finds its old answer again, for
    answers are tried in the order of their age.

    Deviations: a client has cells of its own, where the authors keep one set for everybody, so that no
    client reads another's rows or decides what another is answered; and their number is bounded. With
    ``cells`` answers remembered a row near none of them is answered with its label alone, and always will be.

    Cost: 0.07 ms a row of 10 classes where each is another client's, 0.004 ms where all are one's; two bytes
    a class and cell in the client's memory. What undoes it: training on labels alone, which every cell
    keeps; several accounts, whose cells differ: what they are answered to the same row narrows it down.
    """

    type: Literal["modelguard_s"] = "modelguard_s"
    epsilon: Annotated[float, Field(gt=0, le=2)] = 1.0
    """L1 distance that an answer may have from the clean row; 1.0 in the paper's experiments."""
    cells: Annotated[int, Field(ge=1, le=2048)] = 128
    """Answers that are remembered of a client: two bytes each for every class."""
    keeps_top1 = True

    def initial(self) -> State:
        return {"answers": np.zeros((0, 0), np.uint16)}

    def answer(self, state: State, rows: Tensor) -> tuple[State, Tensor]:
        clean = _rounded(rows.numpy(force=True))  # (n, C)
        cells = state["answers"]
        if cells.shape[1] != clean.shape[1]:  # none yet, or of a model of other classes
            cells = np.zeros((0, clean.shape[1]), np.uint16)
        near = self._near(clean, cells)
        place = np.where(near.any(axis=1), _first(near), -1)  # (n,)
        waiting, opened = (place < 0).nonzero()[0], [cells]
        while len(waiting) and len(cells) + len(opened) - 1 < self.cells:
            cell = clean[waiting[:1]]
            joins = self._near(clean[waiting], cell)[:, 0]
            place[waiting[joins]] = len(cells) + len(opened) - 1
            opened.append(cell)
            waiting = waiting[~joins]
        if len(opened) > 1:
            cells = np.concatenate(opened)
            state = {"answers": cells}
        answers = simplex.one_hot(rows.argmax(dim=1), rows.shape[1]).numpy(force=True)
        found = place >= 0
        answers[found] = cells[place[found]] / cells[place[found]].sum(axis=1, keepdims=True)
        return state, torch.from_numpy(answers).to(rows.device, rows.dtype)

    def _near(self, rows: np.ndarray, cells: np.ndarray) -> np.ndarray:
        """(n, m) whether a row is in reach of a cell's answer and of its class."""
        one, other = (torch.from_numpy(values.astype(np.float32)) for values in (rows, cells))
        reach = torch.cdist(one, other, p=1).numpy() <= self.epsilon * STEPS  # whole numbers: exact
        near: np.ndarray = reach & (rows.argmax(axis=1)[:, None] == cells.argmax(axis=1))
        return near


def _first(near: np.ndarray) -> np.ndarray:
    """(n,) the first true place of (n, m); 0 where there is none."""
    first: np.ndarray = near.argmax(axis=1) if near.shape[1] else np.zeros(len(near), np.int64)
    return first


def _rounded(rows: np.ndarray) -> np.ndarray:
    """(n, C) uint16 steps of probabilities; the top class leads by one at least."""
    steps = np.rint(rows.clip(0.0, 1.0).astype(np.float64) * STEPS).astype(np.int64)
    top = rows.argmax(axis=1)[:, None]
    lead = np.take_along_axis(steps, top, axis=1)
    np.put_along_axis(steps, top, -1, axis=1)
    lead = np.maximum(lead, steps.max(axis=1, keepdims=True) + 1)
    np.put_along_axis(steps, top, lead, axis=1)
    return steps.astype(np.uint16)
