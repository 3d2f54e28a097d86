"""What tests of attacks share: an oracle that a test tells what to answer, and small means."""

from collections.abc import Callable

import torch
from torch import Tensor

from redteam.attacks.attack import Attack, Loot
from redteam.learning import Means, Training
from redteam.oracle import Refused

SHORT = Training(steps=60, lr=0.1)


def bands(inputs: Tensor) -> Tensor:
    """(B, 10) probabilities of pictures: the brighter a tenth of it, the likelier that class."""
    tenths = inputs.flatten(1)[:, :780].unflatten(1, (10, 78)).mean(dim=2)
    return torch.softmax(20 * tenths, dim=1)


class Teller:
    """An oracle that answers as told, keeps what it was sent, and refuses after ``rows_until_denied``."""

    def __init__(
        self,
        answer: Callable[[Tensor], Tensor] = bands,
        *,
        rows_until_denied: int = 1_000_000,
    ) -> None:
        self._answer, self._limit = answer, rows_until_denied
        self.rows = self.floats = 0
        self.queries: list[Tensor] = []

    @property
    def sent(self) -> Tensor:
        return torch.cat(self.queries)

    def query(self, inputs: Tensor) -> Tensor:
        self.rows += len(inputs)
        self.queries.append(inputs.clone())
        if self.rows > self._limit:
            raise Refused(f"denied after {self.rows} rows")
        return self._answer(inputs)


def pictures(count: int, *, seed: int = 0) -> Tensor:
    """(count, 1, 28, 28) with brightness that varies from tenth to tenth."""
    generator = torch.Generator().manual_seed(seed)
    tenths = torch.rand(count, 10, 1, generator=generator).repeat(1, 1, 79).flatten(1)[:, :784]
    grain = torch.rand(count, 784, generator=generator)
    return (0.8 * tenths + 0.2 * grain).view(count, 1, 28, 28)


def stolen(
    attack: Attack, oracle: Teller, *, budget: int, seed: int = 0, pool: Tensor | None = None
) -> Loot:
    """What the attack brings home from the oracle."""
    means = Means(pictures(budget) if pool is None else pool, settings={"width": 2})
    generator = torch.Generator().manual_seed(seed)
    return attack.run(oracle, means, budget=budget, generator=generator)


def agreement(loot: Loot, answer: Callable[[Tensor], Tensor] = bands) -> float:
    """Share of 500 other pictures on which the clone names the same class."""
    test = pictures(500, seed=99)
    with torch.inference_mode():
        same = loot.clone(test).argmax(dim=1) == answer(test).argmax(dim=1)
    return float(same.double().mean())
