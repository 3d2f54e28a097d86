"""A sketch of every client's rows, by which campaigns of many accounts are found; it never alarms itself."""

from typing import Annotated, Literal
from zlib import crc32

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from detectors.pictures import comparable
from mantlet.errors import CalibrationError
from mantlet.plugin import Calibration, Setup, ThresholdDetector
from mantlet.types import Prediction, Query, State, Task

EMPTY = np.uint32(2**32 - 1)
"""The rank of a place that holds no row."""
REFERENCES = 500
"""Benign rows against which the scale of a row is measured."""
FITTED = 2000
"""Benign rows at most that the principal components are fitted to."""
MOST_NUMBERS = 50_000_000
"""Numbers at most of all those rows together; of large inputs, fewer rows are enough."""
LEAST = 200
"""Benign rows under which nothing is told of how near two come."""
MOST = 0.5
"""Radius beyond which rows are not called close, however few there are."""
BITS = 20
"""Hyperplanes that divide the space of the codes into cells."""
PLACES = (2.0 ** np.arange(BITS)).astype(np.float32)
CLOSEST = 50
"""Closest pairs of benign rows from which the tail of all pairs is told."""


class Sketch(ThresholdDetector):
    """Keeps short codes of some of a client's rows, chosen so that like rows of several clients are kept.

    A row's code is its projection on the principal components of benign inputs, in which small
    perturbations nearly vanish; its scale is how far the nearest benign row lies. Cells of the code
    space have a secret order, and a client's first row in each of the first ``rows`` cells that it ever
    came to is kept: rows of two accounts that lie close together are kept or dropped together
    (coordinated sampling; Cohen and Kaplan, 2007). `serving.campaigns` reads what is kept.

    What undoes it: a thief whose rows lie no closer to those of his other accounts than honest rows do,
    such as one with pictures of the model's own kind, and accounts of a few rows each.
    """

    type: Literal["sketch"] = "sketch"
    rows: Annotated[int, Field(ge=16, le=256)] = 64
    """Rows of a client that are kept, 50 bytes each."""
    dimensions: Annotated[int, Field(ge=4, le=64)] = 24
    """Principal components of a code."""

    needs_calibration = True
    tasks = frozenset({Task.CLASSIFY, Task.TRANSLATE})

    def load(self, setup: Setup) -> None:
        super().load(setup)
        if self._learned:
            basis = self._learned["basis"]
            if basis.shape[1] > self.dimensions:
                raise CalibrationError(
                    f"detector '{self.name}': its calibration has {basis.shape[1]} dimensions, its"
                    f" settings {self.dimensions}; run: mantlet calibrate CONFIG --benign FILE"
                )
            rng = np.random.default_rng(list(setup.secret) or 0)
            self._learned["planes"] = rng.standard_normal((basis.shape[1], BITS)).astype(np.float32)
            self._learned["order"] = rng.integers(1, 2**62, 1) | 1
            about = basis.tobytes() + self._learned["order"].tobytes()
            self._learned["of"] = np.array([crc32(about)], np.uint32)
            self._learned["half"] = _half(self._learned["reference"])

    @property
    def enforces(self) -> bool:
        """Whether it keeps anything: with a calibration."""
        return bool(self._learned)

    def radius(self, chance: float) -> float:
        """Within which share of their scale two honest rows lie with that ``chance``, or a smaller one."""
        tail = {name: float(self._learned[name]) for name in ("near", "chance", "slope")}
        near: float = tail["near"] * (chance / tail["chance"]) ** (1 / tail["slope"])
        return min(near, MOST)

    def score(self, query: Query, prediction: Prediction) -> Tensor:
        """(B, 2 + dimensions): rank of the row's cell, its scale, its code."""
        query, prediction = comparable(query, prediction)
        scores = np.zeros((len(query.inputs), 2 + self.dimensions), np.float32)
        if not self._learned:
            return torch.from_numpy(scores)
        codes = _codes(query.inputs, self._learned)  # (B, k)
        side = codes @ self._learned["planes"] > 0
        cell = (side @ PLACES).astype(np.uint64)
        order = np.uint64(self._learned["order"][0])
        # the highest 24 of 64 bits: a float32 holds them
        scores[:, 0] = (cell + np.uint64(1)) * order >> np.uint64(40)
        scores[:, 1] = _scale(codes, self._learned["reference"], self._learned["half"])
        scores[:, 2 : 2 + codes.shape[1]] = codes
        return torch.from_numpy(scores)

    def initial(self) -> State:
        return {
            "rank": np.full(self.rows, EMPTY),
            "scale": np.zeros(self.rows, np.float16),
            "code": np.zeros((self.rows, self.dimensions), np.float16),
            "of": self._learned.get("of", np.zeros(1, np.uint32)),
        }

    def fits(self, state: State) -> bool:
        """Codes of another calibration, and ranks of another secret, cannot be compared with ours."""
        made_with = int(self._learned["of"][0]) if self._learned else 0
        size = (self.rows, self.dimensions)
        return (
            super().fits(state) and state["code"].shape == size and int(state["of"][0]) == made_with
        )

    def update(
        self, state: State, rows: np.ndarray, at: float
    ) -> tuple[State, np.ndarray, np.ndarray]:
        silent = np.zeros(len(rows), np.float32), np.zeros(len(rows), dtype=bool)
        if not self._learned:
            return state, *silent
        new = rows[:, 0].astype(np.uint32)
        if (
            new.min() >= state["rank"][-1]
        ):  # all beyond those that are kept: the usual case by and by
            return state, *silent
        # the first of each rank, in order of rank; the empty places' rank comes last
        rank, first = np.unique(np.concatenate([state["rank"], new]), return_index=True)
        chosen = first[rank < EMPTY][: self.rows]
        many = len(chosen)
        after = {name: array.copy() for name, array in self.initial().items()}
        after["rank"][:many] = rank[:many]
        for name, columns in (("scale", rows[:, 1]), ("code", rows[:, 2:])):
            columns = np.clip(columns, -60_000, 60_000).astype(np.float16)
            after[name][:many] = np.concatenate([state[name], columns])[chosen]
        return after, *silent

    def calibrate(self, query: Query, prediction: Prediction) -> Calibration:
        """Components and scale from the even rows, how near pairs come from the odd ones."""
        query, prediction = comparable(query, prediction)
        rows = len(query.inputs)
        if rows < LEAST:
            raise CalibrationError(
                f"detector '{self.name}': {rows} benign rows are too few to know how near two come;"
                f" give at least {LEAST}, better 5,000"
            )
        learned = _fit(query.inputs[: 2 * FITTED : 2], self.dimensions)
        learned["reference"] = _codes(query.inputs[::2], learned)[:REFERENCES]
        held_out = _codes(query.inputs[1::2], learned)[:1000]
        reference = learned["reference"]
        scale = _scale(held_out, reference, _half(reference))
        return learned | _tail(held_out, scale, name=self.name)


