"""The bases of what an operator can plug in: a defense changes answers, a detector scores clients."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, ClassVar, final

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from mantlet import simplex
from mantlet.errors import PluginError
from mantlet.finite import all_finite
from mantlet.types import (
    Kind,
    Prediction,
    Query,
    Signal,
    State,
    Task,
    Victim,
    rows_by_client,
)

Calibration = Mapping[str, np.ndarray]
"""What a detector learned of benign traffic: named arrays."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What a plug-in may use when it loads: device, the gateway's secret, its own calibration.

    ``shape`` of a row and number of ``classes`` are those of the ``victim``; empty and 0 where it is not
    known. ``model`` is the name under which it is served.
    """

    device: torch.device
    secret: bytes
    calibration: Calibration | None = None
    shape: tuple[int, ...] = ()
    classes: int = 0
    victim: Victim | None = None
    model: str = ""


class Plugin(BaseModel):
    """A frozen set of settings with a ``type``, its name in the config file.

    Constructors only store; ``load`` opens what has to be opened, once, before any traffic.
    ``name`` tells two instances of one type apart and is the type where it is not given.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: str
    name: str = ""

    def model_post_init(self, context: object, /) -> None:
        if not self.name:
            object.__setattr__(
                self, "name", self.type
            )  # frozen: this is the one place that fills it

    def load(self, setup: Setup) -> None:
        """Open files, move tensors to the device. Called once; the default needs nothing."""


class Defense(Plugin, ABC):
    """Transforms predictions, vectorised over rows of different clients, without memory.

    A subclass writes ``apply``; callers use the instance as a function, which checks what ``apply``
    returns and raises `PluginError` when the promise is broken: same shape, kind and type, finite values,
    rows on the simplex, and the same top class where ``keeps_top1`` is declared.
    """

    by_suspicion: Annotated[int, Field(ge=0, le=10)] = 0
    """Steps in which the change grows with the client's suspicion, all of it at an alarm; 0: always all."""
    keeps_top1: ClassVar[bool]
    kinds: ClassVar[frozenset[Kind]] = frozenset({Kind.PROBABILITIES})

    @abstractmethod
    def apply(
        self, prediction: Prediction, query: Query, signals: Mapping[str, Signal]
    ) -> Prediction:
        """Return a new prediction of the same shape; never write into the argument."""

    @final
    def __call__(
        self, prediction: Prediction, query: Query, signals: Mapping[str, Signal]
    ) -> Prediction:
        return self._checked(prediction, lambda: self.apply(prediction, query, signals))

    def _checked(self, prediction: Prediction, answers: Callable[[], Prediction]) -> Prediction:
        try:
            answer = answers()
        except (
            Exception
        ) as error:  # any failure of a plug-in is the same failure: nothing is released
            raise PluginError(f"defense '{self.name}' raised {type(error).__name__}") from error
        if not isinstance(answer, Prediction):
            raise PluginError(f"defense '{self.name}' returned a {type(answer).__name__}")
        problem = self._broken_promise(prediction, answer)
        if problem:
            raise PluginError(f"defense '{self.name}' {problem}")
        return answer

    @final
    def scaled(self, before: Prediction, after: Prediction, suspicion: Tensor) -> Prediction:
        """As much of its change from ``before`` to ``after`` as ``suspicion`` (B,) in [0, 1] asks for."""
        if not self.by_suspicion:
            return after
        share = (suspicion * self.by_suspicion).floor() / self.by_suspicion
        share = share.to(after.values).view(-1, *[1] * (after.values.ndim - 1))
        mixed = torch.lerp(before.values, after.values, share)
        if self.keeps_top1 and after.kind is Kind.PROBABILITIES:  # rounding may tie two classes
            mixed = simplex.blend_to_keep_top1(before.values, mixed)
        return replace(after, values=mixed)

    def _broken_promise(self, before: Prediction, after: Prediction) -> str | None:
        if after.kind is not before.kind or after.values.shape != before.values.shape:
            return (
                f"returned {after.kind} {tuple(after.values.shape)}"
                f" for {before.kind} {tuple(before.values.shape)}"
            )
        if after.values.dtype is not before.values.dtype:
            return f"returned {after.values.dtype} for {before.values.dtype}"
        if after.kind is Kind.IMAGES:
            pixels = after.values.numpy(force=True)
            low, high = float(pixels.min()), float(pixels.max())
            if not (low >= 0 and high <= 1):  # a NaN is neither
                return f"returned pixels from {low:.3g} to {high:.3g}; wanted 0 to 1"
            return None
        if after.kind is not Kind.PROBABILITIES:
            return None if all_finite(after.values) else "returned values that are not finite"
        if not simplex.on_simplex(after.values):
            return "returned rows that are no probabilities"
        if self.keeps_top1 and not simplex.same_top1(after.values, before.values):
            return "declares that it keeps the top class and changed it"
        return None


