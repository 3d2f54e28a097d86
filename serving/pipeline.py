"""The heart: from a query and what is remembered of its clients to what may leave the house.

Pure and synchronous: no clock, no network, no store. The gateway, the bench and the tests call it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mantlet import simplex
from mantlet.errors import PluginError, VictimError
from mantlet.finite import all_finite
from mantlet.plugin import Defense, Detector, InputDefense, RememberingDefense
from mantlet.types import (
    OPEN,
    InputSpec,
    Kind,
    Prediction,
    Query,
    Released,
    Signal,
    Victim,
    suspicion_of,
)
from serving.explaining import Explaining, Why
from serving.folding import ANSWERED, CAMPAIGN, Fold, Memory, Scores
from serving.policy import ALLOWED, Decision, Level, Policy
from serving.signals import Signals


@dataclass(frozen=True, slots=True)
class Outcome:
    """The answer to a query, what is to be remembered of its clients, and how each row was treated.

    ``explained`` are maps (B, *shape), of nothing but zeros where ``withheld`` (B,) says that a row gets none.
    """

    released: Released
    signals: Signals
    decision: Decision
    explained: Released | None = None
    withheld: np.ndarray | None = None

    @property
    def memories(self) -> Mapping[str, Memory]:
        """What is to be remembered of each client."""
        return self.decision.memories

    def rows(self, start: int, stop: int) -> Released | None:
        """What may leave of a run of rows: nothing when any of them is denied."""
        if self.decision.denied[start:stop].any():
            return None
        return Released(replace(self.released, values=self.released.values[start:stop]))

    def maps(self, start: int, stop: int) -> Released | None:
        """What explains a run of rows: nothing when any of them is denied, or withheld its explanation."""
        if self.explained is None or self.withheld is None or self.withheld[start:stop].any():
            return None
        return Released(replace(self.explained, values=self.explained.values[start:stop]))


class Pipeline:
    """Victim, detectors, policy, defenses and release form of one model, in that order."""

    def __init__(
        self,
        victim: Victim,
        detectors: Sequence[Detector] = (),
        defenses: Sequence[Defense] = (),
        *,
        input_defenses: Sequence[InputDefense] = (),
        levels: Sequence[Level] = (),
        alpha: float = 1e-6,
        secret: bytes = b"",
        shadow: bool = False,
        answer: Literal["probabilities", "labels"] = "probabilities",
        explaining: Explaining | None = None,
    ) -> None:
        self.victim = victim
        self.detectors = tuple(detectors)
        self.defenses = tuple(defenses)
        self.input_defenses = tuple(input_defenses)
        everything = Level(name="all", defenses=tuple(d.name for d in defenses))
        self.policy = Policy(tuple(levels) or (everything,), shadow)
        self.alpha = alpha
        self.answer = answer
        self.explaining = explaining
        self.secret = secret
        self.fold = Fold(self.detectors, alpha, secret=secret)
        self._asks = {
            d.name: np.array([d.name in level.defenses for level in self.policy.levels])
            for d in defenses
        }
        self._of_answers = tuple(d for d in self.defenses if victim.kind in d.kinds)
        self._of_maps = tuple(d for d in self.defenses if Kind.ATTRIBUTIONS in d.kinds)
        self._explains = np.array([level.explanations for level in self.policy.levels])

    def run(self, query: Query, memories: Mapping[str, Memory]) -> Outcome:
        """Predict, score and respond: all that happens between decoding and encoding."""
        prediction = self.predict(query)
        return self.respond(query, prediction, self.score(query, prediction), memories)

    def explain(self, query: Query, why: Why, memories: Mapping[str, Memory]) -> Outcome:
        """Run a query as ever, and explain those of its rows whose level gives explanations."""
        prediction = self.predict(query)
        outcome = self.respond(query, prediction, self.score(query, prediction), memories)
        return self.explained(query, prediction, outcome, why)

    def explained(
        self,
        query: Query,
        prediction: Prediction,
        outcome: Outcome,
        why: Why,
        among: slice = slice(None),
    ) -> Outcome:
        """The outcome of a query with explanations of the rows ``among``; nothing more is to be remembered."""
        levels = outcome.decision.levels
        withheld = np.ones(len(levels), dtype=bool)
        withheld[among] = (outcome.decision.denied | ~self._explains[levels])[among]
        maps = torch.zeros_like(query.inputs)
        if not withheld.all():
            kept = torch.from_numpy((~withheld).nonzero()[0])
            part, asked, signals = _select(kept, prediction, query, outcome.signals)
            classes = why.of(part.values, kept)
            clean = self._maps(asked, classes, why.method)
            given = self._defend(
                clean, asked, signals, replace(outcome.decision, levels=levels[kept.numpy()])
            )
            maps = maps.index_copy(0, kept, given.values.detach().cpu())
        explained = Released(Prediction(maps, Kind.ATTRIBUTIONS))
        return replace(outcome, explained=explained, withheld=withheld)

    def _maps(self, query: Query, classes: Tensor, method: str) -> Prediction:
        """Clean explanations, checked as predictions are."""
        if self.explaining is None:
            raise VictimError("this model gives no explanations; set 'explain'")
        inputs = self._asked(query).inputs
        try:
            maps = self.explaining.explainer.explain(inputs, classes, method)
        except VictimError:
            raise
        except Exception as error:  # whatever goes wrong in it, nothing is explained
            raise VictimError(f"the explainer raised {type(error).__name__}") from error
        if maps.kind is not Kind.ATTRIBUTIONS or maps.values.shape != inputs.shape:
            raise VictimError(
                f"the explainer gave {maps.kind} {tuple(maps.values.shape)} of {tuple(inputs.shape)}"
            )
        if not all_finite(maps.values):
            raise VictimError("the explainer gave values that are not finite")
        return maps

    def _asked(self, query: Query) -> Query:
        """What the victim is asked in place of the rows."""
        for defense in self.input_defenses:
            query = defense(query)
        return query

    def predict(self, query: Query) -> Prediction:
        """One forward pass, checked: a victim that answers nonsense answers nothing."""
        asked = self._asked(query)
        try:
            prediction = self.victim.predict(asked.inputs)
        except VictimError:
            raise
        except Exception as error:  # whatever a model raises, it gives no answer
            raise VictimError(f"the victim raised {type(error).__name__}") from error
        if not isinstance(prediction, Prediction) or prediction.kind is not self.victim.kind:
            kind = getattr(prediction, "kind", type(prediction).__name__)
            raise VictimError(f"the victim answered {kind}; wanted {self.victim.kind}")
        rows, values = len(query.clients), prediction.values
        wanted = self.victim.output_shape
        if values.shape[:1] != (rows,) or not InputSpec((OPEN, *wanted)).takes(tuple(values.shape)):
            raise VictimError(
                f"the victim answered {tuple(values.shape)} to {rows} rows; wanted {(rows, *wanted)}"
            )
        if prediction.kind is Kind.PROBABILITIES:
            if not simplex.on_simplex(values):
                raise VictimError("the victim answered rows that are no probabilities")
        elif not all_finite(values):
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
            given = rows.numpy(force=True)
            scores[detector.name] = given if given.dtype == np.float32 else given.astype(np.float64)
            if not all_finite(given):
                raise _plugin_error(detector, "scored values that are not finite")
        return scores

    def respond(
        self, query: Query, prediction: Prediction, scores: Scores, memories: Mapping[str, Memory]
    ) -> Outcome:
        """Fold, decide, defend and release; runs again, without the victim, after a lost race."""
        folded = self.fold.run(query, scores, memories)
        decision = self.policy.decide(query, folded, self.fold.enforcing)
        defended = self._defend(prediction, query, folded.signals, decision)
        return Outcome(self._release(defended), folded.signals, decision)

    def _defend(
        self,
        prediction: Prediction,
        query: Query,
        signals: Signals,
        decision: Decision,
    ) -> Prediction:
        """Each defense in order, on the rows whose level asks for it."""
        signals = self._told(query, signals)
        # of many rows that are answered by one picture each must get the same noise, or it averages out
        query = self._asked(query)
        explains = prediction.kind is Kind.ATTRIBUTIONS
        for defense in self._of_maps if explains else self._of_answers:
            wanted = self._asks[defense.name][decision.levels]  # (B,)
            if not wanted.any():
                continue
            answer: Callable[..., Prediction] = defense
            if isinstance(defense, RememberingDefense):
                answer = partial(_recall, defense, decision.memories)
            rows = None if wanted.all() else torch.from_numpy(wanted.nonzero()[0])
            part = (prediction, query, signals)
            if rows is not None:
                part = _select(rows, *part)
            defended = answer(*part)
            if defense.by_suspicion:
                defended = defense.scaled(
                    part[0], defended, suspicion_of(part[2], len(part[1].clients))
                )
            if rows is not None:
                values = prediction.values.index_copy(0, rows, defended.values)
                defended = replace(prediction, values=values)
            prediction = defended
        return prediction

    def _told(self, query: Query, signals: Signals) -> Signals:
        """What defenses hear: the signals that count, for the policy too; those that only observe do not.

        In shadow mode, and of clients on the allow list, they hear that nothing is suspicious.
        """
        counting = signals.only((*self.fold.enforcing, CAMPAIGN))
        if not self.policy.shadow and ALLOWED not in query.tiers:
            return counting
        spared = [self.policy.shadow or tier == ALLOWED for tier in query.tiers or query.clients]
        return counting.sparing(np.array(spared))

    def _release(self, prediction: Prediction) -> Released:
        """Drop what only detectors may see, and take the release form."""
        values = prediction.values.detach().cpu()
        if self.answer == "labels":
            return Released(Prediction(values.argmax(dim=1), Kind.LABELS))
        return Released(Prediction(values, prediction.kind))


def _recall(
    defense: RememberingDefense,
    memories: dict[str, Memory],
    prediction: Prediction,
    query: Query,
    signals: Mapping[str, Signal],
) -> Prediction:
    """The answers of a defense that remembers; ``memories`` are brought up to date."""
    name = ANSWERED + defense.name
    states = {c: memories[c][name] for c in query.clients if name in memories[c]}
    before = dict(states)
    answer = defense.recall(prediction, query.clients, states)
    for client, state in states.items():
        if state is not before.get(client):
            memories[client] = {**memories[client], name: state}
    return answer


def _select(
    rows: Tensor, prediction: Prediction, query: Query, signals: Signals
) -> tuple[Prediction, Query, Signals]:
    """The named rows of a prediction, its query and its signals."""
    part = replace(
        prediction,
        values=prediction.values[rows],
        logits=None if prediction.logits is None else prediction.logits[rows],
        features=None if prediction.features is None else prediction.features[rows],
    )
    kept = rows.tolist()
    clients, tiers = [query.clients[i] for i in kept], [query.tiers[i] for i in kept if query.tiers]
    identities = [query.identities[i] for i in kept if query.identities]
    asked = Query(clients, query.inputs[rows], query.at, tiers, identities)
    return part, asked, signals.of(rows.numpy())


def _plugin_error(detector: Detector, what: str) -> PluginError:
    return PluginError(f"detector '{detector.name}' {what}")
