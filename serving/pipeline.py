"""The heart: from a query and what is remembered of its clients to what may leave the house.

Pure and synchronous: no clock, no network, no store. The gateway, the bench and the tests call it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mantlet import simplex
from mantlet.errors import PluginError, VictimError
from mantlet.plugin import Defense, Detector
from mantlet.types import Kind, Prediction, Query, Released, Signal, State, Victim
from serving.policy import Level, level_of_rows

Memory = Mapping[str, State]
"""What is remembered of one client: a state a detector, and ``policy`` with the end of a refusal."""

POLICY = "policy"
"""Where the end of a refusal is remembered; no detector may have this name."""

Scores = Mapping[str, np.ndarray]
"""Every detector's (B, F) float64 scores of a query."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The answer to a query: ``levels`` (B,) and ``denied`` (B,) say how each row was treated."""

    released: Released
    memories: Mapping[str, Memory]
    signals: Mapping[str, Signal]
    levels: np.ndarray
    denied: np.ndarray

    def rows(self, start: int, stop: int) -> Released | None:
        """What may leave of a run of rows: nothing when any of them is denied."""
        if self.denied[start:stop].any():
            return None
        return Released(replace(self.released, values=self.released.values[start:stop]))


class Pipeline:
    """Victim, detectors, policy, defenses and release form of one model, in that order."""

    def __init__(
        self,
        victim: Victim,
        detectors: Sequence[Detector] = (),
        defenses: Sequence[Defense] = (),
        *,
        levels: Sequence[Level] = (),
        answer: Literal["probabilities", "labels"] = "probabilities",
    ) -> None:
        self.victim = victim
        self.detectors = tuple(detectors)
        self.defenses = tuple(defenses)
        everything = Level(name="all", defenses=tuple(d.name for d in defenses))
        self.levels = tuple(levels) or (everything,)
        self.answer = answer
        self._asks = {
            d.name: np.array([d.name in level.defenses for level in self.levels]) for d in defenses
        }
        self._deny_s = np.array([level.deny_s or 0.0 for level in self.levels])

    def run(self, query: Query, memories: Mapping[str, Memory]) -> Outcome:
        """Predict, score and respond: all that happens between decoding and encoding."""
        prediction = self.predict(query)
        return self.respond(query, prediction, self.score(query, prediction), memories)

    def predict(self, query: Query) -> Prediction:
        """One forward pass, checked: a victim that answers nonsense answers nothing."""
        try:
            prediction = self.victim.predict(query.inputs)
        except VictimError:
            raise
        except Exception as error:  # whatever a model raises, it gives no answer
            raise VictimError(f"the victim raised {type(error).__name__}") from error
        if not isinstance(prediction, Prediction) or prediction.kind is not self.victim.kind:
            kind = getattr(prediction, "kind", type(prediction).__name__)
            raise VictimError(f"the victim answered {kind}; wanted {self.victim.kind}")
        rows, values = len(query.clients), prediction.values
        classes = (self.victim.classes,) if prediction.kind is Kind.PROBABILITIES else ()
        if values.shape[: 1 + len(classes)] != (rows, *classes):
            raise VictimError(
                f"the victim answered {tuple(values.shape)} to {rows} rows;"
                f" wanted {(rows, *classes)}"
            )
        if prediction.kind is Kind.PROBABILITIES:
            if not simplex.on_simplex(values):
                raise VictimError("the victim answered rows that are no probabilities")
        elif not bool(torch.isfinite(values).all()):
            raise VictimError("the victim answered values that are not finite")
        return prediction

    def score(self, query: Query, prediction: Prediction) -> Scores:
        """Every detector's opinion of every row, in one vectorised step each."""
        scores = {}
        for detector in self.detectors:
            try:
                rows = detector.score(query, prediction)
            except Exception as error:  # any failure of a plug-in is the same failure
                raise _plugin_error(detector, f"raised {type(error).__name__} in score") from error
            if not isinstance(rows, Tensor):
                raise _plugin_error(detector, f"scored a {type(rows).__name__}")
            if rows.ndim != 2 or len(rows) != len(query.clients):
                raise _plugin_error(
                    detector, f"scored {tuple(rows.shape)} for {len(query.clients)} rows"
                )
            scores[detector.name] = rows.numpy(force=True).astype(np.float64)
            if not np.isfinite(scores[detector.name]).all():
                raise _plugin_error(detector, "scored values that are not finite")
        return scores

    def respond(
        self, query: Query, prediction: Prediction, scores: Scores, memories: Mapping[str, Memory]
    ) -> Outcome:
        """Fold, decide, defend and release; runs again, without the victim, after a lost race."""
        signals, after = self._fold(query, scores, memories)
        enforcing = {d.name: signals[d.name] for d in self.detectors if d.enforces}
        levels = level_of_rows(self.levels, enforcing, len(query.clients))
        defended = self._defend(prediction, query, signals, levels)
        after, denied = _refuse(after, query, self._deny_s[levels])
        return Outcome(self._release(defended), after, signals, levels, denied)

    def _fold(
        self, query: Query, scores: Scores, memories: Mapping[str, Memory]
    ) -> tuple[dict[str, Signal], dict[str, Memory]]:
        rows_of = _rows_by_client(query.clients)
        after: dict[str, dict[str, State]] = {c: dict(memories.get(c, {})) for c in rows_of}
        signals = {}
        for detector in self.detectors:
            own = scores[detector.name]
            suspicion, alarm = np.zeros(len(own), np.float32), np.zeros(len(own), dtype=bool)
            for client, rows in rows_of.items():
                before = after[client].get(detector.name)
                state, suspicion[rows], alarm[rows] = _update(detector, before, own[rows], query.at)
                after[client][detector.name] = state
            if not (suspicion.min() >= 0 and suspicion.max() <= 1):  # a NaN is neither
                raise _plugin_error(detector, "returned a suspicion outside [0, 1]")
            signals[detector.name] = Signal(
                torch.from_numpy(suspicion), torch.from_numpy(alarm), detector.name
            )
        return signals, dict(after)

    def _defend(
        self,
        prediction: Prediction,
        query: Query,
        signals: Mapping[str, Signal],
        levels: np.ndarray,
    ) -> Prediction:
        """Each defense in order, on the rows whose level asks for it."""
        for defense in self.defenses:
            wanted = self._asks[defense.name][levels]  # (B,)
            if wanted.all():
                prediction = defense(prediction, query, signals)
            elif wanted.any():
                rows = torch.from_numpy(wanted.nonzero()[0])
                defended = defense(*_select(rows, prediction, query, signals))
                values = prediction.values.index_copy(0, rows, defended.values)
                prediction = replace(prediction, values=values)
        return prediction

    def _release(self, prediction: Prediction) -> Released:
        """Drop what only detectors may see, and take the release form."""
        values = prediction.values.detach().cpu()
        if self.answer == "labels":
            return Released(Prediction(values.argmax(dim=1), Kind.LABELS))
        return Released(Prediction(values, prediction.kind))