class InputDefense(Plugin, ABC):
    """Changes what the victim is asked, for every client alike, vectorised and without memory.

    A subclass writes ``rewrite``: rows of the same shape, each a function of the secret, its client's
    identity and the row alone, so that a repeated query gets the same answer. Detectors see the rows
    as they were asked, and the victim's answer to what it was asked in their place.
    """

    tasks: ClassVar[frozenset[Task]] = frozenset({Task.GENERATE})

    @abstractmethod
    def rewrite(self, query: Query) -> Tensor:
        """(B, *shape) float32 in place of ``query.inputs``, which is not written to."""

    @final
    def __call__(self, query: Query) -> Query:
        try:
            inputs = self.rewrite(query)
        except Exception as error:  # any failure of a plug-in is the same failure
            raise PluginError(
                f"input defense '{self.name}' raised {type(error).__name__}"
            ) from error
        asked = query.inputs.shape, query.inputs.dtype
        if not isinstance(inputs, Tensor) or (inputs.shape, inputs.dtype) != asked:
            raise PluginError(f"input defense '{self.name}' returned rows of another shape or type")
        if not all_finite(inputs):
            raise PluginError(f"input defense '{self.name}' returned values that are not finite")
        return replace(query, inputs=inputs)


class RememberingDefense(Defense):
    """A defense that remembers of each client what it answered, and of nobody anything else.

    A subclass writes ``answer``, whose result for a row may depend on the same client's earlier rows and
    on nothing of other clients, and must not depend on how the stream was cut into batches. What it
    remembers is a ``State``, bounded by a setting, kept beside the memory of the detectors, and not shown
    to them. Called as a function it answers clients that it has never seen.
    """

    by_suspicion: Annotated[int, Field(ge=0, le=0)] = 0
    """Always 0: an answer that changes with suspicion would not be the one that is remembered."""

    def initial(self) -> State:
        """The memory of a client never seen before; none by default."""
        return {}

    @abstractmethod
    def answer(self, state: State, rows: Tensor) -> tuple[State, Tensor]:
        """Answer one client's clean ``rows`` (n, C), in order; return the state after, and (n, C).

        Never write into the arguments; the same state, not a copy, says that nothing is to be stored.
        """

    @final
    def apply(
        self, prediction: Prediction, query: Query, signals: Mapping[str, Signal]
    ) -> Prediction:
        return self._answers(prediction, query.clients, {})

    @final
    def recall(
        self, prediction: Prediction, clients: Sequence[str], states: dict[str, State]
    ) -> Prediction:
        """Answer row i to ``clients[i]``, checked; ``states`` are brought up to date."""
        return self._checked(prediction, lambda: self._answers(prediction, clients, states))

    def _answers(
        self, prediction: Prediction, clients: Sequence[str], states: dict[str, State]
    ) -> Prediction:
        values = torch.empty_like(prediction.values)
        for client, rows in rows_by_client(clients).items():
            own = torch.tensor(rows, device=values.device)
            state = states[client] if client in states else self.initial()
            states[client], given = self.answer(state, prediction.values[own])
            values.index_copy_(0, own, given)  # refuses rows of another number or type
        return replace(prediction, values=values)


