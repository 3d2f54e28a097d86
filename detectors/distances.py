"""Distances: does each row lie as far from the client's earlier rows as honest rows do?"""

from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from detectors.recall import codes_of, empty, in_parts, projection, recall, remember, runs
from mantlet.errors import CalibrationError
from mantlet.plugin import Calibration, EvidenceDetector
from mantlet.types import Prediction, Query, State

SIZES = np.unique(np.geomspace(1, 64, 40).round().astype(np.int64))
"""Numbers of rows to compare with, for which there are thresholds."""
CHUNK = 256
"""Rows that are compared with each other at once."""


class Distances(EvidenceDetector):
    """PRADA's least distance within the predicted class, against that of the model's own honest rows.

    A row's score is 1 where its least distance to the client's last ``partners`` rows of its class is
    in the lower tail of the benign distribution for that class and so many rows. It is a share of the
    mean distance to these rows, so that a camera of less contrast changes nothing; with
    ``relative`` off it is absolute, which also sees what a victim cannot tell apart (noise, generators
    that collapsed, foreign pictures) and accuses other cameras. The upper tail told honest bursts from
    honest rows and no attack from either, and is not used.

    From PRADA (Juuti et al., 2019; see `detectors.prada`) it takes the statistic. Not a normal law but
    benign distances are the measure, so it holds for every shape of them; rows, not windows, are
    judged, and tested by `detectors.evidence`. The same row again, and those of the last ``gap`` rows, as
    of a camera's burst, do not count, nor does a row that is nearer to these, until that has gone on for more
    than ``gap`` rows. Classes beyond ``classes`` share their memory. A row's cost is
    that of the distances to ``classes`` * ``partners`` codes.

    What undoes it: rows that are not made from others, foreign or not; many accounts; a single class,
    of which the last ``gap`` rows hide all that is remembered where ``partners`` are not more. A victim
    that was trained with InI tells small steps apart in its features: there, take the ``inputs``.
    """

    type: Literal["distances"] = "distances"
    quantile: Annotated[float, Field(gt=0, le=0.2)] = 0.02
    """Share of benign rows in the tail."""
    relative: bool = True
    """Whether distances count as a share of the mean distance to the same rows."""
    space: Literal["features", "inputs"] = "features"
    """Where distances are taken; the inputs where the victim shows no features."""
    dimensions: Annotated[int, Field(ge=4, le=32)] = 16
    """Bytes of a code, to which the row is projected at random."""
    partners: Annotated[int, Field(ge=2, le=64)] = 48
    """Rows of each class that are remembered."""
    classes: Annotated[int, Field(ge=1, le=64)] = 10
    """Classes with a memory of their own."""
    gap: Annotated[int, Field(ge=0, le=100_000)] = 32
    """Rows just before a row that are not compared with it."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Of the random projection."""

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
        return label % self.classes

    def _rows(self, query: Query, prediction: Prediction) -> np.ndarray:
        shown = prediction.features if self.space == "features" else None
        return (query.inputs if shown is None else shown).reshape(len(query.inputs), -1).numpy()

    def initial(self) -> State:
        counts = np.zeros(self.classes + 2, np.uint32)  # rows of each class, of all, of this burst
        return empty(self.classes * self.partners, self.dimensions) | {"rows": counts}

    def fits(self, state: State) -> bool:
        size = (self.classes * self.partners, self.dimensions)
        return (
            state.keys() == self._fields
            and state["codes"].shape == size
            and len(state["rows"]) == self.classes + 2
        )

    def watch(self, state: State, rows: np.ndarray, at: float) -> tuple[State, np.ndarray]:
        if not self._learned:
            return state, np.zeros((len(rows), 1))
        return in_parts(self._watch, state, rows, width=1, size=CHUNK)

    def _watch(self, state: State, rows: np.ndarray) -> tuple[State, np.ndarray]:
        label = rows[:, 0].astype(np.int64)
        counts, slots = state["rows"].copy(), []
        for one in label.tolist():
            slots.append(one * self.partners + int(counts[one]) % self.partners)
            counts[one] += 1
        first = int(counts[-2]) + 1
        counts[-2] += len(rows)
        codes, tags = codes_of(rows[:, 1:]), label.astype(np.uint32)
        found = recall(state, codes, tags, slots, first)
        partner = found.same & (found.lag > 0) & (found.square > 0)
        seen = partner & (found.lag > self.gap)
        recent = np.where(partner & ~seen, found.square, np.inf).min(axis=1)
        old = np.where(seen, found.square, np.inf).min(axis=1)
        run = runs(recent < old, int(counts[-1]))
        counts[-1] = run[-1]
        bucket = np.searchsorted(SIZES, np.count_nonzero(seen, axis=1), side="right") - 1
        near = self._least(found.square, seen) < self._learned["tail"][label, np.maximum(bucket, 0)]
        flags = near & ((run == 0) | (run > self.gap))
        return remember(state, codes, tags, slots, first) | {"rows": counts}, flags[:, None]

    def _least(self, square: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """(n,) least of the squared distances that count; infinite where none does."""
        least: np.ndarray = np.where(seen, square, np.inf).min(axis=1)
        if not self.relative:
            return least
        mean = np.where(seen, square, 0.0).sum(axis=1) / np.maximum(
            np.count_nonzero(seen, axis=1), 1
        )
        share: np.ndarray = least / np.maximum(mean, 1e-9)
        return share

    def calibrate(self, query: Query, prediction: Prediction) -> Calibration:
        """The tail of the least distance, by class and number of rows; needs 200 rows or more.

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
        tail = np.zeros((self.classes, len(SIZES)))
        for one in range(self.classes):
            own = codes[label == one].astype(np.float32)
            if len(own) >= 50:
                tail[one] = [self._tail(own, int(size), rng) for size in SIZES]
        return {
            "basis": basis.astype(np.float32),
            "centre": centre.astype(np.float32),
            "tail": tail,
        }

    def _tail(self, codes: np.ndarray, size: int, rng: np.random.Generator) -> float:
        """The quantile of the least distance to ``size`` rows, drawn anew for every part."""
        norms, least = (codes * codes).sum(axis=1), []
        for part in np.array_split(np.arange(len(codes)), 16):
            drawn = rng.permutation(len(codes))[:size]
            square = norms[part, None] + norms[drawn] - 2.0 * (codes[part] @ codes[drawn].T)
            least.append(self._least(square, (part[:, None] != drawn) & (square > 0)))
        found = np.concatenate(least)
        found = found[np.isfinite(found)]
        return float(np.quantile(found, self.quantile)) if len(found) else 0.0
