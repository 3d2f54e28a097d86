"""Similar queries: rows nearer to the client's own earlier rows than honest traffic ever is."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, PrivateAttr
from torch import Tensor

from detectors.pictures import comparable
from detectors.recall import (
    Recalled,
    codes_of,
    empty,
    in_parts,
    projection,
    recall,
    recall_each,
    remember,
    runs,
)
from mantlet.errors import CalibrationError
from mantlet.noise import row_marks
from mantlet.plugin import Calibration, EvidenceDetector, Setup
from mantlet.types import Kind, Prediction, Query, State, Task

SIZES = 2 ** np.arange(4, 12)
"""Numbers of remembered rows for which there are thresholds; with fewer nothing is said."""
PROBE = 1.0
"""Squared steps of a code within which a row that is not the same is a probe."""
EXPONENT = 0.25
"""Of the squared distance to the nearest of so many rows; it is 2 / d in d dimensions."""
CHUNK = 256
"""Rows that are compared with each other at once."""


class Similarity(EvidenceDetector):
    """Compares each row with those that it remembers of the client; gives two scores.

    * Near: the squared distance to the nearest earlier row, as a share of the mean over all remembered,
      is below the benign ``quantile`` for the predicted class and so many remembered rows. It sees synthetic rows made from
      earlier ones (JBDA and JBDA-TR: Papernot et al., 2017; Juuti et al., 2019) and the search for
      adversarial pictures. Rows of the last ``gap`` do not count, and while a row is
      nearer to one of them it has a score only when that has gone on for more than ``gap`` rows: cameras send
      bursts.
    * Probe: a row that is not the same as an earlier one, however recent, and has the same code, as the
      finite differences of data-free attacks have (DFME and MAZE, 2021). No picture of a camera is so near.

    The same bits again are a retry and no evidence. Distances are taken between inputs, whitened by the
    principal ``components`` of benign ones, which the steps of such attacks hardly touch, and
    projected to ``dimensions`` of a byte each. The memory has ``levels`` rings of ``slots``: every second
    row goes to the first, of the rest every second to the second, and so on. Whatever the history, a
    row of L rows ago is found with chance min(1, 2 * slots / L) or so, and none beyond
    slots * 2 ** (levels - 1); the time is the same.

    Pictures that a model translates are compared by the brightness of 8 x 8 fields and its deviation within them.

    What undoes it: partners more rows apart, many accounts, and rows that are not made from others, as of
    Knockoff. A video longer than ``gap`` looks like a search: such a client needs a ``gap`` of its own.
    """

    type: Literal["similarity"] = "similarity"
    quantile: Annotated[float, Field(gt=0, le=0.2)] = 0.01
    """Share of held-out benign rows below the threshold of nearness."""
    margin: Annotated[float, Field(ge=1)] = 8.0
    """Factor on the mean score that benign rows reach; honest clients of one class or with another camera
    are flagged several times as often as others."""
    gap: Annotated[int, Field(ge=0, le=100_000)] = 32
    """Rows just before a row that are not compared with it, except for probes."""
    dimensions: Annotated[int, Field(ge=4, le=64)] = 32
    """Bytes of a code."""
    components: Annotated[int, Field(ge=4, le=512)] = 64
    """Principal components that are whitened."""
    slots: Annotated[int, Field(ge=16, le=256)] = 128
    """Rows in one ring of the memory."""
    levels: Annotated[int, Field(ge=1, le=8)] = 4
    """Rings; each reaches twice as far back as the one before."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Of the random projection."""

    columns: ClassVar[int] = 2
    tasks = frozenset({Task.CLASSIFY, Task.TRANSLATE})
    # marks are keyed, so that nobody makes new rows look like retries
    _secret: bytes = PrivateAttr(b"")

    def load(self, setup: Setup) -> None:
        super().load(setup)
        self._secret = setup.secret

    def score(self, query: Query, prediction: Prediction) -> Tensor:
        """(B, 3 + k): class, two halves of a keyed mark, and the projected row; judged in ``watch``."""
        marks = row_marks(self._secret, query.inputs)
        query, prediction = comparable(query, prediction)
        flat = query.inputs.numpy().reshape(len(marks), -1)
        scores = np.zeros((len(flat), 3 + self.dimensions), np.float32)
        scores[:, 0] = _label(prediction)
        scores[:, 1], scores[:, 2] = marks >> 16, marks & 0xFFFF
        if self._learned:
            scores[:, 3:] = flat @ self._learned["basis"] - self._learned["centre"]
        return torch.from_numpy(scores)

    def initial(self) -> State:
        many = self.slots * self.levels
        return empty(many, self.dimensions) | {"rows": np.zeros(2, np.int64)}

    def fits(self, state: State) -> bool:
        size = (self.slots * self.levels, self.dimensions)
        return state.keys() == self._fields and state["codes"].shape == size

    def watch(self, state: State, rows: np.ndarray, at: float) -> tuple[State, np.ndarray]:
        if not self._learned:
            return state, np.zeros((len(rows), 2))
        return in_parts(self._watch, state, rows, width=2, size=CHUNK)

    def _watch(self, state: State, rows: np.ndarray) -> tuple[State, np.ndarray]:
        first, run = int(state["rows"][0]) + 1, int(state["rows"][1])
        slots = [self._slot(number) for number in range(first, first + len(rows))]
        codes, tags = _coded(rows)
        nearest, least, below = self._compared(recall(state, codes, tags, slots, first), rows)
        run_of = runs(nearest < least, run)
        after = remember(state, codes, tags, slots, first)
        after["rows"] = np.array([first + len(rows) - 1, run_of[-1]])
        return after, self._flags(nearest, below, run_of)

    def watch_each(
        self, states: Sequence[State], rows: np.ndarray, at: float
    ) -> tuple[Sequence[State], np.ndarray]:
        if not self._learned:
            return states, np.zeros((len(rows), 2))
        counts = np.array([state["rows"] for state in states])  # (n, 2)
        counts[:, 0] += 1
        codes, tags = _coded(rows)
        found = recall_each(states, codes, tags, counts[:, 0])
        nearest, least, below = self._compared(found, rows)
        counts[:, 1] = np.where(nearest < least, counts[:, 1] + 1, 0)
        after = [
            remember(state, codes[row : row + 1], tags[row], [self._slot(number)], number)
            | {"rows": counts[row].copy()}
            for row, (state, number) in enumerate(zip(states, counts[:, 0].tolist(), strict=True))
        ]
        return after, self._flags(nearest, below, counts[:, 1])

    def _compared(
        self, found: Recalled, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(n,) least squared distance to all rows, and to those beyond the gap; (n,) whether these are near."""
        other = ~found.same  # a retry is no partner
        near, least, size = _nearness(found.square, (found.lag > self.gap) & other)
        nearest = np.where((found.lag > 0) & other, found.square, np.inf).min(axis=1)
        bucket = np.searchsorted(SIZES, size, side="right")
        return nearest, least, near < self._learned["near"][rows[:, 0].astype(np.int64), bucket]

    def _flags(self, nearest: np.ndarray, below: np.ndarray, run_of: np.ndarray) -> np.ndarray:
        """(n, 2) scores, for rows of which so many before were nearer to one of the last."""
        flags = np.empty((len(nearest), 2))
        flags[:, 0] = below & ((run_of == 0) | (run_of > self.gap))
        flags[:, 1] = nearest <= PROBE
        return flags

    def _slot(self, number: int) -> int:
        """Where the client's row of this number, from 1, is kept."""
        level = min((number & -number).bit_length() - 1, self.levels - 1)
        turn = number >> min(level + 1, self.levels - 1)
        return level * self.slots + turn % self.slots

    def calibrate(self, query: Query, prediction: Prediction) -> Calibration:
        """Whiten by the even rows, take thresholds from the odd ones; needs 200 rows or more."""
        query, prediction = comparable(query, prediction)
        rows = len(query.inputs)
        if rows < 200:
            raise CalibrationError(
                f"detector '{self.name}': {rows} benign rows are too few to know how near they are"
                " to each other; give at least 200, better 5,000"
            )
        flat = query.inputs.reshape(rows, -1).double().numpy()
        basis = self._basis(flat[::2])
        centre = flat[::2].mean(axis=0) @ basis
        codes = codes_of(flat[1::2] @ basis - centre).astype(np.float32)
        return {
            "basis": basis.astype(np.float32),
            "centre": centre.astype(np.float32),
            "near": self._thresholds(codes, _label(prediction)[1::2], _classes(prediction)),
        }

    def _thresholds(self, codes: np.ndarray, label: np.ndarray, classes: int) -> np.ndarray:
        """(C, 1 + sizes) for rows of a class, among rows of all classes or of their own, whichever is less.

        Where a class has fewer than 50 rows, that of all together.
        """
        rng, everyone = np.random.default_rng(self.seed), np.arange(len(codes))
        table = np.zeros((classes, 1 + len(SIZES)))  # nothing is nearer than 0: too few to compare
        for column, size in enumerate(SIZES.tolist(), start=1):
            if size > self.slots * self.levels:  # never remembered
                break
            table[:, column] = _threshold(codes, everyone, everyone, size, self.quantile, rng)
            for one in range(classes):
                own = np.flatnonzero(label == one)
                if len(own) >= 50:
                    table[one, column] = min(
                        _threshold(codes, own, others, size, self.quantile, rng)
                        for others in (everyone, own)
                    )
        return table

    def _basis(self, flat: np.ndarray) -> np.ndarray:
        """(d, k): projected and whitened, so that every dimension has deviation 1."""
        centred = flat - flat.mean(axis=0)
        variance, vectors = np.linalg.eigh(centred.T @ centred / len(flat))  # ascending
        kept = min(self.components, len(flat) // 2, len(variance))
        deviation = np.sqrt(np.maximum(variance[-kept:], 1e-6 * max(variance[-1], 1e-12)))
        mixed = projection(kept, self.dimensions, self.seed) * np.sqrt(self.dimensions / kept)
        basis: np.ndarray = vectors[:, -kept:] / deviation @ mixed
        return basis


def _coded(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, k) codes of scored rows and their (n,) tags."""
    halves = rows[:, 1:3].astype(np.uint32)
    return codes_of(rows[:, 3:]), (halves[:, 0] << 16) + halves[:, 1]


def _label(prediction: Prediction) -> np.ndarray:
    """(B,) the predicted class; 0 of a victim that classifies nothing."""
    if _classes(prediction) == 1:
        return np.zeros(len(prediction.values), np.int64)
    label: np.ndarray = prediction.values.numpy().argmax(axis=1)
    return label


def _classes(prediction: Prediction) -> int:
    return prediction.values.shape[1] if prediction.kind is Kind.PROBABILITIES else 1


def _nearness(square: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(n,) least squared distance as a share of the mean, or 1; (n,) the least; (n,) how many are seen."""
    size = seen.sum(axis=1, dtype=np.int32)  # in half the time of counting along an axis
    mean = np.sum(square * seen, axis=1, dtype=np.float64) / np.maximum(size, 1)
    least = np.where(seen, square, np.inf).min(axis=1)
    share = np.divide(least, mean, out=np.ones(len(mean)), where=mean > 0)
    return share, least, size


def _threshold(
    codes: np.ndarray,
    rows: np.ndarray,
    others: np.ndarray,
    size: int,
    quantile: float,
    rng: np.random.Generator,
) -> float:
    """The quantile of nearness of some rows when ``size`` others, drawn anew for every part, are remembered."""
    shares = []
    for part in np.array_split(rows, 8):
        drawn = rng.permutation(others)[:size]
        own, theirs = codes[part], codes[drawn]
        norms = (own * own).sum(axis=1)[:, None] + (theirs * theirs).sum(axis=1)
        shares.append(_nearness(norms - 2.0 * (own @ theirs.T), part[:, None] != drawn)[0])
    # among more rows than there are the nearest is nearer, as a power of their number
    missing = min(1.0, len(others) / size)
    return float(np.quantile(np.concatenate(shares), quantile * missing) * missing**EXPONENT)
