"""How a thief learns from answers: its means, its training set, and the training of a clone."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from mantlet import architectures
from mantlet.training import shifted

CLIP = 1.0
"""Largest norm of a gradient: without it some clones of a few dozen rows learn nothing."""


class Training(BaseModel):
    """How a clone is trained: the same number of updates whatever the budget, from new weights.

    SGD with momentum 0.9 under a cosine schedule, on the answers as they are (soft cross-entropy).
    Rows may be drawn anew for each update, moved by up to ``shift`` pixels and mirrored by chance;
    ``bfloat16`` nearly halves the time of convolutions on processors that have it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: PositiveInt = 1500
    batch: PositiveInt = 64
    lr: PositiveFloat = 0.05
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    # left out where they are off, so that thefts that were done without them keep their names
    shift: Annotated[int, Field(ge=0, le=32, exclude_if=lambda pixels: not pixels)] = 0
    mirror: Annotated[bool, Field(exclude_if=lambda on: not on)] = False
    bfloat16: Annotated[bool, Field(exclude_if=lambda on: not on)] = False


@dataclass(frozen=True, slots=True)
class Means:
    """What the thief has before its first query, all but the oracle.

    ``pool`` (n, *shape) float32 in [0, 1]: pictures of its own, (0, *shape) for a thief without data.
    ``architecture`` and ``settings`` are the clone's; the number of ``classes`` is given to it too.
    """

    pool: Tensor
    classes: int = 10
    architecture: str = "lenet"
    settings: Mapping[str, int | float | str | bool] = field(default_factory=lambda: {"width": 8})

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one row."""
        return tuple(self.pool.shape[1:])

    def network(self, generator: torch.Generator) -> nn.Module:
        """An untrained clone whose weights follow the generator."""
        with seeded(generator):
            return architectures.build(
                self.architecture, {"classes": self.classes, **self.settings}
            )


@dataclass(frozen=True, slots=True)
class Transfer:
    """Rows that were sent, (n, *shape), and their answers, (n, C): a clone's training set.

    ``maps`` (n, *shape) explain the top class of each row, with zeros where a row was not explained.
    """

    inputs: Tensor
    answers: Tensor
    maps: Tensor | None = None

    def __len__(self) -> int:
        return len(self.inputs)


@contextmanager
def seeded(generator: torch.Generator) -> Iterator[None]:
    """Within it the global generator, from which layers draw their weights, follows this one."""
    with torch.random.fork_rng():
        torch.random.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
        yield


Loss = Callable[[nn.Module, Transfer, Tensor], Tensor]
"""From a network, its training set and the (n,) rows of a batch to what is to fall."""


def soft(network: nn.Module, transfer: Transfer, rows: Tensor) -> Tensor:
    """Soft cross-entropy."""
    logits = network(transfer.inputs[rows]).float()
    return nn.functional.cross_entropy(logits, transfer.answers[rows])


def train(
    network: nn.Module,
    transfer: Transfer,
    training: Training,
    generator: torch.Generator,
    loss_of: Loss = soft,
) -> None:
    """Fit the network to the answers, as `Training` says."""
    network.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # the types lack it
    optimizer = torch.optim.SGD(
        network.parameters(), training.lr, momentum=0.9, weight_decay=training.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, training.steps)
    size = min(training.batch, len(transfer))
    order = torch.zeros(0, dtype=torch.int64)
    for _ in range(training.steps):
        if len(order) < size:
            order = torch.randperm(len(transfer), generator=generator)
        rows, order = order[:size], order[size:]
        batch = _altered(transfer, rows, training, generator)
        with torch.autocast("cpu", torch.bfloat16, enabled=training.bfloat16):
            loss = loss_of(network, batch, torch.arange(size))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        optimizer.step()
        schedule.step()
    network.eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def _altered(
    transfer: Transfer, rows: Tensor, training: Training, generator: torch.Generator
) -> Transfer:
    """The rows of a batch, each moved and mirrored its own way, and its map with it."""
    inputs, maps = transfer.inputs[rows], None if transfer.maps is None else transfer.maps[rows]
    if training.shift or training.mirror:
        both = inputs if maps is None else torch.cat([inputs, maps], dim=1)
        both = shifted(both, training.shift, generator)
        if training.mirror:
            mirrored = torch.rand(len(rows), 1, 1, 1, generator=generator) < 0.5
            both = torch.where(mirrored, both.flip(3), both)
        inputs, maps = (
            both[:, : inputs.shape[1]],
            None if maps is None else both[:, inputs.shape[1] :],
        )
    return Transfer(inputs, transfer.answers[rows], maps)


@torch.inference_mode()
def answers_of(network: nn.Module, inputs: Tensor) -> Tensor:
    """(n, C) probabilities that a network in evaluation mode gives (n, *shape)."""
    parts = [torch.softmax(network(part), dim=1) for part in torch.split(inputs, 512)]
    return torch.cat(parts)
