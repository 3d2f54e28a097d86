"""What tests of attacks share: an oracle that a test tells what to answer, and small means."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from redteam.attacks.attack import Attack, Loot
from redteam.learning import Means, Training
from redteam.oracle import Refused

SHORT = Training(steps=80, batch=32)
QUICK = Training(steps=1)
"""Of a clone that nobody looks at."""


def bands(inputs: Tensor) -> Tensor:
    """(B, 10) probabilities of pictures: the brighter one of ten parts, the likelier its class."""
    parts = nn.functional.adaptive_avg_pool2d(inputs, (5, 2)).flatten(1)
    return torch.softmax(20 * parts, dim=1)


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
    """(count, 1, 28, 28) of ten parts, each of its own brightness, and some grain."""
    generator = torch.Generator().manual_seed(seed)
    parts = torch.rand(count, 1, 5, 2, generator=generator)
    grain = torch.rand(count, 1, 28, 28, generator=generator)
    return 0.8 * nn.functional.interpolate(parts, size=(28, 28)) + 0.2 * grain


def stolen(
    attack: Attack, oracle: Teller, *, budget: int, seed: int = 0, pool: Tensor | None = None
) -> Loot:
    """What the attack brings home from the oracle."""
    means = Means(pictures(budget) if pool is None else pool)
    generator = torch.Generator().manual_seed(seed)
    return attack.run(oracle, means, budget=budget, generator=generator)


def agreement(loot: Loot, answer: Callable[[Tensor], Tensor] = bands) -> float:
    """Share of 500 other pictures on which the clone names the same class."""
    test = pictures(500, seed=99)
    with torch.inference_mode():
        same = loot.clone(test).argmax(dim=1) == answer(test).argmax(dim=1)
    return float(same.double().mean())
