"""Several accounts used as one thief: in turn, all at once, or the next one when one is refused."""

from collections.abc import Sequence

import torch
from torch import Tensor

from redteam.client.answers import Answers
from redteam.client.oracle import Came, Explained, Explaining, Oracle, Refused, Withheld


class _Accounts:
    """What both have: oracles, their counts together, and which of them still answer."""

    def __init__(self, oracles: Sequence[Oracle]) -> None:
        self._oracles = list(oracles)
        self._left = list(oracles)
        self._why = "there is no account"

    @property
    def rows(self) -> int:
        return sum(oracle.rows for oracle in self._oracles)

    @property
    def floats(self) -> int:
        return sum(oracle.floats for oracle in self._oracles)

    @property
    def left(self) -> int:
        """Accounts that were not refused."""
        return len(self._left)

    def explain(self, inputs: Tensor, classes: Tensor | None = None) -> Explained:
        """By the first account that is given explanations; one that is not goes on asking."""
        why = "no account is given explanations"
        for oracle in [oracle for oracle in self._left if isinstance(oracle, Explaining)]:
            try:
                return oracle.explain(inputs, classes)
            except Withheld as refusal:
                why = str(refusal)
            except Refused as refusal:
                self._drop(oracle, refusal)
        if not self._left:
            raise self._last()
        raise Withheld(why)

    def _drop(self, oracle: Oracle, refusal: Refused) -> None:
        self._left.remove(oracle)
        self._why = str(refusal)

    def _last(self, came: Came | None = None) -> Refused:
        several = len(self._oracles) > 1
        said = (
            f"all {len(self._oracles)} accounts are refused; the last one" if several else "refused"
        )
        said = f"{said}: {self._why}"
        return Refused(said, came)


class Split(_Accounts):
    """Deals rows to the accounts in turn; what one is refused, the others ask for it.

    Raises `Refused` once all are.
    """

    def __init__(self, oracles: Sequence[Oracle]) -> None:
        super().__init__(oracles)
        self._turn = 0

    def query(self, inputs: Tensor) -> Tensor:
        answers = Answers(inputs)
        while len(answers.open):
            if not self._left:
                raise self._last(answers.came)
            open_, dealt = answers.open, (answers.open + self._turn) % len(self._left)
            for number, oracle in enumerate(list(self._left)):
                self._ask(answers, oracle, open_[dealt == number])
        self._turn += len(inputs)
        return answers.whole

    def _ask(self, answers: Answers, oracle: Oracle, places: Tensor) -> None:
        if not len(places):
            return
        try:
            answers.ask(oracle, places)
        except Refused as refusal:
            self._drop(oracle, refusal)


class Turns(_Accounts):
    """Asks whole queries of the accounts in turn; what one is refused, the next one asks for.

    An answer is passed on as soon as one account gives it, so that no refusal of another can take it
    away. Raises `Refused` once all are.
    """

    def query(self, inputs: Tensor) -> Tensor:
        answers = Answers(inputs)
        while self._left:
            oracle = self._left[0]
            try:
                answers.ask(oracle, answers.open)
            except Refused as refusal:
                self._drop(oracle, refusal)
                continue
            self._left.append(self._left.pop(0))
            return answers.whole
        raise self._last(answers.came)


class Rotate(_Accounts):
    """Asks with one account until it is refused, and then with the next. Raises `Refused` once all are."""

    def query(self, inputs: Tensor) -> Tensor:
        answers = Answers(inputs)
        while self._left:
            try:
                answers.ask(self._left[0], answers.open)
                return answers.whole
            except Refused as refusal:
                self._drop(self._left[0], refusal)
        raise self._last(answers.came)


class Together(_Accounts):
    """Asks every account each row, and answers the mean of what they are told.

    What is drawn or marked for one client alone fades as there are more. Raises `Refused` once all are.
    """

    def query(self, inputs: Tensor) -> Tensor:
        answers = []
        for oracle in list(self._left):
            try:
                answers.append(oracle.query(inputs))
            except Refused as refusal:
                self._drop(oracle, refusal)
        if not answers:
            raise self._last()
        return torch.stack(answers).mean(dim=0)
