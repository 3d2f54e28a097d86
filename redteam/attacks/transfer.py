"""What every attack brings home, and the network that it trains on the way."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mantlet import architectures

Progress = Callable[[int, int], None]
"""Told how many rows were sent, of how many."""


def silent(done: int, total: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """Rows that were sent for learning, (n, *shape), and their answers, (n, C): a clone's training set."""

    inputs: Tensor
    answers: Tensor


def substitute(generator: torch.Generator, *, width: int = 8, classes: int = 10) -> nn.Module:
    """A small untrained LeNet whose weights follow the generator."""
    with torch.random.fork_rng():
        # layers draw from the global generator
        torch.random.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
        return architectures.build("lenet", {"width": width, "classes": classes})


def train(
    network: nn.Module,
    transfer: Transfer,
    *,
    epochs: int,
    generator: torch.Generator,
    lr: float = 0.02,
    batch: int = 64,
) -> None:
    """Soft-label cross-entropy under SGD with momentum 0.9, the substitute's training in the papers."""
    optimizer = torch.optim.SGD(network.parameters(), lr=lr, momentum=0.9)
    for _ in range(epochs):
        order = torch.randperm(len(transfer.inputs), generator=generator)
        for rows in torch.split(order, batch):
            loss = nn.functional.cross_entropy(
                network(transfer.inputs[rows]), transfer.answers[rows]
            )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimizer.step()