def _update(
    detector: Detector, state: State | None, rows: np.ndarray, at: float
) -> tuple[State, np.ndarray, np.ndarray]:
    """Fold one client's rows; whatever goes wrong in a plug-in is the same failure."""
    if state is None or not detector.fits(state):
        state = detector.initial()
    try:
        state, suspicion, alarm = detector.update(state, rows, at)
        shapes = np.shape(suspicion), np.shape(alarm)
    except Exception as error:
        raise _plugin_error(detector, f"raised {type(error).__name__} in update") from error
    if shapes != ((len(rows),), (len(rows),)):
        raise _plugin_error(detector, f"gave {shapes[0]} suspicions for {len(rows)} rows")
    return state, suspicion, alarm


def _rows_by_client(clients: Sequence[str]) -> dict[str, list[int] | slice]:
    """Which rows each client sent, in order; one slice where all are of one client."""
    if clients.count(clients[0]) == len(clients):
        return {clients[0]: slice(None)}
    rows_of: dict[str, list[int]] = {}
    for row, client in enumerate(clients):
        rows_of.setdefault(client, []).append(row)
    return dict(rows_of)


def _select(
    rows: Tensor, prediction: Prediction, query: Query, signals: Mapping[str, Signal]
) -> tuple[Prediction, Query, dict[str, Signal]]:
    """The named rows of a prediction, its query and its signals."""
    part = replace(
        prediction,
        values=prediction.values[rows],
        logits=None if prediction.logits is None else prediction.logits[rows],
        features=None if prediction.features is None else prediction.features[rows],
    )
    asked = Query([query.clients[i] for i in rows.tolist()], query.inputs[rows], query.at)
    heard = {n: Signal(s.suspicion[rows], s.alarm[rows], s.reason) for n, s in signals.items()}
    return part, asked, heard


def end_of_refusal(memory: Memory) -> float:
    """Until when a client is refused, in seconds; 0 for one that never was."""
    policy: State = memory.get(POLICY, {})
    return float(policy["denied_until"][0]) if "denied_until" in policy else 0.0


def _refuse(
    memories: dict[str, Memory], query: Query, deny_s: np.ndarray
) -> tuple[dict[str, Memory], np.ndarray]:
    """Which rows are refused: those whose level denies, and all of a client until its refusal ends."""
    until = {client: end_of_refusal(memory) for client, memory in memories.items()}
    denied = np.zeros(len(deny_s), dtype=bool)
    if not deny_s.any() and max(until.values()) <= query.at:
        return memories, denied
    for row, client in enumerate(query.clients):
        until[client] = max(until[client], query.at + float(deny_s[row]))
        denied[row] = until[client] > query.at
        if deny_s[row]:
            refusal = {"denied_until": np.array([until[client]])}
            memories[client] = {**memories[client], POLICY: refusal}
    return memories, denied


def _plugin_error(detector: Detector, what: str) -> PluginError:
    return PluginError(f"detector '{detector.name}' {what}")
