"""Similar queries: rows nearer to the client's own earlier rows than honest traffic ever is."""

from typing import Annotated, ClassVar, Literal
from zlib import crc32

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from detectors.recall import codes_of, projection, recall
from mantlet.errors import CalibrationError
from mantlet.plugin import Calibration, EvidenceDetector
from mantlet.types import Prediction, Query, State

SIZES = 2 ** np.arange(4, 13)
"""Numbers of remembered rows for which there are thresholds; with fewer nothing is said."""
PROBE = 1.0
"""Squared steps of a code within which a row that is not the same is a probe."""
CHUNK = 256
"""Rows that are compared with each other at once."""


class Similarity(EvidenceDetector):
    """Compares each row with those that it remembers of the client; gives two scores.

    * Near: the squared distance to the nearest earlier row, as a share of the mean over all remembered,
      is below the benign ``quantile`` for so many remembered rows. It sees synthetic rows made from
      earlier ones (JBDA and JBDA-TR: Papernot et al., 2017; Juuti et al., 2019) and the search for
      adversarial pictures. Rows of the last ``gap`` do not count: cameras send bursts.
    * Probe: a row that is not the same as an earlier one, however recent, and has the same code, as the
      finite differences of data-free attacks have (DFME and MAZE, 2021). No picture of a camera is so near.

    The same bits again are a retry and no evidence. Distances are taken between inputs, whitened by the
    principal ``components`` of benign ones, which the steps of such attacks hardly touch, and
    projected to ``dimensions`` of a byte each. The memory has ``levels`` rings of ``slots``: every second
    row goes to the first, of the rest every second to the second, and so on. Whatever the history, a
    row of L rows ago is found with chance min(1, 2 * slots / L) or so, and none beyond
    slots * 2 ** (levels - 1); the time is the same.

    What undoes it: partners more rows apart, many accounts, and rows that are not made from others, as of
    Knockoff. A video longer than ``gap`` looks like a search: such a client needs a ``gap`` of its own.
    """

    type: Literal["similarity"] = "similarity"
    quantile: Annotated[float, Field(gt=0, le=0.2)] = 0.01
    """Share of held-out benign rows below the threshold of nearness."""
    margin: Annotated[float, Field(ge=1)] = 5.0
    """Factor on the mean score that benign rows reach; honest clients of one class or with another camera
    are flagged up to four times as often as those of all classes."""
    gap: Annotated[int, Field(ge=0, le=100_000)] = 32
    """Rows just before a row that are not compared with it, except for probes."""
    dimensions: Annotated[int, Field(ge=4, le=64)] = 32
    """Bytes of a code."""
    components: Annotated[int, Field(ge=4, le=512)] = 64
    """Principal components that are whitened."""
    slots: Annotated[int, Field(ge=16, le=512)] = 128
    """Rows in one ring of the memory."""
    levels: Annotated[int, Field(ge=1, le=8)] = 4
    """Rings; each reaches twice as far back as the one before."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Of the random projection."""

    columns: ClassVar[int] = 2

    def score(self, query: Query, prediction: Prediction) -> Tensor:
        """(B, 2 + k): two halves of a checksum, and the projected row; judged in ``watch``."""
        flat = query.inputs.reshape(len(query.inputs), -1).numpy()
        scores = np.zeros((len(flat), 2 + self.dimensions), np.float32)
        scores[:, :2] = [divmod(crc32(row), 1 << 16) for row in np.ascontiguousarray(flat)]
        if self._learned:
            scores[:, 2:] = flat @ self._learned["basis"] - self._learned["centre"]
        return torch.from_numpy(scores)

    def initial(self) -> State:
        many = self.slots * self.levels
        return {
            "codes": np.zeros((many, self.dimensions), np.int8),
            "prints": np.zeros(many, np.uint32),
            "born": np.zeros(many, np.uint32),
            "rows": np.zeros(1, np.int64),
        }

    def fits(self, state: State) -> bool:
        first = self.initial()
        return state.keys() == first.keys() and state["codes"].shape == first["codes"].shape

    def watch(self, state: State, rows: np.ndarray, at: float) -> tuple[State, np.ndarray]:
        if not self._learned:
            return state, np.zeros((len(rows), 2))
        flags = np.zeros((len(rows), 2))
        for start in range(0, len(rows), CHUNK):
            part = slice(start, start + CHUNK)
            state, flags[part] = self._watch(state, rows[part])
        return state, flags

    def _watch(self, state: State, rows: np.ndarray) -> tuple[State, np.ndarray]:
        first = int(state["rows"][0]) + 1
        slots = [self._slot(number) for number in range(first, first + len(rows))]
        prints = (rows[:, 0] * (1 << 16) + rows[:, 1]).astype(np.uint32)
        found = recall(state["codes"], state["born"], codes_of(rows[:, 2:]), slots, first)
        retried = np.concatenate([state["prints"], prints]) == prints[:, None]
        lag = np.where(retried, 0, found.lag)
        near, size = _nearness(found.square, lag > self.gap)
        threshold = self._learned["near"][np.searchsorted(SIZES, size, side="right")]
        probe = np.where(lag > 0, found.square, np.inf).min(axis=1) <= PROBE
        kept = state["prints"].copy()
        kept[slots] = prints
        after = {
            "codes": found.codes,
            "prints": kept,
            "born": found.born.astype(np.uint32),
            "rows": np.array([first + len(rows) - 1]),
        }
        return after, np.stack([near < threshold, probe], axis=1)

    def _slot(self, number: int) -> int:
        """Where the client's row of this number, from 1, is kept."""
        level = min((number & -number).bit_length() - 1, self.levels - 1)
        turn = number >> min(level + 1, self.levels - 1)
        return level * self.slots + turn % self.slots

    def calibrate(self, query: Query, prediction: Prediction) -> Calibration:
        """Whiten by the even rows, take thresholds from the odd ones; needs 200 rows or more."""
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
        rng = np.random.default_rng(self.seed)
        near = [_threshold(codes, int(size), self.quantile, rng) for size in SIZES]
        return {
            "basis": basis.astype(np.float32),
            "centre": centre.astype(np.float32),
            "near": np.array([0.0, *near]),  # nothing is below 0
        }

    def _basis(self, flat: np.ndarray) -> np.ndarray:
        """(d, k): projected and whitened, so that every dimension has deviation 1."""
        centred = flat - flat.mean(axis=0)
        variance, vectors = np.linalg.eigh(centred.T @ centred / len(flat))  # ascending
        kept = min(self.components, len(flat) // 2, len(variance))
        deviation = np.sqrt(np.maximum(variance[-kept:], 1e-6 * max(variance[-1], 1e-12)))
        mixed = projection(kept, self.dimensions, self.seed) * np.sqrt(self.dimensions / kept)
        basis: np.ndarray = vectors[:, -kept:] / deviation @ mixed
        return basis


def _nearness(square: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n,) least squared distance as a share of the mean, 1 where there is none; (n,) how many are seen."""
    size = seen.sum(axis=1)
    mean = np.where(seen, square, 0.0).sum(axis=1, dtype=np.float64) / np.maximum(size, 1)
    least = np.where(seen, square, np.inf).min(axis=1)
    share = np.divide(least, mean, out=np.ones(len(mean)), where=mean > 0)
    return share, size


def _threshold(codes: np.ndarray, size: int, quantile: float, rng: np.random.Generator) -> float:
    """The quantile of nearness when ``size`` rows, drawn anew for every part, are remembered."""
    norms = (codes * codes).sum(axis=1)
    shares = []
    for part in np.array_split(np.arange(len(codes)), 8):
        drawn = rng.permutation(len(codes))[:size]
        square = norms[part, None] + norms[drawn] - 2.0 * (codes[part] @ codes[drawn].T)
        shares.append(_nearness(square, part[:, None] != drawn)[0])
    return float(np.quantile(np.concatenate(shares), quantile))
