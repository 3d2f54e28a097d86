"""Oracles that do as a test tells them to."""

from collections.abc import Callable

import torch
from torch import Tensor

from redteam.client.oracle import Came, Cut, Refused


class Patient:
    """Answers (B, 2) from the mean of each row, notes what it was asked, and refuses after ``most`` rows."""

    def __init__(self, most: int = 10**9, answer: Callable[[Tensor], Tensor] | None = None) -> None:
        self._most, self._answer = most, answer or shares
        self.rows = self.floats = 0
        self.asked: list[Tensor] = []

    def query(self, inputs: Tensor) -> Tensor:
        self.rows += len(inputs)
        if self.rows > self._most:
            raise Refused(f"denied after {self.rows} rows")
        self.asked.append(inputs.clone())
        answers = self._answer(inputs)
        self.floats += answers.numel()
        return answers


def shares(inputs: Tensor) -> Tensor:
    """(B, 2) the mean of each row, and the rest to one."""
    mean = inputs.flatten(1).mean(dim=1)
    return torch.stack([mean, 1 - mean], dim=1)


def labels(inputs: Tensor) -> Tensor:
    """(B,) whether a row is bright."""
    return (inputs.flatten(1).mean(dim=1) > 0.5).long()


class Failing(Patient):
    """Fails for ``why``, and has answered the rows at ``places`` of a query by then."""

    def __init__(self, why: BaseException, places: Tensor | None = None) -> None:
        super().__init__()
        self._why = why
        self._places = torch.arange(0) if places is None else places

    def query(self, inputs: Tensor) -> Tensor:
        self.rows += len(inputs)
        came = Came.of([Came(self._places, shares(inputs[self._places]))])
        if isinstance(self._why, Refused):
            raise Refused(str(self._why), came)
        raise self._why if came is None else Cut(self._why, came)
