"""Runs a crowd's streams through the real pipeline, and tells when each client was alarmed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from mantlet.types import Prediction, Query
from redteam.detection.streams import Stream
from serving.folding import EVIDENCE, Memory
from serving.pipeline import Pipeline

ALL = "all"
"""What the policy takes for an alarm: the joint test, or any detector that judges by itself."""
SCORED = 512
"""Rows that victim and detectors see at once."""
FOLDED = 2048
"""Rows of all clients that are folded at once."""


@dataclass(frozen=True, slots=True)
class Trace:
    """What the pipeline said of a crowd after each row.

    ``alarms`` by detector, (clients, rows) bool; ``suspicion`` (clients, rows) of the joint test;
    ``memories`` of the clients after their last row.
    """

    alarms: Mapping[str, np.ndarray]
    suspicion: np.ndarray
    memories: Mapping[str, Memory]

    def first(self, detector: str) -> np.ndarray:
        """(clients,) number of the row of the alarm, from 1; 0 where there is none."""
        alarm = self.alarms[detector]
        return np.where(alarm.any(axis=1), alarm.argmax(axis=1) + 1, 0)


def trace(pipeline: Pipeline, stream: Stream, *, alpha: float | None = None) -> Trace:
    """Score every picture of the stream's pool once, then fold all of its clients' rows, side by side.

    The pipeline needs a policy whose last level is the alarm's. ``alpha``, the pipeline's own or above,
    is where alarms of the joint test and of each of its detectors alone are read off: the evidence is
    the same, and only the threshold moves. Rows come one a second.
    """
    clients, length = stream.order.shape
    names = np.array([f"client {number}" for number in range(clients)])
    tiers = np.array(stream.tiers or ["default"] * clients)
    sent, places = np.unique(stream.order, return_inverse=True)
    prediction, scores = scored(pipeline, stream, sent)
    places = places.reshape(clients, length)
    memories: Mapping[str, Memory] = {}
    spoken: dict[str, list[np.ndarray]] = {}
    each = max(1, FOLDED // clients)
    for start in range(0, length, each):
        rows = places[:, start : start + each]
        flat, count = rows.ravel(), rows.shape[1]
        query = Query(
            names.repeat(count).tolist(),
            stream.inputs(sent[flat]),
            float(start),
            tiers.repeat(count).tolist(),
        )
        chosen = {name: score[flat] for name, score in scores.items()}
        outcome = pipeline.respond(
            query, _rows(prediction, torch.from_numpy(flat)), chosen, memories
        )
        memories = outcome.decision.memories
        last = outcome.decision.wanted == len(pipeline.policy.levels) - 1
        heard = {name: signal.suspicion.numpy() for name, signal in outcome.signals.items()}
        for name, opinion in {**heard, ALL: last}.items():
            spoken.setdefault(name, []).append(opinion.reshape(clients, count))
    said = {name: np.concatenate(parts, axis=1) for name, parts in spoken.items()}
    silence = np.zeros((clients, length), np.float32)
    return Trace(_alarms(pipeline, said, alpha), said.get(EVIDENCE, silence), memories)


def _alarms(
    pipeline: Pipeline, said: Mapping[str, np.ndarray], alpha: float | None
) -> dict[str, np.ndarray]:
    """Latched alarms of the whole chain and of each detector as if it were alone."""
    tested = pipeline.fold.tested
    own = -math.log(pipeline.fold.evidence.alpha)
    level = min(1.0, -math.log(alpha or pipeline.fold.evidence.alpha) / own)
    alarms = {ALL: said[ALL].astype(bool)}
    if EVIDENCE in said and level < 1:
        alarms[ALL] |= said[EVIDENCE] >= level
    for detector in pipeline.detectors:
        if not detector.enforces:  # it accuses nobody
            continue
        # in the joint test a detector has a share of the money; alone it would have all of it
        alone = level - math.log(len(tested)) / own if detector in tested else 1.0
        alarms[detector.name] = said[detector.name] >= np.float32(alone)
    return {name: np.logical_or.accumulate(alarm, axis=1) for name, alarm in alarms.items()}


@torch.inference_mode()
def scored(
    pipeline: Pipeline, stream: Stream, sent: np.ndarray
) -> tuple[Prediction, dict[str, np.ndarray]]:
    """The victim's and the detectors' opinion of the pictures of the pool that are ``sent``."""
    predictions, scores = [], []
    for rows in np.split(sent, range(SCORED, len(sent), SCORED)):
        query = Query(["client"] * len(rows), stream.inputs(rows), 0.0)
        predictions.append(pipeline.predict(query))
        scores.append(pipeline.score(query, predictions[-1]))
    joined = Prediction(
        values=torch.cat([p.values for p in predictions]),
        kind=pipeline.victim.kind,
        logits=_joined([p.logits for p in predictions]),
        features=_joined([p.features for p in predictions]),
    )
    return joined, {name: np.concatenate([s[name] for s in scores]) for name in scores[0]}


def _joined(parts: list[torch.Tensor | None]) -> torch.Tensor | None:
    shown = [part for part in parts if part is not None]
    return torch.cat(shown) if shown else None


def _rows(prediction: Prediction, rows: torch.Tensor) -> Prediction:
    """The named rows of a prediction."""
    return replace(
        prediction,
        values=prediction.values[rows],
        logits=None if prediction.logits is None else prediction.logits[rows],
        features=None if prediction.features is None else prediction.features[rows],
    )
