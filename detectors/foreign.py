"""Foreign queries: rows that look unlike the traffic the victim was calibrated on."""

from collections.abc import Sequence
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Literal, get_args

import numpy as np
import torch
from pydantic import Field, PositiveInt, PrivateAttr
from torch import Tensor

from detectors.pictures import comparable
from detectors.recall import in_parts
from mantlet import weights
from mantlet.errors import CalibrationError
from mantlet.foreignness import Foreignness
from mantlet.plugin import Calibration, EvidenceDetector, Setup
from mantlet.types import Kind, Prediction, Query, State, Task

Measure = Literal["residual", "mahalanobis", "energy"]
CLASSIFIER, NEAR = "classifier", "near"
ALL = (CLASSIFIER, *get_args(Measure))
FEW = 50
"""A class of fewer held-out rows has the threshold of all."""
CHUNK = 64
"""Rows that are compared with each other at once."""
CODE = 16
"""Numbers by which two rows of a client are compared."""
MIXED = 0.05
"""More foreign rows than this share, by the classifier, make no benign traffic."""


class Foreign(EvidenceDetector):
    """Flags rows beyond the benign quantile of several distances; each is a score of its own.

    * ``classifier``: the log-odds of a small network trained to tell benign from foreign inputs
      (Atli et al., 2019); ``mantlet train`` makes it from a recipe of kind ``foreign``.
    * ``residual``: what the principal components of benign inputs leave unexplained; it needs nothing
      of the victim and so also guards an upstream one.
    * ``mahalanobis``: distance of the victim's features to the nearest class mean (Lee et al., 2018).
    * ``energy``: minus the log-sum-exp of the logits (Liu et al., 2020).

    A row's score is 1 where its distance exceeds the ``quantile`` of held-out benign rows of the class that
    the victim names, so that a client of one hard class is not taken for a thief.

    A burst of frames is one observation: of up to ``burst`` rows that are nearly its first row, those after it
    are no evidence, for or against. What is near is told by a projection that only who has the gateway's
    secret knows, so no row can be bent to it. Who sends a slow walk of foreign rows leaves the first of them
    behind, and begins another burst.

    Pictures that a model translates are judged by the brightness of 8 x 8 fields and its deviation within them,
    as one class, by ``residual`` and ``mahalanobis``; of these every one is an observation.

    Deviations from Atli et al.: a network of one hidden layer over principal components and the
    victim's answer in place of a ResNet over pixels, foreign pictures that are made beside those
    collected, and `detectors.evidence` in place of windows and repeated tests. What undoes it: a thief with
    in-distribution data, whom no query-distribution detector sees; a few foreign rows among many honest ones
    (a twelfth of the rows is not seen); accounts with half a dozen rows each.
    """

    type: Literal["foreign"] = "foreign"
    measures: Annotated[tuple[Measure, ...], Field(min_length=1)] = (
        "residual",
        "mahalanobis",
        "energy",
    )
    """Distances; those that the victim cannot show are left out."""
    classifier: Path | None = None
    """Weights of ``classifier``, relative to the config file; one score more, the first."""
    quantile: Annotated[float, Field(gt=0.5, lt=1)] = 0.99
    """Share of held-out benign rows below the threshold."""
    burst: PositiveInt = 1000
    """Rows of a burst that are one observation; those beyond begin another."""
    components: PositiveInt = 50
    """Principal components of ``residual``."""

    skips_copies = True
    tasks = frozenset({Task.CLASSIFY, Task.TRANSLATE})
    _trained: list[Foreignness] = PrivateAttr(default_factory=list)

    @cached_property
    def _parts(self) -> dict[str, slice]:
        """The columns of each basis among all."""
        return {}

    def load(self, setup: Setup) -> None:
        super().load(setup)
        if not self._learned:
            return
        seed = blake2b(setup.secret, digest_size=32, person=b"near").digest()
        size = int(self._learned["near.size"])
        self._learned["near.code"] = _projection(size, np.random.default_rng(list(seed)))
        if not any(map(self._has, self._wanted)):
            raise CalibrationError(
                f"detector '{self.name}': its calibration has none of {', '.join(self._wanted)};"
                " make it anew: mantlet calibrate CONFIG --benign FILE"
            )
        if CLASSIFIER in self._measures:
            made_with = bytes(self._learned["classifier.file"]).hex()
            assert self.classifier is not None  # else it is left out
            if weights.fingerprint(self.classifier) != made_with:
                raise CalibrationError(
                    f"detector '{self.name}': its calibration was made with another classifier than"
                    f" '{self.classifier}'; run: mantlet calibrate CONFIG --benign FILE"
                )
            self._trained.append(Foreignness.load(self.classifier))
        self._stack()

    def _stack(self) -> None:
        """All bases side by side, so that one product reads the inputs once; and all thresholds."""
        learned = self._learned
        code = learned["near.code"]
        bases = {NEAR: (code, np.zeros(len(code), np.float32))}
        if "residual" in self._measures:
            bases["residual"] = learned["residual.components"], learned["residual.mean"]
        for known in self._trained:
            bases[CLASSIFIER] = known.arrays["components"], known.arrays["mean"]
        ends = np.cumsum([0, *(basis.shape[1] for basis, _ in bases.values())]).tolist()
        self._parts.update(zip(bases, map(slice, ends, ends[1:]), strict=False))
        learned["bases"] = np.concatenate([basis for basis, _ in bases.values()], axis=1)  # (d, K)
        learned["centre"] = np.concatenate([mean @ basis for basis, mean in bases.values()])
        each = [learned[f"{measure}.threshold"] for measure in self._measures]
        learned["thresholds"] = np.stack(each, axis=1)  # (C, G)

    @cached_property
    def _wanted(self) -> tuple[str, ...]:
        return self.measures if self.classifier is None else (CLASSIFIER, *self.measures)

    @cached_property
    def _measures(self) -> tuple[str, ...]:
        return tuple(filter(self._has, self._wanted)) or self.measures

    def _has(self, measure: str) -> bool:
        return f"{measure}.threshold" in self._learned

    @property
    def width(self) -> int:
        return len(self._measures)

    @property
    def _calibrated(self) -> list[int]:
        """Where the calibration has each measure."""
        known = self._learned["measures"].tolist()
        return [known.index(ALL.index(measure)) for measure in self._measures]

    def tolerated(self, tier: str) -> np.ndarray:
        return super().tolerated(tier)[self._calibrated]

    def kept(self, bounds: np.ndarray) -> np.ndarray:
        """Measures that these settings leave out keep what any client may reach."""
        whole: np.ndarray = self._learned["tolerated"].copy()
        whole[self._calibrated] = bounds
        return whole

    def score(self, query: Query, prediction: Prediction) -> Tensor:
        """(B, G + 16): flags, and the code by which rows are compared."""
        query, prediction = comparable(query, prediction)
        many, learned = len(self._measures), self._learned
        scores = np.zeros((len(query.clients), many + CODE), np.float32)
        if learned:
            flat = query.inputs.numpy().reshape(len(scores), -1)
            along = flat @ learned["bases"]  # (B, K)
            along -= learned["centre"]
            for column, measure in enumerate(self._measures):
                own = along[:, self._parts[measure]] if measure in self._parts else None
                scores[:, column] = self._distance(measure, learned, query, prediction, own)
            named = prediction.values.numpy().argmax(axis=1)
            np.greater(scores[:, :many], learned["thresholds"][named], out=scores[:, :many])
            scores[:, many:] = along[:, self._parts[NEAR]]
        return torch.from_numpy(scores)

    def initial(self) -> State:
        return {"first": np.full(CODE, np.inf), "rows": np.zeros(1, np.int64)}

    def watch(self, state: State, rows: np.ndarray, at: float) -> tuple[State, np.ndarray]:
        return in_parts(self._watch, state, rows, width=self.width, size=CHUNK)

    def _watch(self, state: State, rows: np.ndarray) -> tuple[State, np.ndarray]:
        """Abstain for the rows that are near the first row of their burst."""
        flags, codes = rows[:, : self.width], rows[:, self.width :]
        near = float(self._learned.get("near.square", 0.0))
        others = np.concatenate([state["first"][None], codes])  # (1 + n, k)
        if np.square(codes - others[:-1]).sum(axis=1).min() >= near:  # nearly always: no burst
            return {"first": others[-1].copy(), "rows": np.ones(1, np.int64)}, flags
        alike = (np.square(codes[:, None] - others).sum(axis=2) < near).tolist()
        first, count, new = 0, int(state["rows"][0]), np.zeros((len(rows), 1), dtype=bool)
        for row, near_to in enumerate(alike):
            count += 1
            if not near_to[first] or count > self.burst:
                first, count, new[row] = row + 1, 1, True
        after = {"first": others[first].copy(), "rows": np.array([count])}
        return after, np.where(new, flags, np.nan)

    def watch_each(
        self, states: Sequence[State], rows: np.ndarray, at: float
    ) -> tuple[Sequence[State], np.ndarray]:
        flags, codes = rows[:, : self.width], rows[:, self.width :]
        near = float(self._learned.get("near.square", 0.0))
        first = np.array([state["first"] for state in states])  # (n, k)
        count = np.concatenate([state["rows"] for state in states]) + 1
        new = (np.square(codes - first).sum(axis=1) >= near) | (count > self.burst)
        first, count = np.where(new[:, None], codes, first), np.where(new, 1, count)
        after = [
            {"first": f.copy(), "rows": c.copy()}
            for f, c in zip(first, count[:, None], strict=True)
        ]
        return after, np.where(new[:, None], flags, np.nan)

    def _distance(
        self,
        measure: str,
        learned: Calibration,
        query: Query,
        prediction: Prediction,
        explained: np.ndarray | None = None,
    ) -> np.ndarray:
        """(B,) with what of the inputs the measure's components explain, where that is known already."""
        if measure == CLASSIFIER:
            return self._trained[0].judge(query.inputs.numpy(), prediction, explained)
        return _distance(measure, learned, query.inputs, prediction, explained)

    def calibrate(self, query: Query, prediction: Prediction) -> Calibration:
        """Fit on one half of the rows, take thresholds from the other; needs 200 rows or more."""
        translated = prediction.kind is Kind.IMAGES
        query, prediction = comparable(query, prediction)
        rows = len(query.inputs)
        if rows < 200:
            raise CalibrationError(
                f"detector '{self.name}': {rows} benign rows are too few to know a"
                f" {self.quantile:.0%} quantile; give at least 200, better 5,000"
            )
        # by chance, not in turn: files come in some order (MNIST alternates between two groups of writers)
        fitted, kept = np.array_split(np.random.default_rng(0).permutation(rows), 2)
        learned = _fit_nearness(query.inputs[fitted])
        if (
            translated
        ):  # pictures of noise are not copies of each other, and as near in all that is compared
            learned["near.square"] = np.array(0.0)
        if "residual" in self.measures:
            learned |= _fit_residual(query.inputs[fitted], self.components)
        if "mahalanobis" in self.measures and prediction.features is not None:
            learned |= _fit_mahalanobis(prediction.features[fitted], prediction.values[fitted])
        available: list[str] = [m for m in self.measures if _shown(m, prediction)]
        if self.classifier is not None:
            learned["classifier.file"] = np.frombuffer(
                bytes.fromhex(weights.fingerprint(self.classifier)), np.uint8
            )
            self._trained[:] = [self._checked(Foreignness.load(self.classifier), query, prediction)]
            available.insert(0, CLASSIFIER)
        if not available:
            raise CalibrationError(
                f"detector '{self.name}': this victim shows no features and no logits;"
                " add 'residual' to its measures"
            )
        learned["measures"] = np.array([ALL.index(measure) for measure in available])
        return learned | self._limits(available, learned, query, prediction, kept)

    def _limits(
        self,
        measures: Sequence[str],
        learned: Calibration,
        query: Query,
        prediction: Prediction,
        kept: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """The thresholds (C,) of each measure, from the rows that were ``kept`` from the fit."""
        limits = {}
        named = prediction.values.numpy().argmax(axis=1)
        for measure in measures:
            distance = self._distance(measure, learned, query, prediction)
            if measure == CLASSIFIER and (share := float((distance > 0).mean())) > MIXED:
                raise CalibrationError(
                    f"detector '{self.name}': its classifier takes {share:.0%} of the benign rows for"
                    " foreign: mixed traffic? Leave those rows out, or train the classifier on yours"
                )
            limits[f"{measure}.threshold"] = _thresholds(
                distance[kept], named[kept], prediction.values.shape[1], self.quantile
            )
        return limits

    def _checked(
        self, classifier: Foreignness, query: Query, prediction: Prediction
    ) -> Foreignness:
        if not classifier.fits(query.inputs[:1].numpy(), prediction):
            raise CalibrationError(
                f"detector '{self.name}': classifier '{self.classifier}' was trained for other inputs"
                " or another victim; train it anew: mantlet train RECIPE"
            )
        return classifier


def _thresholds(
    distance: np.ndarray, named: np.ndarray, classes: int, quantile: float
) -> np.ndarray:
    """(C,) quantile of the distances of each class; that of all where a class has few rows."""
    thresholds = np.full(classes, np.quantile(distance, quantile), np.float32)
    for one in range(classes):
        own = distance[named == one]
        if len(own) >= FEW:
            thresholds[one] = np.quantile(own, quantile)
    return thresholds


def _shown(measure: Measure, prediction: Prediction) -> bool:
    """Whether the victim shows what the measure needs."""
    if measure == "residual":
        return True
    needed = prediction.features if measure == "mahalanobis" else prediction.logits
    return needed is not None


def _distance(
    measure: str,
    learned: Calibration,
    inputs: Tensor,
    prediction: Prediction,
    explained: np.ndarray | None,
) -> np.ndarray:
    """(B,) distance from benign traffic, squared where it is Euclidean; larger is stranger."""
    if measure == "residual":
        centred = inputs.numpy().reshape(len(inputs), -1) - learned["residual.mean"]  # (B, d)
        if explained is None:
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


def _coded(inputs: Tensor, basis: np.ndarray) -> np.ndarray:
    """(B, 16) projections of the inputs."""
    codes: np.ndarray = inputs.reshape(len(inputs), -1).numpy() @ basis
    return codes


def _projection(size: int, rng: np.random.Generator) -> np.ndarray:
    """(d, 16)"""
    return rng.standard_normal((size, CODE)).astype(np.float32)


def _fit_nearness(inputs: Tensor) -> dict[str, np.ndarray]:
    """Numbers of a row, and half the squared distance that 99 of 100 benign pairs exceed, projected."""
    rng = np.random.default_rng(0)
    size = inputs[0].numel()
    basis = _projection(size, rng)
    codes = _coded(inputs, basis)
    one, other = rng.integers(0, len(codes), (2, 10_000))
    apart = np.square(codes[one] - codes[other]).sum(axis=1)[one != other]
    return {"near.size": np.array(size), "near.square": np.quantile(apart, 0.01) / 2}


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
