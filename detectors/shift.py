"""Shift: windows of a client's rows that, taken together, are not distributed like benign ones."""

from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from mantlet.errors import CalibrationError
from mantlet.plugin import Calibration, EvidenceDetector
from mantlet.types import Prediction, Query, State

LEAST = 400
WINDOWS = 400
"""Windows that are drawn of benign rows, and of each class alone, to know the quantile."""
FEW = 40
"""A class of fewer benign rows is compared with all of them."""


class Shift(EvidenceDetector):
    """Compares each window of ``window`` rows with benign traffic, by the distance of mean embeddings.

    The two-sample statistic is the kernel maximum mean discrepancy (Gretton et al., 2012), in
    ``frequencies`` random Fourier features (Rahimi and Recht, 2007) of the victim's features, or of a
    seeded random projection of the input where it shows none. Each row is compared with the mean embedding
    of the class that the victim names, so that a client of one class is not taken for a thief.

    A score comes with the last row of a window: 1 where the statistic exceeds ``slack`` times the ``quantile``
    of benign windows, of mixed ones and of those of one class. The other rows abstain. The slack is for honest
    clients who are a little different for good. Of windows of foreign rows alone, the digits' shipped model flags
    from 2.5 % (letters) over 55 % (Omniglot) to all (fashion, noise): it stands beside `foreign`, not in its
    place. Bursts of near-duplicates and other devices need a tier with rows of their own. The embedded default
    goes without it: of what it sees, `foreign` saw all sooner.

    What undoes it: few foreign rows among honest ones, which `foreign` sees; in-distribution data.
    """

    type: Literal["shift"] = "shift"
    window: Annotated[int, Field(ge=5, le=1000)] = 25
    """Rows of a window."""
    frequencies: Annotated[int, Field(ge=8, le=512)] = 64
    """Random Fourier features: numbers of a client's memory."""
    dimensions: Annotated[int, Field(ge=2, le=256)] = 32
    """Principal axes of the features that are compared."""
    quantile: Annotated[float, Field(gt=0.5, lt=1)] = 0.97
    """Share of benign windows below the threshold."""
    slack: Annotated[float, Field(ge=1)] = 4.0
    """Factor on that quantile."""
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    """Of the frequencies and of the projection."""

    def score(self, query: Query, prediction: Prediction) -> Tensor:
        """(B, 1 + frequencies): the benign spread of the row's class, and how the row differs from its mean."""
        if not self._learned:
            return torch.zeros(len(query.clients), 1 + self.frequencies)
        named = self._learned["class"][prediction.values.argmax(dim=1).numpy()]
        differs = _embedded(query, prediction, self._learned) - self._learned["means"][named]
        spread = self._learned["spread"][named, None]
        return torch.from_numpy(np.concatenate([spread, differs], axis=1))

    def initial(self) -> State:
        return {"sum": np.zeros(1 + self.frequencies), "rows": np.zeros(1, np.int64)}

    def fits(self, state: State) -> bool:
        return super().fits(state) and len(state["sum"]) == 1 + self.frequencies

    def watch(self, state: State, rows: np.ndarray, at: float) -> tuple[State, np.ndarray]:
        before = int(state["rows"][0])
        if before + len(rows) < self.window:  # the usual case: no window ends
            total = state["sum"] + (rows[0] if len(rows) == 1 else rows.sum(axis=0))
            silent = np.full((len(rows), 1), np.nan)
            return {"sum": total, "rows": np.array([before + len(rows)])}, silent
        last = np.arange(self.window - 1 - before, len(rows), self.window)  # last rows of windows
        total = np.concatenate([state["sum"][None], rows]).cumsum(axis=0)  # (1 + n, 1 + m)
        sums = np.diff(total[last + 1], axis=0, prepend=0.0)
        scores = np.full((len(rows), 1), np.nan)
        scores[last, 0] = _statistic(sums) > self._learned.get("threshold", np.inf)
        rest = total[-1] - total[last[-1] + 1] if len(last) else total[-1]
        after = {"sum": rest, "rows": np.array([before + len(rows)]) % self.window}
        return after, scores

    def calibrate(self, query: Query, prediction: Prediction) -> Calibration:
        """Fit on one half of the rows, draw windows of the other; needs 400 rows or more."""
        rows = len(query.inputs)
        if rows < max(LEAST, 4 * self.window):
            raise CalibrationError(
                f"detector '{self.name}': {rows} benign rows are too few for windows of"
                f" {self.window}; give at least {max(LEAST, 4 * self.window)}, better 5,000"
            )
        label = prediction.values.argmax(dim=1).numpy()
        rng = np.random.default_rng(self.seed)
        fitted, kept = np.array_split(
            rng.permutation(rows), 2
        )  # by chance: files come in some order
        learned = _axes(_shown(query, prediction)[fitted], label[fitted], self, rng)
        embedded = _embedded(query, prediction, learned)
        learned |= _class_means(embedded[fitted], label[fitted], prediction.values.shape[1])
        named = learned["class"][label]
        differs = embedded - learned["means"][named]
        held_out = np.concatenate([learned["spread"][named, None], differs], axis=1)[kept]
        groups = [np.arange(len(held_out))]
        groups += [np.flatnonzero(label[kept] == one) for one in np.unique(label)]
        quantiles = []
        for own in groups:
            if len(own) >= max(FEW, self.window) or len(own) == len(held_out):
                drawn = np.stack(
                    [rng.choice(own, self.window, replace=False) for _ in range(WINDOWS)]
                )
                statistic = _statistic(held_out[drawn].sum(axis=1))
                quantiles.append(np.quantile(statistic, self.quantile))
        return learned | {"threshold": np.array(self.slack * np.max(quantiles), np.float32)}


