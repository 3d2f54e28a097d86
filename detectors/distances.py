"""Distances: does each row lie as far from the client's earlier rows as honest rows do?"""

from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from detectors.recall import codes_of, projection, recall
from mantlet.errors import CalibrationError
from mantlet.plugin import Calibration, EvidenceDetector
from mantlet.types import Prediction, Query, State

SIZES = np.array([1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256])
"""Numbers of rows to compare with, for which there are thresholds."""
CHUNK = 256
"""Rows that are compared with each other at once."""


class Distances(EvidenceDetector):
    """PRADA's least distance within the predicted class, against that of honest rows; gives two scores.

    A row's score is 1 where its least distance to the client's last ``partners`` rows of its class is
    in the lower tail of the benign distribution for that class and so many rows, and 1 where it is in
    the upper one. Rows made from others and the pictures of a collapsed generator are too near,
    noise and foreign pictures too far.

    From PRADA (Juuti et al., 2019; see `detectors.prada`) it takes the statistic. Not a normal law but
    the model's own benign distances are the measure, so it holds for every shape of them; rows, not
    windows, are judged, and tested by `detectors.evidence`. The same row again, and those of the last
    ``gap`` rows, as of a camera's burst, do not count. Classes beyond ``classes`` share their memory.

    What undoes it: foreign pictures that lie as far from each other as honest ones, in-distribution data,
    many accounts, and a thief who sends a class in bursts shorter than ``gap``.
    """

    type: Literal["distances"] = "distances"
    quantile: Annotated[float, Field(gt=0, le=0.2)] = 0.02
    """Share of benign rows in either tail."""
    space: Literal["features", "inputs"] = "features"
    """Where distances are taken; the inputs where the victim shows no features."""
    dimensions: Annotated[int, Field(ge=4, le=64)] = 16
    """Bytes of a code, to which the row is projected at random."""
    partners: Annotated[int, Field(ge=2, le=256)] = 48
    """Rows of each class that are remembered."""
    classes: Annotated[int, Field(ge=1, le=256)] = 10
    """Classes with a memory of their own."""
    gap: Annotated[int, Field(ge=0, le=100_000)] = 32
    """Rows just before a row that are not compared with it."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Of the random projection."""

    columns: ClassVar[int] = 2

    def score(self, query: Query, prediction: Prediction) -> Tensor:
        """(B, 1 + k): the predicted class, and the projected row; judged in ``watch``."""
        scores = np.zeros((len(query.inputs), 1 + self.dimensions), np.float32)
        scores[:, 0] = self._label(prediction)
        if self._learned:
            rows = self._rows(query, prediction)
            scores[:, 1:] = rows @ self._learned["basis"] - self._learned["centre"]
        return torch.from_numpy(scores)

    def _label(self, prediction: Prediction) -> np.ndarray:
        label = prediction.values.reshape(len(prediction.values), -1).argmax(dim=1).numpy()
        return label % self.classes  # type: ignore[no-any-return]  # numpy cannot tell

    def _rows(self, query: Query, prediction: Prediction) -> np.ndarray:
        shown = prediction.features if self.space == "features" else None
        return (query.inputs if shown is None else shown).reshape(len(query.inputs), -1).numpy()

    def initial(self) -> State:
        many = self.classes * self.partners
        return {
            "codes": np.zeros((many, self.dimensions), np.int8),
            "born": np.zeros(many, np.uint32),
            "rows": np.zeros(self.classes + 1, np.uint32),  # of each class, and of all
        }

    def fits(self, state: State) -> bool:
        first = self.initial()
        return state.keys() == first.keys() and all(
            state[name].shape == first[name].shape for name in first
        )

    def watch(self, state: State, rows: np.ndarray, at: float) -> tuple[State, np.ndarray]:
        flags = np.zeros((len(rows), 2))
        if not self._learned:
            return state, flags
        for start in range(0, len(rows), CHUNK):
            part = slice(start, start + CHUNK)
            state, flags[part] = self._watch(state, rows[part])
        return state, flags

    def _watch(self, state: State, rows: np.ndarray) -> tuple[State, np.ndarray]:
        label = rows[:, 0].astype(np.int64)
        counts, slots = state["rows"].copy(), []
        for one in label.tolist():
            slots.append(one * self.partners + int(counts[one]) % self.partners)
            counts[one] += 1
        first = int(counts[-1]) + 1
        counts[-1] += len(rows)
        found = recall(state["codes"], state["born"], codes_of(rows[:, 1:]), slots, first)
        owner = np.concatenate([np.arange(self.classes).repeat(self.partners), label])
        seen = (found.lag > self.gap) & (owner == label[:, None]) & (found.square > 0)
        after = {"codes": found.codes, "born": found.born.astype(np.uint32), "rows": counts}
        return after, self._tails(_least(found.square, seen), seen.sum(axis=1), label)

    def _tails(self, least: np.ndarray, size: np.ndarray, label: np.ndarray) -> np.ndarray:
        bucket = np.maximum(np.searchsorted(SIZES, size, side="right") - 1, 0)
        low, high = self._learned["tails"][:, label, bucket]
        some = size > 0
        return np.stack([some & (least < low), some & (least > high)], axis=1)

    def calibrate(self, query: Query, prediction: Prediction) -> Calibration:
        """Tails of the least distance, by class and number of rows; needs 200 rows or more.

        Nothing is said of classes of which there are fewer than 50.
        """
        rows = self._rows(query, prediction).astype(np.float64)
        if len(rows) < 200:
            raise CalibrationError(
                f"detector '{self.name}': {len(rows)} benign rows are too few to know how far they"
                " are from each other; give at least 200, better 5,000"
            )
        basis = projection(rows.shape[1], self.dimensions, self.seed)
        projected = rows @ basis
        scale = max(float(projected.std(axis=0).mean()), 1e-9)
        basis, centre = basis / scale, projected.mean(axis=0) / scale
        codes = codes_of(projected / scale - centre)
        label, rng = self._label(prediction), np.random.default_rng(self.seed)
        tails = np.zeros((2, self.classes, len(SIZES)))
        tails[1] = np.inf
        for one in range(self.classes):
            own = codes[label == one].astype(np.float32)
            if len(own) >= 50:
                tails[:, one] = np.transpose([self._tail(own, int(s), rng) for s in SIZES])
        return {
            "basis": basis.astype(np.float32),
            "centre": centre.astype(np.float32),
            "tails": tails,
        }

    def _tail(self, codes: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
        """(2,) quantiles of the least distance to ``size`` rows, drawn anew for every part."""
        norms, found = (codes * codes).sum(axis=1), []
        for part in np.array_split(np.arange(len(codes)), 16):
            drawn = rng.permutation(len(codes))[:size]
            square = norms[part, None] + norms[drawn] - 2.0 * (codes[part] @ codes[drawn].T)
            found.append(_least(square, (part[:, None] != drawn) & (square > 0)))
        least = np.concatenate(found)
        known = least[np.isfinite(least)]
        if not len(known):
            return np.array([0.0, np.inf])
        return np.quantile(known, [self.quantile, 1 - self.quantile])


def _least(square: np.ndarray, seen: np.ndarray) -> np.ndarray:
    least: np.ndarray = np.where(seen, square, np.inf).min(axis=1)
    if SCALED:
        least = least / np.maximum(np.where(seen,square,0).sum(axis=1)/np.maximum(seen.sum(axis=1),1),1e-9)
    return least
SCALED=False
