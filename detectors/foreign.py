"""Foreign queries: rows that look unlike the traffic the victim was calibrated on."""

from functools import cached_property
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from mantlet.errors import CalibrationError
from mantlet.plugin import Calibration, EvidenceDetector, Setup
from mantlet.types import Prediction, Query

Measure = Literal["residual", "mahalanobis", "energy"]


class Foreign(EvidenceDetector):
    """Flags rows beyond the benign quantile of several distances; each is a score of its own.

    * ``residual``: what the principal components of benign inputs leave unexplained; it needs nothing
      of the victim and so also guards an upstream one.
    * ``mahalanobis``: distance of the victim's features to the nearest class mean (Lee et al., 2018).
    * ``energy``: minus the log-sum-exp of the logits (Liu et al., 2020).

    A row's score is 1 where its distance exceeds the ``quantile`` of held-out benign rows.

    The idea of telling foreign queries from the victim's own distribution is that of Atli et al. (2019);
    the windows and repeated tests there are replaced by `detectors.evidence`. What undoes it: a thief
    with in-distribution data, whom no query-distribution detector sees.
    """

    type: Literal["foreign"] = "foreign"
    measures: Annotated[tuple[Measure, ...], Field(min_length=1)] = (
        "residual",
        "mahalanobis",
        "energy",
    )
    """Distances; those that the victim cannot show are left out."""
    quantile: Annotated[float, Field(gt=0.5, lt=1)] = 0.97
    """Share of held-out benign rows below the threshold."""
    components: PositiveInt = 50
    """Principal components of ``residual``."""

    def load(self, setup: Setup) -> None:
        super().load(setup)
        if self._learned and not any(f"{m}.threshold" in self._learned for m in self.measures):
            raise CalibrationError(
                f"detector '{self.name}': its calibration has none of {', '.join(self.measures)};"
                " make it anew: mantlet calibrate CONFIG --benign FILE"
            )

    @cached_property
    def _measures(self) -> tuple[Measure, ...]:
        return tuple(m for m in self.measures if f"{m}.threshold" in self._learned) or self.measures

    @property
    def width(self) -> int:
        return len(self._measures)

    def score(self, query: Query, prediction: Prediction) -> Tensor:
        flags = np.zeros((len(query.clients), len(self._measures)), np.float32)
        learned = self._learned
        if learned:
            for column, measure in enumerate(self._measures):
                distance = _distance(measure, learned, query.inputs, prediction)
                flags[:, column] = distance > learned[f"{measure}.threshold"]
        return torch.from_numpy(flags)  # (B, F)

    def calibrate(self, query: Query, prediction: Prediction) -> Calibration:
        """Fit on the even rows, take thresholds from the odd ones; needs 200 rows or more."""
        rows = len(query.inputs)
        if rows < 200:
            raise CalibrationError(
                f"detector '{self.name}': {rows} benign rows are too few to know a"
                f" {self.quantile:.0%} quantile; give at least 200, better 5,000"
            )
        even, odd = slice(0, None, 2), slice(1, None, 2)
        learned: dict[str, np.ndarray] = {}
        if "residual" in self.measures:
            learned |= _fit_residual(query.inputs[even], self.components)
        if "mahalanobis" in self.measures and prediction.features is not None:
            learned |= _fit_mahalanobis(prediction.features[even], prediction.values[even])
        available = [m for m in self.measures if _shown(m, prediction)]
        if not available:
            raise CalibrationError(
                f"detector '{self.name}': this victim shows no features and no logits;"
                " add 'residual' to its measures"
            )
        for measure in available:
            held_out = _distance(measure, learned, query.inputs, prediction)[odd]
            threshold = np.quantile(held_out, self.quantile).astype(np.float32)
            learned[f"{measure}.threshold"] = threshold
        return learned


def _shown(measure: Measure, prediction: Prediction) -> bool:
    """Whether the victim shows what the measure needs."""
    if measure == "residual":
        return True
    needed = prediction.features if measure == "mahalanobis" else prediction.logits
    return needed is not None


def _distance(
    measure: Measure, learned: Calibration, inputs: Tensor, prediction: Prediction
) -> np.ndarray:
    """(B,) distance from benign traffic, squared where it is Euclidean; larger is stranger."""
    if measure == "residual":
        centred = inputs.reshape(len(inputs), -1).numpy() - learned["residual.mean"]  # (B, d)
        explained = centred @ learned["residual.components"]  # (B, k)
        unexplained: np.ndarray = _square_norms(centred) - _square_norms(explained)
        return unexplained
    if measure == "mahalanobis":
        assert prediction.features is not None  # calibrated for this victim, which shows them
        whitened = prediction.features.numpy() @ learned["mahalanobis.whitening"]  # (B, D)
        # |w - m|^2 = |w|^2 + (|m|^2 - 2 w m), the least over the class means m
        inner = whitened @ learned["mahalanobis.means"]  # (B, C')
        nearest = (learned["mahalanobis.norms"] - 2.0 * inner).min(axis=1)
        square: np.ndarray = _square_norms(whitened) + nearest
        return square
    assert prediction.logits is not None  # as above
    # log-sum-exp of the logits: the largest, less the logarithm of its probability
    likeliest = prediction.values.numpy().max(axis=1)
    energy: np.ndarray = np.log(likeliest) - prediction.logits.numpy().max(axis=1)
    return energy


def _square_norms(rows: np.ndarray) -> np.ndarray:
    norms: np.ndarray = np.einsum("bd,bd->b", rows, rows)
    return norms


def _fit_residual(inputs: Tensor, components: int) -> dict[str, np.ndarray]:
    flat = inputs.reshape(len(inputs), -1).double().numpy()
    mean = flat.mean(axis=0)
    centred = flat - mean
    _, vectors = np.linalg.eigh(centred.T @ centred)  # (d, d), ascending
    # of few pixels at most half: where all are explained, only rounding would be left
    kept = min(components, len(flat) - 1, flat.shape[1] // 2)
    return {
        "residual.mean": mean.astype(np.float32),
        "residual.components": np.ascontiguousarray(
            vectors[:, flat.shape[1] - kept :], np.float32
        ),  # (d, k)
    }


def _fit_mahalanobis(features: Tensor, probabilities: Tensor) -> dict[str, np.ndarray]:
    """Class means of the whitened features; the covariance is shrunk by a tenth towards its trace."""
    rows = features.double().numpy()
    present, label = np.unique(probabilities.argmax(dim=1).numpy(), return_inverse=True)
    means = np.stack(
        [rows[label == index].mean(axis=0) for index in range(len(present))]
    )  # (C', D)
    centred = rows - means[label]
    covariance = centred.T @ centred / len(centred)
    scale = max(float(np.trace(covariance)) / len(covariance), 1e-12)
    lower = np.linalg.cholesky(0.9 * covariance + 0.1 * scale * np.eye(len(covariance)))
    whitening = np.linalg.inv(lower).T  # (D, D)
    centres = means @ whitening
    return {
        "mahalanobis.whitening": np.ascontiguousarray(whitening, np.float32),
        "mahalanobis.means": np.ascontiguousarray(centres.T, np.float32),  # (D, C')
        "mahalanobis.norms": _square_norms(centres).astype(np.float32),
    }