class Detector(Plugin, ABC):
    """Scores rows in one vectorised step; what is folded per client depends on the kind of detector.

    ``score`` is stateless and sees clean predictions. What is remembered of a client is a ``State``,
    and folding rows into it is a pure function whose result does not depend on how the client's stream
    was cut into batches. Subclass `EvidenceDetector` or `ThresholdDetector`, not this.
    """

    needs_calibration: ClassVar[bool] = False
    tasks: ClassVar[frozenset[Task]] = frozenset({Task.CLASSIFY})
    """What models it can watch; with others the gateway does not start."""

    @cached_property
    def _learned(self) -> dict[str, np.ndarray]:
        """The calibration. Not a private attribute of pydantic: those are slow to read."""
        return {}

    def load(self, setup: Setup) -> None:
        self._learned.update(setup.calibration or {})

    @abstractmethod
    def score(self, query: Query, prediction: Prediction) -> Tensor:
        """(B, F) float scores of the rows."""

    def initial(self) -> State:
        """The memory of a client never seen before; none by default."""
        return {}

    def fits(self, state: State) -> bool:
        """Whether a stored memory is one of this detector as it is set now; others start anew."""
        return state.keys() == self._fields

    @cached_property
    def _fields(self) -> frozenset[str]:
        return frozenset(self.initial())

    def calibrate(self, query: Query, prediction: Prediction) -> Calibration:
        """Learn what benign traffic looks like; the default has nothing to learn."""
        return {}

    @property
    def enforces(self) -> bool:
        """Whether its signals may change answers: with a calibration, or where none is needed."""
        return True


class ThresholdDetector(Detector):
    """Judges by a count or a rule of its own; no statistical bound stands behind its alarm."""

    measures_progress: ClassVar[bool] = False
    """Whether its suspicion is how far the client has extracted the model."""

    @abstractmethod
    def update(
        self, state: State, rows: np.ndarray, at: float
    ) -> tuple[State, np.ndarray, np.ndarray]:
        """Fold one client's ``rows`` (n, F), in order; return state, suspicion (n,), alarm (n,)."""

    def update_each(
        self, states: Sequence[State], rows: np.ndarray, at: float
    ) -> tuple[Sequence[State], np.ndarray, np.ndarray]:
        """Fold one row of each of n clients, ``rows`` (n, F), as ``update`` folds it.

        Override it where several clients cost less together; nothing else may depend on it.
        """
        folded = [self.update(state, rows[[i]], at) for i, state in enumerate(states)]
        after, suspicion, alarm = zip(*folded, strict=True)
        return after, np.concatenate(suspicion), np.concatenate(alarm)


class EvidenceDetector(Detector):
    """Gives every row G scores in [0, 1], whose mean over an honest client's rows is bounded.

    The pipeline tests the scores of all such detectors together (`detectors.evidence`). The bound,
    ``tolerated``, is measured on benign rows by ``mantlet calibrate``, with ``margin``; clients of a tier
    with benign rows of its own have a bound of their own. A score of NaN abstains; whether a row
    abstains may depend on what came before it, and not on the row. With ``skips_copies`` a row that is nearly an
    earlier one may abstain too: what is bounded then is the mean over rows that are no copies.
    """

    margin: Annotated[float, Field(ge=1)] = 2.5
    """Factor on the mean score that benign rows reach; what an honest client may reach."""

    needs_calibration = True
    skips_copies: ClassVar[bool] = False
    """Whether a row that is nearly an earlier one abstains."""
    columns: ClassVar[int] = 1
    """Scores a row (G); a detector whose settings decide it overrides ``width``."""

    @property
    def width(self) -> int:
        """Scores a row (G)."""
        return self.columns

    @property
    def enforces(self) -> bool:
        return "tolerated" in self._learned

    def tolerated(self, tier: str) -> np.ndarray:
        """(G,) mean scores that an honest client of a tier may have."""
        return self._learned.get(f"tolerated.{tier}", self._learned["tolerated"])

    def kept(self, bounds: np.ndarray) -> np.ndarray:
        """What a calibration keeps as ``tolerated.TIER``, of (G,) bounds of a tier."""
        return bounds

    def watch(self, state: State, rows: np.ndarray, at: float) -> tuple[State, np.ndarray]:
        """Fold one client's ``rows`` (n, F), in order; return state and scores (n, G).

        By default the scores of the rows are those of ``score`` and nothing is remembered.
        """
        return state, rows

    def watch_each(
        self, states: Sequence[State], rows: np.ndarray, at: float
    ) -> tuple[Sequence[State], np.ndarray]:
        """Fold one row of each of n clients, ``rows`` (n, F), as ``watch`` folds it; see `update_each`."""
        folded = [self.watch(state, rows[[i]], at) for i, state in enumerate(states)]
        after, scores = zip(*folded, strict=True)
        return after, np.concatenate(scores)
