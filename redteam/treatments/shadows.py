"""Shadows: models of the thief's own, behind the defense it knows, whose clean answers it can see."""

from abc import abstractmethod
from typing import final

import torch
from pydantic import PositiveInt, SerializeAsAny
from torch import Tensor

from mantlet import simplex
from mantlet.plugin import Defense, Setup
from mantlet.types import Kind, Prediction, Query
from redteam.learning import Means, Training, Transfer, answers_of, train
from redteam.treatments.treatment import Treatment
from serving.settings import AnyDefense


class Shadows(Treatment):
    """Maps defended answers back by pairs of them and clean ones, which shadow models give; a subclass
    writes ``back``.

    ``defense`` is the victim's, with the settings that the thief knows, and with a key of the thief's
    own, since it does not know the victim's. ``count`` shadows are trained on the top classes of a
    random half of the transfer set each, answer the other half, and are defended. Defenses are taken
    to treat classes alike: answers are sorted by what was released of them before they are mapped back.
    """

    defense: SerializeAsAny[AnyDefense]
    count: PositiveInt = 2
    shadow: Training = Training(steps=400)

    @abstractmethod
    def back(
        self, released: Tensor, defended: Tensor, clean: Tensor, generator: torch.Generator
    ) -> Tensor:
        """(n, C) clean answers to which ``released`` (n, C) ones point, by pairs (m, C); all of them sorted."""

    @final
    def apply(self, transfer: Transfer, means: Means, generator: torch.Generator) -> Transfer:
        if len(transfer) < 2:  # a half for the shadow, a half to ask it about
            return transfer
        defended, clean = self.pairs(transfer, means, generator)
        order = defended.argsort(dim=1, descending=True, stable=True)
        defended, clean = defended.gather(1, order), clean.gather(1, order)
        order = transfer.answers.argsort(dim=1, descending=True, stable=True)
        back = self.back(transfer.answers.gather(1, order), defended, clean, generator)
        return Transfer(transfer.inputs, torch.zeros_like(back).scatter(1, order, back))

    def pairs(
        self, transfer: Transfer, means: Means, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Defended and clean answers of shadows, both (m, C), of rows that they were not trained on."""
        defense = self._with_own_key(means, generator)
        labels = simplex.one_hot(transfer.answers.argmax(dim=1), means.classes)
        defended, clean = [], []
        for _ in range(self.count):
            known, unknown = torch.randperm(len(transfer), generator=generator).chunk(2)
            network = means.network(generator)
            seen = Transfer(transfer.inputs[known], labels[known])
            train(network, seen, self.shadow, generator)
            inputs = transfer.inputs[unknown]
            answers = answers_of(network, inputs)
            prediction = Prediction(answers, Kind.PROBABILITIES, logits=answers.log())
            query = Query(["shadow"] * len(inputs), inputs, 0.0)
            clean.append(answers)
            defended.append(defense(prediction, query, {}).values)
        return torch.cat(defended), torch.cat(clean)

    def _with_own_key(self, means: Means, generator: torch.Generator) -> Defense:
        key = bytes(torch.randint(256, (32,), generator=generator).tolist())
        defense = self.defense.model_copy(deep=True)
        device = torch.device("cpu")
        defense.load(Setup(device, key, shape=means.shape, classes=means.classes))
        return defense
