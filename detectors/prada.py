"""PRADA: are the distances between a client's rows as normally distributed as those of honest rows?"""

import math
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from detectors.recall import projection
from mantlet.errors import CalibrationError
from mantlet.plugin import Calibration, Setup, ThresholdDetector
from mantlet.types import Prediction, Query, State

CLIENTS = 10
"""Honest clients that the calibration makes of the benign rows; as many again of one class each."""
CHUNK = 256
"""Rows that are compared with each other at once."""
MARGIN = 0.02
"""How far ``delta`` is below what these clients reach."""
LEAST = 100
"""Distances that are not yet enough."""
SEED = 0
"""Of the projection, and of the calibration's clients."""


@cache
def _shapiro() -> Any:
    """The test by Shapiro and Wilk; its package takes half a second and 45 MB, which only those pay who ask for it."""
    from scipy.stats import shapiro

    return shapiro


class Prada(ThresholdDetector):
    """Alarms when the Shapiro-Wilk statistic W of a client's least distances falls below ``delta``.

    Of each predicted class a set of rows grows. A new row's least distance to the set of its class is
    noted; when it exceeds the class's threshold T, row and distance are accepted, and T rises to the
    mean less one deviation of the accepted distances. At every tenth row the distances of classes with ten
    or more are pooled, those beyond three deviations dropped, and of more than a hundred left W is taken.

    Deviations from the paper and its code, each undone by a setting: the sets hold ``capacity`` rows in
    all, and a random one makes room; W is taken of the last ``window`` distances; distances are those of
    the victim's features or of a random projection of the input (``space``, ``dimensions``); ``delta`` is calibrated on honest
    streams, as W has no level that fits every model; and ``persistence`` breaches in a row make the alarm.
    Classes beyond ``classes`` share a set. A row that is
    sent again is not noted. Suspicion is the share of ``persistence`` that W has been too low.

    As published: ``Prada(delta=0.9, persistence=1, space="inputs", dimensions=0, capacity=20000,
    window=5000)``. It tests again every ten rows without correction and so accuses
    more honest clients the longer they live; there is no bound on that. Source: Juuti, Szyller, Marchal
    and Asokan, "PRADA", EuroS&P 2019. The row's cost is that of the distances to ``capacity`` rows.

    What misleads it: bursts of a camera, whose distances have two peaks. What undoes it: natural
    pictures, of any family (Knockoff); many accounts, as nothing is said of a
    client's first hundred distances; rows that pad the distances to a normal shape.
    """

    type: Literal["prada"] = "prada"
    delta: Annotated[float, Field(gt=0, lt=1)] | None = None
    """The alarm's threshold of W; calibrated where it is not given."""
    persistence: Annotated[int, Field(ge=1, le=100)] = 3
    """Breaches in a row until the alarm."""
    space: Literal["features", "inputs"] = "inputs"
    """Where distances are taken; the inputs where the victim shows no features."""
    dimensions: Annotated[int, Field(ge=0, le=4096)] = 32
    """Numbers a row is projected to; 0: not at all."""
    capacity: Annotated[int, Field(ge=10, le=20_000)] = 256
    """Rows in the sets of all classes together."""
    window: Annotated[int, Field(ge=101, le=5000)] = 500
    """Least distances of which W is taken."""
    classes: Annotated[int, Field(ge=1, le=4096)] = 32
    """Sets."""
    every: Annotated[int, Field(ge=1, le=1000)] = 10
    """Rows between two tests."""
    leading_zero: bool = True
    """Whether accepted distances begin with a 0, as in the published code: T is lower and sets grow larger."""

    needs_calibration: ClassVar[bool] = True

    @property
    def enforces(self) -> bool:
        return self._delta is not None

    @property
    def _delta(self) -> float | None:
        if self.delta is None and "delta" in self._learned:
            return float(self._learned["delta"])
        return self.delta

    def load(self, setup: Setup) -> None:
        super().load(setup)
        _shapiro()  # now, and not while a client waits

    def score(self, query: Query, prediction: Prediction) -> Tensor:
        """(B, 1 + k): the predicted class, and the row where distances are taken."""
        shown = prediction.features if self.space == "features" else None
        rows = (query.inputs if shown is None else shown).reshape(len(query.inputs), -1).numpy()
        if self.dimensions:
            rows = rows @ projection(rows.shape[1], self.dimensions, SEED)
        label = prediction.values.reshape(len(rows), -1).argmax(dim=1).numpy() % self.classes
        return torch.from_numpy(np.column_stack([label, rows]).astype(np.float32))

    def initial(self) -> State:
        accepted = np.zeros((self.classes, 4))
        accepted[:, 0] = self.leading_zero
        return {
            "rows": np.zeros((0, 0), np.float16),
            "owner": np.zeros(0, np.int16),
            "accepted": accepted,  # of each class: how many, their sum, that of their squares, T
            "distances": np.zeros((0, 2), np.float32),  # with their classes
            "counts": np.zeros(3, np.int64),  # rows asked, rows accepted, breaches in a row
            "w": np.ones(1),
        }

    def fits(self, state: State) -> bool:
        return (
            state.keys() == self._fields
            and len(state["rows"]) in (0, self.capacity)
            and len(state["accepted"]) == self.classes
        )

    def update(
        self, state: State, rows: np.ndarray, at: float
    ) -> tuple[State, np.ndarray, np.ndarray]:
        if len(state["rows"]) and state["rows"].shape[1] != rows.shape[1] - 1:
            state = self.initial()  # of another space
        after, statistic = self._follow(state, rows)
        breaches, delta = int(state["counts"][2]), self._delta or 0.0
        suspicion = np.empty(len(rows))
        for row, w in enumerate(statistic):
            if w is not None:
                breaches = breaches + 1 if w < delta else 0
            suspicion[row] = min(breaches / self.persistence, 1.0)
        after["counts"][2] = breaches
        return after, suspicion, suspicion >= 1.0

    def _follow(
        self, state: State, rows: np.ndarray
    ) -> tuple[dict[str, np.ndarray], list[float | None]]:
        """Fold rows into the sets and distances; W after each row at which it was taken."""
        after, statistic = dict(state), []
        for start in range(0, len(rows), CHUNK):
            after, part = self._follow_some(after, rows[start : start + CHUNK])
            statistic += part
        return after, statistic

    def _follow_some(
        self, state: State, rows: np.ndarray
    ) -> tuple[dict[str, np.ndarray], list[float | None]]:
        sets = _Sets(state, rows, self.capacity)
        asked, w = int(state["counts"][0]), float(state["w"][0])
        noted: list[tuple[float, int]] = []
        statistic: list[float | None] = []
        for row, label in enumerate(rows[:, 0].astype(np.int64).tolist()):
            distance = sets.take(row, label)
            if distance:
                noted.append((distance, label))
            asked += 1
            tested = asked % self.every == 0
            found = self._test(self._window(state, noted)) if tested else None
            statistic.append(found)
            w = w if found is None else found
        after = sets.state() | {
            "distances": self._window(state, noted),
            "counts": np.array([asked, sets.many, 0]),
            "w": np.array([w]),
        }
        return after, statistic

    def _window(self, state: State, noted: list[tuple[float, int]]) -> np.ndarray:
        """(m, 2) the last distances, and the classes of their rows."""
        new = np.array(noted, np.float32).reshape(-1, 2)
        joined: np.ndarray = np.concatenate([state["distances"], new])[-self.window :]
        return joined

    def _test(self, noted: np.ndarray) -> float | None:
        """W of the distances that are left, None while they are too few or all the same."""
        if len(noted) <= LEAST:
            return None
        distance, label = noted[:, 0], noted[:, 1].astype(np.int64)
        distance = distance[np.bincount(label)[label] >= 10]
        if len(distance) <= LEAST:
            return None
        distance = distance[np.abs(distance - distance.mean()) <= 3 * distance.std()]
        if len(distance) <= LEAST or np.ptp(distance) == 0:
            return None
        return float(_shapiro()(distance)[0])

    def calibrate(self, query: Query, prediction: Prediction) -> Calibration:
        """``delta`` from streams of honest clients who send everything, or one class; 300 rows or more.

        Nothing is learned where ``delta`` is set. Each client has a lowest W that stayed so for ``persistence`` tests; delta is `MARGIN` below the
        least of these.
        """
        if self.delta is not None:
            return {}
        rows = self.score(query, prediction).numpy().astype(np.float64)
        rng = np.random.default_rng(SEED)
        streams = [rng.permutation(rows)[:1000] for _ in range(CLIENTS)]
        streams += [rows[rows[:, 0] == label] for label in np.unique(rows[:, 0])]
        reached = []
        for stream in streams:
            taken = [w for w in self._follow(self.initial(), stream)[1] if w is not None]
            if len(taken) >= self.persistence:
                run = np.lib.stride_tricks.sliding_window_view(taken, self.persistence)
                reached.append(run.max(axis=1).min())
        if not reached:
            raise CalibrationError(
                f"detector '{self.name}': {len(rows)} benign rows are too few for"
                f" {self.persistence} tests of a hundred distances; give at least 300, better 5,000"
            )
        return {"delta": np.array(max(min(reached) - MARGIN, 0.0))}


