"""A network that turns defended explanations back into gradients, by what the thief's own clone shows."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mantlet.plugin import Defense, Setup
from mantlet.types import Kind, Prediction, Query, Signal
from redteam.learning import Means, seeded

STEPS = 2
"""Updates by the pictures of one turn."""
WIDTH = 16
QUIET: Mapping[str, Signal] = {}


class Depooling:
    """Learns gradients from pairs of a picture and its defended gradient, both of the clone.

    ``defenses`` are those of the victim as the thief knows them, with a key of the thief's own. Scale is
    lost in a display; what comes back has unit length.
    """

    def __init__(
        self, means: Means, defenses: Sequence[Defense], generator: torch.Generator
    ) -> None:
        secret = torch.randint(256, (32,), generator=generator).tolist()
        self._defenses = [defense.model_copy() for defense in defenses]
        for defense in self._defenses:
            defense.load(Setup(torch.device("cpu"), bytes(secret), shape=means.shape))
        channels = means.shape[0]
        with seeded(generator):
            self._network = nn.Sequential(
                nn.Conv2d(2 * channels, WIDTH, 5, padding=2),
                nn.LeakyReLU(0.2),
                nn.Conv2d(WIDTH, WIDTH, 5, padding=2),
                nn.LeakyReLU(0.2),
                nn.Conv2d(WIDTH, channels, 5, padding=2),
            )
        self._optimizer = torch.optim.Adam(self._network.parameters(), lr=3e-3)

    def learn(self, pictures: Tensor, gradients: Tensor) -> None:
        """A few steps on the clone's own (B, *shape) gradients at (B, *shape) pictures."""
        shown = self.defended(pictures, gradients)
        for _ in range(STEPS):
            back = self._network(torch.cat([pictures, shown], dim=1))
            alike = nn.functional.cosine_similarity(back.flatten(1), gradients.flatten(1))
            self._optimizer.zero_grad()
            (1 - alike).mean().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            self._optimizer.step()

    @torch.no_grad()
    def back(self, pictures: Tensor, shown: Tensor) -> Tensor:
        """(B, *shape) gradients of unit length that are likely behind (B, *shape) maps."""
        guessed: Tensor = self._network(torch.cat([pictures, shown], dim=1))
        return nn.functional.normalize(guessed.flatten(1)).view_as(guessed)

    def defended(self, pictures: Tensor, maps: Tensor) -> Tensor:
        """(B, *shape) maps as the gateway would show them."""
        query = Query(["thief"] * len(maps), pictures, 0.0)
        shown = Prediction(maps, Kind.ATTRIBUTIONS)
        for defense in self._defenses:
            shown = defense(shown, query, QUIET)
        return shown.values
