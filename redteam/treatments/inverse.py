"""A learned inverse of a known defense (after D-DAE; Chen et al., 2023)."""

from typing import Literal

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from redteam.learning import seeded
from redteam.treatments.shadows import Shadows


class Inverse(Shadows):
    """A small network learns from shadows which clean answer a defended one comes from.

    It sees the logarithms of the sorted answer and is trained by cross-entropy against the clean one
    with Adam. What it cannot know is what the defense destroyed: of answers that are released alike it
    gives the mean.
    """

    type: Literal["inverse"] = "inverse"
    steps: PositiveInt = 800
    hidden: PositiveInt = 64
    lr: PositiveFloat = 3e-3

    def back(
        self, released: Tensor, defended: Tensor, clean: Tensor, generator: torch.Generator
    ) -> Tensor:
        network = self._fitted(_seen(defended), clean, generator)
        with torch.inference_mode():
            return torch.softmax(network(_seen(released)), dim=1)

    def _fitted(self, seen: Tensor, clean: Tensor, generator: torch.Generator) -> nn.Module:
        classes = seen.shape[1]
        with seeded(generator):
            network = nn.Sequential(
                nn.Linear(classes, self.hidden),
                nn.ReLU(),
                nn.Linear(self.hidden, self.hidden),
                nn.ReLU(),
                nn.Linear(self.hidden, classes),
            )
        optimizer = torch.optim.Adam(network.parameters(), self.lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        for _ in range(self.steps):
            rows = torch.randint(len(seen), (256,), generator=generator)
            loss = nn.functional.cross_entropy(network(seen[rows]), clean[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimizer.step()
            schedule.step()
        return network.eval()


def _seen(answers: Tensor) -> Tensor:
    """(n, C) what the network sees of sorted answers: logarithms, zeros raised, in units near one."""
    return answers.clamp_min(1e-6).log() / 5
