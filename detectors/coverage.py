"""Coverage: how much of the victim's feature space has a client been shown, and what clone that makes."""

import json
from collections.abc import Sequence
from functools import cached_property, reduce
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, PrivateAttr
from torch import Tensor

from mantlet.errors import CalibrationError, ConfigError
from mantlet.plugin import Calibration, Setup, ThresholdDetector
from mantlet.types import Prediction, Query, State, Task

LEAST = 200


class Coverage(ThresholdDetector):
    """Counts the cells of feature space in which a client has had an answer; suspicion is its progress.

    Random hyperplanes through the median of benign rows cut the victim's features (or the input, where
    it shows none) into ``2 ** planes`` cells (Charikar, 2002); a client's memory is one bit a cell. Rows
    like those before open no new cell, so repeating them is no progress.

    ``curve`` is a measured table: how many cells so many rows open, and how well a clone trained on
    them agrees with the victim (``python -m redteam.detection.curve``). Progress is the share of the rows that a
    clone of ``agreement`` needed; where pools of several kinds were measured, the largest share.
    Without a curve it is the share of cells that benign calibration rows opened. Of models that make pictures
    the cells are of thumbnails of what a client was shown.

    It tells how much could have been learned, not who is a thief: an honest client with many rows covers
    the space as well. So by default it never alarms. What undoes it: many accounts, whose cells are
    counted apart; and a clone that needs fewer rows than the measured one.
    """

    type: Literal["coverage"] = "coverage"
    planes: Annotated[int, Field(ge=4, le=16)] = 12
    """Hyperplanes; a client's memory is ``2 ** planes`` bits."""
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    """Of the hyperplanes' directions."""
    curve: Path | None = None
    """JSON that ``python -m redteam.detection.curve`` wrote, relative to the config file."""
    agreement: Annotated[float, Field(gt=0, lt=1)] = 0.9
    """Agreement of the clone whose rows are progress 1."""
    alarm_at: Annotated[float, Field(gt=0, le=1)] | None = None
    """Progress at which it alarms; never where none is given."""

    needs_calibration = True
    measures_progress = True
    tasks = frozenset(Task)
    _curves: list[tuple[np.ndarray, np.ndarray]] = PrivateAttr(default_factory=list)

    def load(self, setup: Setup) -> None:
        super().load(setup)
        if self._learned and self._learned["normals"].shape[1] != self.planes:
            raise CalibrationError(
                f"detector '{self.name}': its calibration has {self._learned['normals'].shape[1]}"
                f" planes, its settings {self.planes}; run: mantlet calibrate CONFIG --benign FILE"
            )
        if self.curve is not None:
            self._curves.extend(_read(self.curve, self.planes, self.agreement))

    @property
    def enforces(self) -> bool:
        return self.alarm_at is not None and bool(self._learned)

    def score(self, query: Query, prediction: Prediction) -> Tensor:
        """(B, 1) the number of each row's cell."""
        if not self._learned:
            return torch.zeros(len(query.clients), 1)
        side = _features(query, prediction) @ self._learned["normals"] > self._learned["medians"]
        return torch.from_numpy(side @ self._powers)[:, None]

    @cached_property
    def _powers(self) -> np.ndarray:
        return (2.0 ** np.arange(self.planes)).astype(np.float32)

    def initial(self) -> State:
        return {"cells": np.zeros(2**self.planes // 8, np.uint8), "open": np.zeros(1, np.int64)}

    def fits(self, state: State) -> bool:
        return super().fits(state) and len(state["cells"]) == 2**self.planes // 8

    def update(
        self, state: State, rows: np.ndarray, at: float
    ) -> tuple[State, np.ndarray, np.ndarray]:
        if not self._learned:
            return state, np.zeros(len(rows)), np.zeros(len(rows), dtype=bool)
        cells = state["cells"]
        cell = rows[:, 0].astype(np.int64)
        place, bit = cell >> 3, (128 >> (cell & 7)).astype(np.uint8)
        opened = (cells[place] & bit) == 0
        if not opened.any():  # the usual case by and by
            return state, *self._judged(np.repeat(state["open"], len(rows)))
        first = np.zeros(len(rows), dtype=bool)
        first[np.unique(cell, return_index=True)[1]] = True
        count = state["open"] + (opened & first).cumsum()
        cells = cells.copy()
        np.bitwise_or.at(cells, place, bit)
        return {"cells": cells, "open": count[-1:]}, *self._judged(count)

    def update_each(
        self, states: Sequence[State], rows: np.ndarray, at: float
    ) -> tuple[Sequence[State], np.ndarray, np.ndarray]:
        if not self._learned:
            return states, np.zeros(len(rows)), np.zeros(len(rows), dtype=bool)
        cell = rows[:, 0].astype(np.int64)
        place, bit = cell >> 3, (128 >> (cell & 7)).astype(np.uint8)
        before = [state["cells"][at] for state, at in zip(states, place.tolist(), strict=True)]
        opened = (np.array(before) & bit) == 0
        count = np.concatenate([state["open"] for state in states]) + opened
        after = list(states)
        for row in opened.nonzero()[0].tolist():
            cells = states[row]["cells"].copy()
            cells[place[row]] |= bit[row]
            after[row] = {"cells": cells, "open": count[row : row + 1].copy()}
        return after, *self._judged(count)

    def _judged(self, opened: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n,) suspicion and alarm of numbers of open cells."""
        progress = self._progress(opened)
        if self.alarm_at is None:
            return progress, np.zeros(len(opened), dtype=bool)
        alarm = progress >= self.alarm_at
        return np.where(alarm, 1.0, progress), alarm

    def _progress(self, opened: np.ndarray) -> np.ndarray:
        """(n,) in [0, 1] of numbers of open cells."""
        if not self._curves:
            share: np.ndarray = np.minimum(opened / self._learned["benign"], 1.0)
            return share
        shares = (np.interp(opened, cells, share) for cells, share in self._curves)
        return reduce(np.maximum, shares)

    def calibrate(self, query: Query, prediction: Prediction) -> Calibration:
        """Draw the planes through the median of the benign rows, of which it wants 200."""
        if len(query.inputs) < LEAST:
            raise CalibrationError(
                f"detector '{self.name}': {len(query.inputs)} benign rows are too few for a median;"
                f" give at least {LEAST}"
            )
        features = _features(query, prediction)
        scale = np.maximum(features.std(axis=0), 1e-6)
        drawn = np.random.default_rng(self.seed).standard_normal((features.shape[1], self.planes))
        normals = np.ascontiguousarray(drawn / scale[:, None], np.float32)
        height = features @ normals
        medians = np.median(height, axis=0).astype(np.float32)
        benign = len(np.unique((height > medians) @ self._powers))
        return {"normals": normals, "medians": medians, "benign": np.array(benign)}


def _features(query: Query, prediction: Prediction) -> np.ndarray:
    """(B, D) what the planes cut."""
    shown = query.inputs if prediction.features is None else prediction.features
    features: np.ndarray = shown.reshape(len(shown), -1).numpy()
    return features


def _read(path: Path, planes: int, agreement: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """By pool whose clones reach the agreement: cells that so many rows open, and their share of the need."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        measured, pools = int(table["planes"]), list(table["pools"])
        if not pools:
            raise ValueError("it names no pool")
        curves = [_of_pool(pool, agreement) for pool in pools]
    except FileNotFoundError:
        raise ConfigError(
            f"curve '{path}': no such file; run: python -m redteam.detection.curve CONFIG"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise ConfigError(
            f"curve '{path}' cannot be read ({error!r}); run: python -m redteam.detection.curve CONFIG"
        ) from error
    if measured != planes:
        raise ConfigError(
            f"curve '{path}' was measured with {measured} planes; the detector has {planes}:"
            " set planes, or run: python -m redteam.detection.curve CONFIG"
        )
    reached = [curve for curve in curves if curve is not None]
    if not reached:
        best = max(max(pool["agreement"]) for pool in pools)
        raise ConfigError(
            f"curve '{path}': no clone reached an agreement of {agreement:g}, the best {best:g};"
            " lower agreement or measure with more rows"
        )
    return reached


def _of_pool(
    pool: dict[str, list[float]], agreement: float
) -> tuple[np.ndarray, np.ndarray] | None:
    rows, cells, agreed = (
        np.asarray(pool[field], np.float64) for field in ("rows", "cells", "agreement")
    )
    if not (rows.ndim == 1 and rows.shape == cells.shape == agreed.shape and len(rows) > 1):
        raise ValueError("rows, cells and agreement must be lists of one length")
    best = np.maximum.accumulate(agreed)
    if best[-1] < agreement:
        return None
    needed = np.exp(np.interp(agreement, best, np.log(rows)))
    ascending = np.maximum.accumulate(np.concatenate([[0.0], cells]))
    return ascending, np.minimum(np.concatenate([[0.0], rows]) / needed, 1.0)
