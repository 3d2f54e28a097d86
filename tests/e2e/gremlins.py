"""Other people's plug-ins, most of which break their promises; installed by the tests that need them."""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mantlet.plugin import Defense, ThresholdDetector
from mantlet.types import Prediction, Query, Signal, State

SECRET = "words that nobody may read"


class Raises(Defense):
    """Raises, and its words hold the clean answer."""

    type: Literal["raises"] = "raises"
    keeps_top1 = True

    def apply(
        self, prediction: Prediction, query: Query, signals: Mapping[str, Signal]
    ) -> Prediction:
        raise RuntimeError(f"{SECRET}: {prediction.values}")


class Quits(Defense):
    """Tries to end the process."""

    type: Literal["quits"] = "quits"
    keeps_top1 = True

    def apply(
        self, prediction: Prediction, query: Query, signals: Mapping[str, Signal]
    ) -> Prediction:
        raise SystemExit(SECRET)


class _Changes(Defense):
    keeps_top1 = True

    def apply(
        self, prediction: Prediction, query: Query, signals: Mapping[str, Signal]
    ) -> Prediction:
        return replace(prediction, values=self.changed(prediction.values))

    def changed(self, values: Tensor) -> Tensor:
        raise NotImplementedError


class NotANumber(_Changes):
    """Answers NaN."""

    type: Literal["not_a_number"] = "not_a_number"

    def changed(self, values: Tensor) -> Tensor:
        return values * torch.nan


class OffSimplex(_Changes):
    """Answers what are no probabilities."""

    type: Literal["off_simplex"] = "off_simplex"

    def changed(self, values: Tensor) -> Tensor:
        return values * 2


class DropsRows(_Changes):
    """Answers fewer rows than were asked."""

    type: Literal["drops_rows"] = "drops_rows"

    def changed(self, values: Tensor) -> Tensor:
        return values[1:]


class Flips(_Changes):
    """Says that it keeps the top class, and does not."""

    type: Literal["flips"] = "flips"

    def changed(self, values: Tensor) -> Tensor:
        return values.roll(1, dims=1)


class Gate(_Changes):
    """Lets nothing pass while a file is there."""

    type: Literal["gate"] = "gate"
    file: Path

    def changed(self, values: Tensor) -> Tensor:
        while self.file.exists():
            time.sleep(0.005)
        return values


class _Scores(ThresholdDetector):
    def score(self, query: Query, prediction: Prediction) -> Tensor:
        return torch.zeros(len(query.clients), 1)

    def initial(self) -> State:
        return {"seen": np.zeros(1)}

    def update(
        self, state: State, rows: np.ndarray, at: float
    ) -> tuple[State, np.ndarray, np.ndarray]:
        return state, np.zeros(len(rows)), np.zeros(len(rows), dtype=bool)


class RaisesInScore(_Scores):
    """Raises when it scores."""

    type: Literal["raises_in_score"] = "raises_in_score"

    def score(self, query: Query, prediction: Prediction) -> Tensor:
        raise RuntimeError(SECRET)


class ScoresNaN(_Scores):
    """Scores NaN."""

    type: Literal["scores_nan"] = "scores_nan"

    def score(self, query: Query, prediction: Prediction) -> Tensor:
        return torch.full((len(query.clients), 1), torch.nan)


class RaisesInUpdate(_Scores):
    """Raises when it folds."""

    type: Literal["raises_in_update"] = "raises_in_update"

    def update(
        self, state: State, rows: np.ndarray, at: float
    ) -> tuple[State, np.ndarray, np.ndarray]:
        raise KeyError(SECRET)


class SuspectsNaN(_Scores):
    """Finds clients suspicious by a NaN."""

    type: Literal["suspects_nan"] = "suspects_nan"

    def update(
        self, state: State, rows: np.ndarray, at: float
    ) -> tuple[State, np.ndarray, np.ndarray]:
        return state, np.full(len(rows), np.nan), np.zeros(len(rows), dtype=bool)


DEFENSES = (Raises, Quits, NotANumber, OffSimplex, DropsRows, Flips, Gate)
DETECTORS = (RaisesInScore, ScoresNaN, RaisesInUpdate, SuspectsNaN)


def install(folder: Path) -> dict[str, str]:
    """Put this module into ``folder`` as an installed package; returns the environment that finds it."""
    info = folder / "gremlins-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "gremlins.py").write_text(Path(__file__).read_text())
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: gremlins\nVersion: 1.0\n")
    groups = {"mantlet.defenses": DEFENSES, "mantlet.detectors": DETECTORS}
    lines = [
        line
        for group, plugins in groups.items()
        for line in (f"[{group}]", *(f"{p.__name__} = gremlins:{p.__name__}" for p in plugins))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return {"PYTHONPATH": str(folder)}
