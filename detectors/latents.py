"""Latents that nobody draws who samples a generator as it was trained: off the prior, on a grid, along a walk."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import blake2b
from typing import Annotated, ClassVar, Literal, get_args

import numpy as np
import torch
from pydantic import Field, PrivateAttr
from scipy.special import betaincinv, gammainccinv, gammaincinv
from torch import Tensor

from detectors.recall import in_parts
from mantlet.plugin import EvidenceDetector, Setup
from mantlet.types import Prediction, Query, State, Task

Test = Literal["norm", "shape", "grid", "near"]
ROUNDED = 1e-2
"""Latents may be rounded to this step on their way to us: it makes no grid of them."""
DIMENSIONS = 32
"""Dimensions at most in which directions are compared; longer latents are projected."""
DRAWN = 20_000
"""Latents of the prior from which the tails of shape and grid are known."""
CHUNK = 64
"""Rows that are compared with each other at once."""


class Latents(EvidenceDetector):
    """Tests every latent against the prior N(0, I), and against the client's latents before it.

    * ``norm``: the squared norm is in one of the tails of the chi-squared law.
    * ``shape``: so is the kurtosis of its numbers, whatever their scale: uniform numbers, signs, few large ones.
    * ``grid``: more of its numbers are equal, rounded to 0.01, than of a latent that was drawn.
    * ``near``: its direction is nearer to one of the last ``remembered`` than directions come that were drawn:
      steps of a search, points between two latents, edits, near-repeats. Directions of more than 32 numbers are
      compared in a random projection that only who has the gateway's secret knows.

    Each is a score of its own: 1 with chance ``quantile`` or less if the latent is drawn from the prior,
    whatever the client asked before. So no calibration is needed, and the bound on false
    alarms is that of `detectors.evidence`, without any assumption but that honest clients sample.
    Those who do not, as with a slider that walks between two pictures, are flagged: leave out ``near`` where the
    product has one. The same latent once more is a retry, gets the same picture and is no evidence.

    What undoes it: sampling from the prior, which gives a thief the pictures that he wants; against that stand
    budgets, `coverage` and input defenses. Latents that are drawn by the gateway, of a seed, are never flagged.
    """

    type: Literal["latents"] = "latents"
    tests: Annotated[tuple[Test, ...], Field(min_length=1)] = get_args(Test)
    """Which of the tests are run."""
    quantile: Annotated[float, Field(ge=0.002, le=0.1)] = 0.01
    """Share of drawn latents that a test flags."""
    margin: Annotated[float, Field(ge=1)] = 1.5
    """Factor on that share; what an honest client may reach."""
    scale: Annotated[float, Field(ge=0.1, le=1)] = 1.0
    """Honest clients may shrink what they draw to this share, as for fewer and better pictures; 1: none does."""
    remembered: Annotated[int, Field(ge=1, le=512)] = 96
    """Directions of a client that are remembered, at most 128 bytes each."""

    needs_calibration = False
    tasks: ClassVar[frozenset[Task]] = frozenset({Task.GENERATE})

    _secret: bytes = PrivateAttr(b"")

    @cached_property
    def _projections(self) -> dict[int, np.ndarray]:
        """By the length of a latent, once there was one of it."""
        return {}

    def load(self, setup: Setup) -> None:
        super().load(setup)
        self._secret = setup.secret
        if setup.shape:
            drawn_tails(math.prod(setup.shape), self.quantile)  # now, and not while a client waits

    @property
    def enforces(self) -> bool:
        return True

    @property
    def width(self) -> int:
        return len(self.tests)

    def tolerated(self, tier: str) -> np.ndarray:
        return np.full(self.width, min(self.margin * self.quantile, 0.5))

    def score(self, query: Query, prediction: Prediction) -> Tensor:
        """(B, 3 + k): flags of norm, shape and grid, and the direction in k dimensions."""
        rows = query.inputs.reshape(len(query.inputs), -1).double().numpy()
        tails = drawn_tails(rows.shape[1], self.quantile)
        square = np.square(rows).sum(axis=1)
        flatness, ties = _flatness(rows), _ties(rows / self.scale)
        flags = (
            (square < tails.norm[0] * self.scale**2) | (square > tails.norm[1]),
            (flatness < tails.shape[0]) | (flatness > tails.shape[1]),
            ties > tails.grid,
        )
        if rows.shape[1] > DIMENSIONS:
            rows = rows @ self._projection(rows.shape[1])
        length = np.linalg.norm(rows, axis=1, keepdims=True)
        directions = rows / np.maximum(length, 1e-12)
        return torch.from_numpy(np.column_stack([*flags, directions]).astype(np.float32))

    def _projection(self, size: int) -> np.ndarray:
        """(size, 32) with orthonormal columns, so that what is normal stays so."""
        if size not in self._projections:
            seed = blake2b(self._secret, digest_size=32, person=b"directions").digest()
            drawn = np.random.default_rng(list(seed)).standard_normal((size, DIMENSIONS))
            self._projections[size] = np.linalg.qr(drawn)[0]
        return self._projections[size]

    def initial(self) -> State:
        return {"directions": np.zeros((0, 0), np.float32)}

    def fits(self, state: State) -> bool:
        return super().fits(state) and len(state["directions"]) <= self.remembered

    def watch(self, state: State, rows: np.ndarray, at: float) -> tuple[State, np.ndarray]:
        if state["directions"].shape[1] != rows.shape[1] - 3:  # of a latent of another length
            state = {"directions": np.zeros((0, rows.shape[1] - 3), np.float32)}
        return in_parts(self._watch, state, rows, width=self.width, size=CHUNK)

    def _watch(self, state: State, rows: np.ndarray) -> tuple[State, np.ndarray]:
        new = rows[:, 3:].astype(np.float32)
        known = np.concatenate([state["directions"], new])  # (P, k)
        square = np.square(new[:, None] - known).sum(axis=2, dtype=np.float64)  # (n, P)
        lag = np.arange(len(new))[:, None] + len(state["directions"]) - np.arange(len(known))
        partner = (lag > 0) & (lag <= self.remembered)
        nearest = np.where(partner, square, np.inf).min(axis=1)
        limits = near_limits(new.shape[1], self.quantile, self.remembered)
        near = nearest < limits[np.count_nonzero(partner, axis=1)]
        return {"directions": known[-self.remembered :].copy()}, self._flags(rows, near)

    def watch_each(
        self, states: Sequence[State], rows: np.ndarray, at: float
    ) -> tuple[Sequence[State], np.ndarray]:
        new = rows[:, 3:].astype(np.float32)
        limits = near_limits(new.shape[1], self.quantile, self.remembered)
        near, after = np.zeros(len(rows), dtype=bool), []
        for row, state in enumerate(states):
            known, own = state["directions"], new[row : row + 1]
            if known.shape[1] != new.shape[1]:  # as in watch
                known = own[:0]
            if len(known):
                square = np.square(own - known).sum(axis=1, dtype=np.float64)
                near[row] = square.min() < limits[len(known)]
            kept = known[1:] if len(known) == self.remembered else known
            after.append({"directions": np.concatenate([kept, own])})
        return after, self._flags(rows, near)

    def _flags(self, rows: np.ndarray, near: np.ndarray) -> np.ndarray:
        """(n, tests) scores of rows of which it is known whether they are near."""
        columns = dict(zip(get_args(Test), (*rows[:, :3].T, near), strict=True))
        return np.stack([columns[test] for test in self.tests], axis=1).astype(np.float64)


@dataclass(frozen=True, slots=True)
class Tails:
    """Beyond what a latent's squared norm, kurtosis and ties are in a tail of the prior."""

    norm: tuple[float, float]
    shape: tuple[float, float]
    grid: float


