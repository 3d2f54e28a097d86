"""A network that stands for the thief's, for defenses that turn what a thief's network learns."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from math import prod
from pathlib import Path
from typing import Annotated, final

import torch
from pydantic import Field, PrivateAttr
from torch import Tensor, nn

from mantlet import architectures, simplex, weights
from mantlet.errors import ConfigError, MantletError
from mantlet.plugin import Defense, Setup
from mantlet.types import Kind, Prediction, Query, Signal

HIDDEN = 128
"""Width of the network that is drawn where no architecture is named."""
LEAD = 1e-3
"""A row goes that share of its way back, so that the top class leads and is not merely tied."""


class SurrogateDefense(Defense, ABC):
    """A defense that moves answers by up to ``epsilon`` and asks a surrogate where to; the top class stays.

    A subclass writes ``moved``.
    Without ``architecture`` the surrogate is a network of one hidden layer that fits the rows and classes
    of the victim; without ``weights`` it is untrained, drawn from the gateway's secret. It sees rows as
    clients send them, in evaluation mode and double precision: who else is in the batch decides nothing.
    """

    epsilon: Annotated[float, Field(gt=0, le=2)] = 1.0
    """How far an answer may move: the sum of absolute differences."""
    architecture: str = ""
    """A registered architecture; one hidden layer where none is named."""
    settings: dict[str, int | float | str | bool] = Field(default_factory=dict)
    """Settings of the architecture, such as ``classes``."""
    weights: Path | None = None
    """A safetensors file, relative to the config file; without one the surrogate is untrained."""

    keeps_top1 = True

    _setup: Setup = PrivateAttr()
    _networks: dict[tuple[int, ...], nn.Module] = PrivateAttr(default_factory=dict)

    def load(self, setup: Setup) -> None:
        """Build the surrogate; raises `ConfigError` where it does not fit the victim."""
        self._setup = setup
        self._networks.clear()
        if self.weights is not None and not self.architecture:
            raise ConfigError(
                f"defense '{self.name}': weights '{self.weights}' need the architecture that they were"
                " trained with; set architecture"
            )
        if setup.shape:
            self._probe(setup.shape, setup.classes)

    @abstractmethod
    def moved(self, clean: Tensor, network: nn.Module, inputs: Tensor) -> Tensor:
        """(B, C) where the rows ``clean`` (B, C) go, all float64; no class above the top one of ``clean``."""

    @final
    def apply(
        self, prediction: Prediction, query: Query, signals: Mapping[str, Signal]
    ) -> Prediction:
        clean = simplex.normalize(prediction.values.double())
        inputs = query.inputs.to(clean.device).double()
        network = self.network(inputs.shape[1:], clean.shape[1])
        values = torch.lerp(self.moved(clean, network, inputs), clean, LEAD)
        values = values.to(prediction.values.dtype)
        return replace(prediction, values=simplex.blend_to_keep_top1(prediction.values, values))

    def _probe(self, shape: tuple[int, ...], classes: int) -> None:
        """Ask it for one uniform row of the victim's shape."""
        row = torch.full((1, classes), 1.0 / classes, device=self._setup.device)
        try:
            network = self.network(shape, classes)
            with torch.no_grad():
                answer = network(torch.zeros(1, *shape, device=row.device, dtype=torch.float64))
            if answer.shape != row.shape:
                raise ValueError(f"it answers {tuple(answer.shape)}, wanted {tuple(row.shape)}")
            query = Query(["probe"], torch.zeros(1, *shape), 0.0)
            self.apply(Prediction(row, Kind.PROBABILITIES), query, {})
        except MantletError:
            raise
        except Exception as error:  # a network fails in its own way on rows it was not made for
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ConfigError(
                f"defense '{self.name}': surrogate '{self.architecture}' does not fit rows of shape"
                f" {shape} and {classes} classes: {reason}; name another architecture or its settings"
            ) from error

    def network(self, shape: Sequence[int], classes: int) -> nn.Module:
        """The surrogate, (B, *shape) float64 to logits (B, classes); built once."""
        key = () if self.architecture else (*shape, classes)
        if key not in self._networks:
            self._networks[key] = self._built(shape, classes)
        return self._networks[key]

    def _built(self, shape: Sequence[int], classes: int) -> nn.Module:
        digest = blake2b(
            self._setup.secret + self.name.encode(), digest_size=8, person=b"surrogate"
        )
        with torch.random.fork_rng(devices=[]):  # layers draw from the global generator
            torch.random.manual_seed(int.from_bytes(digest.digest()) >> 1)
            network = self._drawn(shape, classes)
        if self.weights is not None:
            weights.load_into(network, self.weights, self.architecture)
        return network.to(self._setup.device, torch.float64).eval()

    def _drawn(self, shape: Sequence[int], classes: int) -> nn.Module:
        if self.architecture:
            return architectures.build(self.architecture, self.settings)
        hidden, output = nn.Linear(prod(shape), HIDDEN), nn.Linear(HIDDEN, classes)
        return nn.Sequential(nn.Flatten(), hidden, nn.ReLU(), output)