def _fit(inputs: Tensor, dimensions: int) -> dict[str, np.ndarray]:
    """The mean (d,) and the first principal components (d, k) of benign inputs."""
    size = inputs[0].numel()
    some = inputs[: max(LEAST, MOST_NUMBERS // size)]
    flat = some.reshape(len(some), size).double().numpy()
    mean = flat.mean(axis=0)
    _, spread, vectors = np.linalg.svd(flat - mean, full_matrices=False)
    kept = min(dimensions, int((spread > 1e-6 * max(spread[0], 1e-9)).sum()))
    basis = np.ascontiguousarray(vectors[: max(kept, 1)].T, np.float32)
    return {"basis": basis, "centre": (mean @ basis).astype(np.float32)}


def _codes(inputs: Tensor, learned: Calibration) -> np.ndarray:
    flat = inputs.float().numpy().reshape(len(inputs), -1)
    codes: np.ndarray = flat @ learned["basis"] - learned["centre"]
    return codes


def _half(reference: np.ndarray) -> np.ndarray:
    """(R,) half the squared norm of each of the benign rows."""
    half: np.ndarray = 0.5 * np.einsum("bk,bk->b", reference, reference)
    return half


def _scale(codes: np.ndarray, reference: np.ndarray, half: np.ndarray) -> np.ndarray:
    """(B,) distance to the nearest of the benign rows."""
    nearest = -2.0 * (codes @ reference.T - half).max(axis=1)
    square = np.einsum("bk,bk->b", codes, codes) + nearest
    scale: np.ndarray = np.sqrt(np.maximum(square, 1e-12))
    return scale


def _tail(codes: np.ndarray, scale: np.ndarray, *, name: str) -> dict[str, np.ndarray]:
    """How often the distance of two benign rows, as a share of the smaller scale, is below some ``near``.

    The chance falls as the power ``slope`` of the distance (Hill, 1975): ``chance`` is that of ``near``.
    """
    square = np.einsum("bk,bk->b", codes, codes)
    distance = np.sqrt(np.maximum(square[:, None] + square - 2.0 * codes @ codes.T, 0))
    share = (distance / np.minimum(scale[:, None], scale))[np.triu_indices(len(codes), 1)]
    closest = np.sort(share[share > 0.02])[:CLOSEST]  # below it is the same picture once more
    if len(closest) < CLOSEST:
        raise CalibrationError(
            f"detector '{name}': the benign rows are all the same; give traffic as clients send it"
        )
    slope = 1.0 / max(float(np.log(closest[-1] / closest).mean()), 1e-3)
    return {
        "near": np.array(closest[-1]),
        "chance": np.array(len(closest) / len(share)),
        "slope": np.array(slope),
    }
