"""Active learning (ActiveThief; Pal et al., 2020): ask next what the clone can say least about."""

from enum import StrEnum
from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from redteam.attacks.attack import Attack, Ledger
from redteam.learning import Means, Training, answers_of, train


class Choice(StrEnum):
    """How rows are chosen by the clone's answers to them."""

    K_CENTER = "k_center"
    """One after the other, always the one farthest from the answers of all that were chosen."""
    ENTROPY = "entropy"
    """Those of the highest entropy."""


class Active(Attack):
    """A share of the budget at random, the rest in ``rounds`` of one size by ``choice``.

    Before every round a clone is trained anew on all answers, as ``substitute`` says, and answers the
    rest of the pool.
    """

    type: Literal["active"] = "active"
    choice: Choice = Choice.K_CENTER
    rounds: PositiveInt = 4
    initial: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the budget that is sent at random."""
    substitute: Training = Training(steps=400)

    def steal(self, ledger: Ledger, means: Means, generator: torch.Generator) -> None:
        size = min(ledger.left, len(means.pool))
        rest = torch.randperm(len(means.pool), generator=generator)
        first = max(1, round(size * self.initial))
        asked, rest = rest[:first], rest[first:]
        ledger.ask(means.pool[asked])
        for share in range(self.rounds, 0, -1):
            count = -(-(size - len(asked)) // share)
            transfer = ledger.transfer
            if transfer is None or not count:
                break
            network = means.network(generator)
            train(network, transfer, self.substitute, generator)
            answers = answers_of(network, means.pool)
            if self.choice is Choice.ENTROPY:
                chosen = _uncertain(answers[rest], count)
            else:
                chosen = _apart(answers[rest], answers[asked], count)
            ledger.ask(means.pool[rest[chosen]])
            asked = torch.cat([asked, rest[chosen]])
            left = torch.ones(len(rest), dtype=torch.bool)
            left[chosen] = False
            rest = rest[left]


def _uncertain(answers: Tensor, count: int) -> Tensor:
    """(count,) places of the answers of the highest entropy."""
    entropy = -(answers * answers.clamp_min(1e-12).log()).sum(dim=1)
    return entropy.topk(count).indices


def _apart(answers: Tensor, centers: Tensor, count: int) -> Tensor:
    """(count,) places of answers, each farthest from the centers and from those before it."""
    parts = torch.split(answers, 4096)  # distances to all centers take room
    distance = torch.cat([torch.cdist(part, centers).amin(dim=1) for part in parts])
    chosen = torch.zeros(count, dtype=torch.int64)
    for place in range(count):
        chosen[place] = distance.argmax()
        distance = torch.minimum(distance, (answers - answers[chosen[place]]).norm(dim=1))
        distance[chosen[place]] = -1.0  # never again
    return chosen
