"""What tests of attacks share: an oracle that a test tells what to answer, and small means."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mantlet.plugin import Defense
from mantlet.types import Kind, Prediction, Query
from redteam.attacks.attack import Attack, Loot
from redteam.client.oracle import Refused
from redteam.learning import Means, Training, Transfer
from redteam.treatments.shadows import Shadows
from tests.helpers import SETUP

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


def recovered(
    treatment: type[Shadows], defense: Defense, *, rows: int = 400
) -> tuple[torch.Tensor, ...]:
    """Clean answers, what a defense makes of them, and what a treatment that knows it makes of that."""
    inputs = pictures(rows)
    clean = bands(inputs)
    defense.load(SETUP)
    prediction = Prediction(clean, Kind.PROBABILITIES, logits=clean.log())
    defended = defense(prediction, Query(["thief"] * rows, inputs, 0.0), {}).values
    undoes = treatment.model_validate({"defense": defense, "count": 1, "shadow": SHORT})
    transfer = Transfer(inputs, defended)
    back = undoes.apply(transfer, Means(inputs), torch.Generator().manual_seed(0))
    return clean, defended, back.answers


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """Mean L1 distance of rows."""
    return float((one - other).abs().sum(dim=1).mean())