class _Sets:
    """The growing sets of one client, of all classes, while rows are folded in."""

    def __init__(self, state: State, rows: np.ndarray, capacity: int) -> None:
        self.capacity = capacity
        self.many = int(state["counts"][1])
        new = np.clip(rows[:, 1:], -6e4, 6e4).astype(np.float16)
        held = min(self.many, capacity)
        self._every = np.concatenate([state["rows"][:held], new]) if held else new
        self._column = np.zeros(min(held + len(rows), capacity), np.int64)
        self._owner = np.full(len(self._column), -1, np.int16)
        self._column[:held], self._owner[:held] = np.arange(held), state["owner"][:held]
        self._first = held
        self._accepted = state["accepted"].copy()
        # halves are multiplied and added without an error in doubles: the same however a stream is cut
        wide = self._every.astype(np.float64)
        norms = np.einsum("mk,mk->m", wide, wide)
        self._square = norms[held:, None] + norms - 2.0 * (wide[held:] @ wide.T)

    def take(self, row: int, label: int) -> float | None:
        """The row's least distance to the set of its class, which may accept it; None for the first."""
        own = self._column[self._owner == label]
        if not len(own):
            self._keep(row, label)
            return None
        distance = math.sqrt(max(float(self._square[row][own].min()), 0.0))
        count, total, squares, threshold = self._accepted[label].tolist()
        if distance > threshold:
            self._keep(row, label)
            count, total, squares = count + 1, total + distance, squares + distance * distance
            deviation = math.sqrt(max(squares / count - (total / count) ** 2, 0.0))
            self._accepted[label] = count, total, squares, max(threshold, total / count - deviation)
        return distance

    def _keep(self, row: int, label: int) -> None:
        slot = self.many
        if slot >= self.capacity:  # times an odd constant (Knuth's): what makes room is scattered
            slot = slot * 2654435761 % 2**32 % self.capacity
        self._column[slot], self._owner[slot] = self._first + row, label
        self.many += 1

    def state(self) -> dict[str, np.ndarray]:
        held = min(self.many, self.capacity)
        rows = np.zeros((self.capacity, self._every.shape[1]), np.float16)
        owner = np.full(self.capacity, -1, np.int16)
        rows[:held], owner[:held] = self._every[self._column[:held]], self._owner[:held]
        return {"rows": rows, "owner": owner, "accepted": self._accepted}
