"""A target that explains itself exactly, or as a test shows its maps, and refuses as told."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from mantlet import architectures, weights
from redteam.client.oracle import Explained, Withheld

WEIGHTS = Path(__file__).parents[2] / "configs/models/mnist-lenet.safetensors"


def pooled(maps: Tensor) -> Tensor:
    """Magnitudes, averaged over squares of four pixels."""
    return nn.functional.interpolate(nn.functional.avg_pool2d(maps.abs(), 4), scale_factor=4)


class Shower:
    """A `redteam.client.oracle.Explaining` over the shipped MNIST model; keeps what it was asked."""

    def __init__(
        self,
        explains: str = "log_probability",
        *,
        view: Callable[[Tensor], Tensor] = lambda maps: maps,
        top_only: bool = False,
        withholds: bool = False,
    ) -> None:
        self.network = architectures.build("lenet", {}).eval()
        weights.load_into(self.network, WEIGHTS, "lenet")
        self._explains, self._view = explains, view
        self._top_only, self._withholds = top_only, withholds
        self.rows = self.floats = 0
        self.queries: list[Tensor] = []
        self.explained: list[Tensor] = []

    @torch.no_grad()
    def answer(self, inputs: Tensor) -> Tensor:
        answers: Tensor = torch.softmax(self.network(inputs), dim=1)
        return answers

    def query(self, inputs: Tensor) -> Tensor:
        self._count(inputs, inputs.new_zeros(0))
        self.queries.append(inputs.clone())
        return self.answer(inputs)

    def explain(self, inputs: Tensor, classes: Tensor | None = None) -> Explained:
        if self._withholds or (self._top_only and classes is not None):
            raise Withheld("not this one")
        rows = inputs.clone().requires_grad_()
        logits = self.network(rows)
        chosen = logits.argmax(dim=1) if classes is None else classes
        scores = {
            "logit": logits,
            "log_probability": torch.log_softmax(logits, dim=1),
            "probability": torch.softmax(logits, dim=1),
        }[self._explains]
        (maps,) = torch.autograd.grad(scores.gather(1, chosen[:, None]).sum(), rows)
        self._count(inputs, maps)
        self.explained.append(inputs.clone())
        return Explained(self.answer(inputs), self._view(maps))

    def _count(self, inputs: Tensor, maps: Tensor) -> None:
        self.rows += len(inputs)
        self.floats += 10 * len(inputs) + maps.numel()