@lru_cache(maxsize=16)
def drawn_tails(size: int, quantile: float) -> Tails:
    """Of latents of ``size`` numbers: by the chi-squared law, and of many that are drawn."""
    flatness, ties = _of_the_prior(size)
    low, high = np.quantile(flatness, [quantile / 2, 1 - quantile / 2])
    half, tail = size / 2, quantile / 2  # chi-squared is a Gamma law of half as many degrees
    return Tails(
        norm=(float(2 * gammaincinv(half, tail)), float(2 * gammainccinv(half, tail))),
        shape=(float(low), float(high)),
        grid=float(np.quantile(ties, 1 - quantile, method="higher")),
    )


@lru_cache(maxsize=4)
def _of_the_prior(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Kurtosis and ties of many drawn latents."""
    rng, flatness, ties = np.random.default_rng(0), [], []
    for _ in range(0, DRAWN, 1000):
        rows = rng.standard_normal((1000, size))
        flatness.append(_flatness(rows))
        ties.append(_ties(rows))
    return np.concatenate(flatness), np.concatenate(ties)


@lru_cache(maxsize=16)
def near_limits(dimensions: int, quantile: float, remembered: int) -> np.ndarray:
    """(1 + remembered,) squared distance from which a direction is near one of so many others.

    ``(1 - cos) / 2`` of two directions that are drawn has a Beta law, in all dimensions, wherever the
    other one is; of m others none is nearer than its ``quantile / m``, with chance 1 - ``quantile``.
    """
    if dimensions < 2:  # there are two directions only
        return np.zeros(1 + remembered)
    many = np.arange(1, remembered + 1)
    half = (dimensions - 1) / 2
    limits: np.ndarray = np.append(0.0, 4 * betaincinv(half, half, quantile / many))
    return limits


def _flatness(rows: np.ndarray) -> np.ndarray:
    """(B,) kurtosis about zero: 3 of many normal numbers, 1 of signs, D of one number among zeros."""
    squares = np.square(rows)
    kurtosis: np.ndarray = np.square(squares).mean(axis=1) / np.maximum(
        np.square(squares.mean(axis=1)), 1e-30
    )
    return kurtosis


def _ties(rows: np.ndarray) -> np.ndarray:
    """(B,) how many of a row's numbers are, in steps, the same as the next larger one."""
    steps = np.sort(np.rint(rows / ROUNDED), axis=1)
    ties: np.ndarray = np.count_nonzero(np.diff(steps, axis=1) == 0, axis=1)
    return ties