def _statistic(sums: np.ndarray) -> np.ndarray:
    """(n,) squared length of the windows' summed differences, by what chance alone gives: about 1."""
    square: np.ndarray = (sums[:, 1:] ** 2).sum(axis=1) / np.maximum(sums[:, 0], 1e-12)
    return square


def _shown(query: Query, prediction: Prediction) -> np.ndarray:
    shown = query.inputs if prediction.features is None else prediction.features
    rows: np.ndarray = shown.reshape(len(shown), -1).numpy()
    return rows


def _embedded(query: Query, prediction: Prediction, learned: Calibration) -> np.ndarray:
    """(B, m) random Fourier features of the rows."""
    phase = _shown(query, prediction) @ learned["axes"] + learned["phases"]
    embedded: np.ndarray = np.cos(phase) * np.float32(np.sqrt(2 / phase.shape[1]))
    return embedded


def _axes(
    rows: np.ndarray, label: np.ndarray, settings: Shift, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Frequencies (D, m) and phases (m,) of a Gaussian kernel as wide as the rows of a class are apart."""
    centred = rows.astype(np.float64)
    for one in np.unique(label):  # within classes: between them lies no shift
        centred[label == one] -= centred[label == one].mean(axis=0)
    if centred.shape[1] > 1024:  # too many numbers for principal axes: a random projection first
        first = rng.standard_normal((centred.shape[1], 256)) / 16.0
    else:
        first = np.eye(centred.shape[1])
    projected = centred @ first
    values, vectors = np.linalg.eigh(projected.T @ projected / len(rows))
    kept = min(settings.dimensions, len(values))
    basis = (
        first @ vectors[:, -kept:] / np.sqrt(np.maximum(values[-kept:], 1e-3 * values[-1] + 1e-9))
    )
    white = centred @ basis  # (n, k)
    one, other = rng.integers(0, len(white), (2, 20_000))
    apart = np.square(white[one] - white[other]).sum(axis=1)[label[one] == label[other]]
    width = np.sqrt(max(float(np.median(apart)), 1e-6))
    axes = basis @ rng.standard_normal((kept, settings.frequencies)) / width
    phases = rng.uniform(0, 2 * np.pi, settings.frequencies) - rows.mean(axis=0) @ axes
    return {
        "axes": np.ascontiguousarray(axes, np.float32),
        "phases": np.remainder(phases, 2 * np.pi).astype(np.float32),
    }


def _class_means(embedded: np.ndarray, label: np.ndarray, classes: int) -> dict[str, np.ndarray]:
    """Mean embedding of all and of each class, the spread about it, and which of them a class has."""
    groups = [np.arange(len(embedded))]
    index = np.zeros(classes, np.int64)
    for one in range(classes):
        own = np.flatnonzero(label == one)
        if len(own) >= FEW:
            index[one] = len(groups)
            groups.append(own)
    means = np.stack([embedded[own].mean(axis=0) for own in groups])
    spread = [embedded[own].var(axis=0).sum() for own in groups]
    return {
        "class": index,
        "means": means.astype(np.float32),
        "spread": np.asarray(spread, np.float32),
    }
