"""Foreign queries: rows that look unlike the traffic the victim was calibrated on."""

from functools import cached_property
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, PositiveInt, PrivateAttr
from scipy.stats import beta
from torch import Tensor

from detectors.evidence import Evidence
from mantlet.errors import CalibrationError
from mantlet.plugin import Calibration, Detector, Setup
from mantlet.types import Prediction, Query, State

Measure = Literal["residual", "mahalanobis", "energy"]


class Foreign(Detector):
    """Flags rows beyond the benign quantile of several distances, each with its own evidence, averaged.

    * ``residual``: what the principal components of benign inputs leave unexplained; it needs nothing
      of the victim and so also guards an upstream one.
    * ``mahalanobis``: distance of the victim's features to the nearest class mean (Lee et al., 2018).
    * ``energy``: minus the log-sum-exp of the logits (Liu et al., 2020).

    A row's score is 1 where its distance exceeds the ``quantile`` of held-out benign rows. The share
    that an honest client may reach, ``tolerated``, is ``margin`` times the upper 99 % bound of the
    benign share, so few calibration rows make a patient detector and not an accusing one.

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
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 1e-6
    quantile: Annotated[float, Field(gt=0.5, lt=1)] = 0.97
    margin: Annotated[float, Field(ge=1)] = 2.5
    components: PositiveInt = 50

    needs_calibration = True
    _learned: dict[str, Tensor] = PrivateAttr(default_factory=dict)

    def load(self, setup: Setup) -> None:
        arrays = setup.calibration or {}
        self._learned.update({k: torch.from_numpy(v).to(setup.device) for k, v in arrays.items()})

    @property
    def enforces(self) -> bool:
        return bool(self._learned)

    @cached_property
    def _measures(self) -> tuple[Measure, ...]:
        return tuple(m for m in self.measures if f"{m}.threshold" in self._learned) or self.measures

    @cached_property
    def _evidence(self) -> Evidence:
        # without a calibration every score is 0, so the placeholder is never exceeded
        tolerated = (
            float(self._learned[f"{m}.tolerated"]) if self.enforces else 0.5 for m in self._measures
        )
        return Evidence(tolerated=tuple(tolerated), alpha=self.alpha)

    def score(self, query: Query, prediction: Prediction) -> Tensor:
        if not self.enforces:
            return torch.zeros(len(query.clients), len(self._measures))
        flags = [
            _distance(m, self._learned, query.inputs, prediction) > self._learned[f"{m}.threshold"]
            for m in self._measures
        ]
        return torch.stack(flags, dim=1).to(torch.float32)  # (B, F)

    def initial(self) -> State:
        return self._evidence.initial()

    def update(
        self, state: State, rows: np.ndarray, at: float
    ) -> tuple[State, np.ndarray, np.ndarray]:
        return self._evidence.update(state, rows)

    def calibrate(self, query: Query, prediction: Prediction) -> Calibration:
        """Fit on the even rows, take thresholds from the odd ones; needs 200 rows or more."""
        rows = len(query.inputs)
        if rows < 200:
            raise CalibrationError(
                f"detector '{self.name}': {rows} benign rows are too few to know a"
                f" {self.quantile:.0%} quantile; give at least 200, better 5,000"
            )
        even, odd = slice(0, None, 2), slice(1, None, 2)
        learned: dict[str, Tensor] = {}
        if "residual" in self.measures:
            learned |= _fit_residual(query.inputs[even], self.components)
        if "mahalanobis" in self.measures and prediction.features is not None:
            learned |= _fit_mahalanobis(prediction.features[even], prediction.values[even])
        available = [
            m
            for m in self.measures
            if m == "residual"
            or (m == "mahalanobis" and prediction.features is not None)
            or (m == "energy" and prediction.logits is not None)
        ]
        if not available:
            raise CalibrationError(
                f"detector '{self.name}': this victim shows no features and no logits;"
                " add 'residual' to its measures"
            )
        for measure in available:
            held_out = _distance(measure, learned, query.inputs, prediction)[odd]
            threshold = torch.quantile(held_out.double(), self.quantile)
            flagged, total = int((held_out > threshold).sum()), len(held_out)
            upper = float(beta.ppf(0.99, flagged + 1, total - flagged))  # Clopper and Pearson, 1934
            learned[f"{measure}.threshold"] = threshold.float()
            learned[f"{measure}.tolerated"] = torch.tensor(min(self.margin * upper, 0.5))
        return {name: tensor.cpu().numpy() for name, tensor in learned.items()}


def _distance(
    measure: Measure, learned: dict[str, Tensor], inputs: Tensor, prediction: Prediction
) -> Tensor:
    """(B,) distance from benign traffic; larger is stranger."""
    if measure == "residual":
        centred = inputs.reshape(len(inputs), -1) - learned["residual.mean"]  # (B, d)
        explained = centred @ learned["residual.components"].T  # (B, k)
        return (centred.square().sum(dim=1) - explained.square().sum(dim=1)).clamp_min(0.0).sqrt()
    if measure == "mahalanobis":
        assert prediction.features is not None  # calibrated for this victim, which shows them
        whitened = prediction.features @ learned["mahalanobis.whitening"]  # (B, D)
        return torch.cdist(whitened, learned["mahalanobis.means"]).amin(dim=1)
    assert prediction.logits is not None  # as above
    return -prediction.logits.logsumexp(dim=1)


def _fit_residual(inputs: Tensor, components: int) -> dict[str, Tensor]:
    flat = inputs.reshape(len(inputs), -1)
    mean = flat.mean(dim=0)
    centred = flat - mean
    _, vectors = torch.linalg.eigh((centred.T @ centred).double())  # (d, d), ascending
    kept = min(components, len(flat) - 1, flat.shape[1])
    return {
        "residual.mean": mean,
        "residual.components": vectors[:, -kept:].T.float().contiguous(),  # (k, d)
    }


def _fit_mahalanobis(features: Tensor, probabilities: Tensor) -> dict[str, Tensor]:
    """Class means of the whitened features; the covariance is shrunk by a tenth towards its trace."""
    labels = probabilities.argmax(dim=1)
    present = torch.unique(labels)
    means = torch.stack([features[labels == label].mean(dim=0) for label in present])  # (C', D)
    centred = (features - means[torch.searchsorted(present, labels)]).double()
    covariance = centred.T @ centred / len(centred)
    identity = torch.eye(len(covariance), dtype=torch.float64)
    scale = covariance.diagonal().mean().clamp_min(1e-12)
    lower = torch.linalg.cholesky(0.9 * covariance + 0.1 * scale * identity)
    whitening = torch.linalg.inv(lower).T.float().contiguous()  # (D, D)
    return {"mahalanobis.whitening": whitening, "mahalanobis.means": means @ whitening}
