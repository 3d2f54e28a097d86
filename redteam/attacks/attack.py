"""What every attack is: settings, and one way from an oracle and the thief's own means to a clone."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from pydantic import BaseModel, ConfigDict, PositiveInt
from torch import Tensor, nn

from mantlet import simplex
from mantlet.errors import ConfigError
from mantlet.finite import all_finite
from redteam.client.oracle import Explained, Explaining, Oracle, Refused, Withheld
from redteam.learning import Means, Training, Transfer, train
from redteam.treatments import AnyTreatment

Progress = Callable[[int, int], None]
"""Told how many rows were sent, of how many."""


def silent(done: int, total: int) -> None:
    """Tell nobody."""


class Ended(Exception):
    """No more answers: the budget is spent or the client is denied. `Attack.run` catches it."""


class Ledger:
    """An oracle under a budget that keeps what it was asked and what it answered.

    Rows go out in queries of at most ``request``. Labels come back as probabilities of one. ``ended``
    says in words why nothing more can be asked, and is empty before.
    """

    def __init__(
        self,
        oracle: Oracle,
        budget: int,
        *,
        classes: int = 10,
        request: int = 256,
        progress: Progress = silent,
    ) -> None:
        self._oracle, self._budget, self._progress = oracle, budget, progress
        self._classes, self._request = classes, request
        self._first = oracle.rows
        self._kept: list[tuple[Tensor, Tensor, Tensor | None]] = []
        self._withheld = ""
        self.ended = ""

    @property
    def rows(self) -> int:
        """Rows sent so far, repeats and probes included."""
        return self._oracle.rows - self._first

    @property
    def left(self) -> int:
        """Rows of the budget that are left; none where an oracle that repeats rows sent too many."""
        return max(0, self._budget - self.rows)

    def ask(self, inputs: Tensor, *, keep: bool = True) -> Tensor:
        """(B, C) answers to (B, *shape). With ``keep`` they become part of the transfer set.

        Raises `Ended` where the budget is too small, after it was spent on the first of the rows, and
        once the gateway denies. What was answered before that is kept.
        """
        answers = []
        for part in self._affordable(inputs):
            answers.append(self._answered(part, keep))
            self._progress(self.rows, self._budget)
        self._require_all(sum(map(len, answers)), inputs)
        return torch.cat(answers)

    def _answered(self, inputs: Tensor, keep: bool) -> Tensor:
        try:
            return self._taken(inputs, self._oracle.query(inputs), keep)
        except Refused as refusal:
            if refusal.came is not None:
                self._taken(inputs[refusal.came.places], refusal.came.answers, keep)
            raise self._over(refusal) from refusal

    def _taken(self, inputs: Tensor, answers: Tensor, keep: bool) -> Tensor:
        checked = self._checked(inputs, answers)
        if keep:
            self._kept.append((inputs, checked, None))
        return checked

    def explain(self, inputs: Tensor, of: int | None = None, *, keep: bool = False) -> Explained:
        """(B, C) answers to (B, *shape), and (B, *shape) maps of class ``of``, None for each top one.

        With ``keep`` answers and maps become part of the transfer set. Raises `Withheld` where
        explanations are refused, those of top classes ever after, and `Ended` as ``ask`` does.
        """
        if self._withheld or not isinstance(self._oracle, Explaining):
            raise Withheld(self._withheld or "the target explains nothing")
        told = []
        for part in self._affordable(inputs):
            told.append(self._explained(part, of))
            if keep:
                self._kept.append((part, *told[-1]))
            self._progress(self.rows, self._budget)
        self._require_all(sum(len(one.maps) for one in told), inputs)
        answers, maps = zip(*told, strict=True)
        return Explained(torch.cat(answers), torch.cat(maps))

    def _explained(self, inputs: Tensor, of: int | None) -> Explained:
        assert isinstance(self._oracle, Explaining)  # or nothing is asked
        classes = None if of is None else torch.full((len(inputs),), of)
        explain = self._oracle.explain
        try:
            told = explain(inputs, classes)
        except Withheld as refusal:
            self._withheld = str(refusal) if of is None else ""
            raise
        except Refused as refusal:
            raise self._over(refusal) from refusal
        if told.maps.shape != inputs.shape or not all_finite(told.maps):
            raise ConfigError(
                f"the target explains {tuple(inputs.shape)} by {tuple(told.maps.shape)}; attacks learn"
                " from finite maps of the shape of the rows: name a method that gives them"
            )
        return Explained(self._checked(inputs, told.answers), told.maps)

    def _affordable(self, inputs: Tensor) -> Iterator[Tensor]:
        """Parts of at most a request, for as long as the budget has rows left."""
        for part in torch.split(inputs, self._request):
            if not self.left:
                return
            yield part[: self.left]

    def _require_all(self, answered: int, inputs: Tensor) -> None:
        if not self.left:
            self.ended = "budget spent"
        if answered < len(inputs):
            raise Ended(self.ended)

    def _over(self, refusal: Refused) -> Ended:
        self.ended = str(refusal)
        return Ended(self.ended)

    def _checked(self, inputs: Tensor, answers: Tensor) -> Tensor:
        if answers.shape == (len(inputs),) and not answers.is_floating_point():
            if answers.min() < 0 or answers.max() >= self._classes:
                raise ConfigError(
                    f"the target answers label {int(answers.max())}, the clone has"
                    f" {self._classes} classes; give it as many as the target has"
                )
            return simplex.one_hot(answers, self._classes)
        if answers.shape != (len(inputs), self._classes) or not answers.is_floating_point():
            raise ConfigError(
                f"the target answers {tuple(answers.shape)} to {len(inputs)} rows; attacks learn from"
                f" probabilities ({len(inputs)}, {self._classes}) or labels ({len(inputs)},): name"
                " a classifier and the number of its classes"
            )
        if not all_finite(answers):
            raise ConfigError("the target answers numbers that are not finite; mend the target")
        return answers

    @property
    def transfer(self) -> Transfer | None:
        """All that was kept; nothing where nothing was answered."""
        if not self._kept:
            return None
        inputs, answers, maps = zip(*self._kept, strict=True)
        known = [torch.zeros_like(x) if m is None else m for x, m in zip(inputs, maps, strict=True)]
        explained = None if all(m is None for m in maps) else torch.cat(known)
        return Transfer(torch.cat(inputs), torch.cat(answers), explained)


@dataclass(frozen=True, slots=True)
class Loot:
    """What an attack brings home: the clone, its training set, the rows it cost, and why it ended."""

    clone: nn.Module
    transfer: Transfer | None
    rows: int
    ended: str


class Attack(BaseModel, ABC):
    """Frozen settings with a ``type``, its name in a plan; a subclass writes ``steal``.

    ``request`` is how many rows go into one query, ``treatments`` what is done, in order, with the
    answers before a clone learns from them. The same settings, means, answers and generator give the
    same queries and the same clone on one machine: a run that stopped goes on by being run again over
    what was answered.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: str
    request: PositiveInt = 256
    training: Training = Training()
    treatments: tuple[AnyTreatment, ...] = ()
    needs_pool: ClassVar[bool] = True

    @abstractmethod
    def steal(self, ledger: Ledger, means: Means, generator: torch.Generator) -> None:
        """Ask, until the plan is done or `Ended` passes through; the clone learns from what was kept."""

    @final
    def run(
        self,
        oracle: Oracle,
        means: Means,
        *,
        budget: int,
        generator: torch.Generator,
        progress: Progress = silent,
    ) -> Loot:
        """Steal with at most ``budget`` rows; a refusal ends the queries and not the attack.

        Raises `ConfigError` for a pool that is empty where one is needed, and for answers that are
        neither probabilities nor labels of that many classes.
        """
        if self.needs_pool and not len(means.pool):
            raise ConfigError(
                f"attack '{self.type}' has no pictures of its own; give it a surrogate file,"
                " or choose one that makes them"
            )
        ledger = Ledger(
            oracle, budget, classes=means.classes, request=self.request, progress=progress
        )
        with suppress(Ended):
            self.steal(ledger, means, generator)
        clone = self.learn(ledger.transfer, means, generator)
        return Loot(clone, ledger.transfer, ledger.rows, ledger.ended or "done")

    def learn(
        self, transfer: Transfer | None, means: Means, generator: torch.Generator
    ) -> nn.Module:
        """A new clone trained on the treated transfer set; an untrained one where there is none."""
        clone = means.network(generator)
        if transfer is not None:
            for treatment in self.treatments:
                transfer = treatment.apply(transfer, means, generator)
            train(clone, transfer, self.training, generator)
        return clone.eval()
