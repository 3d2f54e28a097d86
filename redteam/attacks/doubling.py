"""What attacks by augmentation share: rounds that double the rows, each new one a step from an old one."""

from abc import abstractmethod

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from redteam.attacks.attack import Attack, Ledger
from redteam.learning import Means, Training, Transfer, train


class Doubling(Attack):
    """``seeds`` rows of the pool first, then rounds until the budget is spent.

    In every round a substitute is trained anew on all answers, as ``substitute`` says, and each row gives
    one new row, ``step`` away in every pixel at most. Answers are kept and no row is sent twice for a
    new label: n seeds cost n * 2 ** r rows after r rounds.
    """

    seeds: PositiveInt = 150
    step: PositiveFloat = 0.1
    substitute: Training = Training(steps=200, lr=0.05)

    @abstractmethod
    def augmented(
        self, network: nn.Module, transfer: Transfer, generator: torch.Generator
    ) -> Tensor:
        """A new row for every old one, (n, *shape) in [0, 1]."""

    def steal(self, ledger: Ledger, means: Means, generator: torch.Generator) -> None:
        chosen = torch.randperm(len(means.pool), generator=generator)[: self.seeds]
        ledger.ask(means.pool[chosen])
        while ledger.left and (transfer := ledger.transfer):
            network = means.network(generator)
            train(network, transfer, self.substitute, generator)
            ledger.ask(self.augmented(network, transfer, generator))


def moved(network: nn.Module, inputs: Tensor, towards: Tensor, step: float) -> Tensor:
    """Every row ``step`` along the sign of the gradient of the score of its class, within [0, 1]."""
    parts = []
    for rows, classes in zip(torch.split(inputs, 512), torch.split(towards, 512), strict=True):
        variable = rows.clone().requires_grad_()
        score = network(variable).gather(1, classes[:, None]).sum()
        (gradient,) = torch.autograd.grad(score, variable)
        parts.append((rows + step * gradient.sign()).clamp(0, 1))
    return torch.cat(parts)
