"""Explanations that show the right places and point nowhere."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field, PrivateAttr, model_validator
from torch import Tensor, nn

from mantlet import architectures, noise, regions, weights
from mantlet.errors import ConfigError
from mantlet.plugin import Defense, Setup
from mantlet.types import Kind, Prediction, Query, Signal


class ExplanationDecoy(Defense):
    """Answers the explanation of a shadow model, made as strong in every cell as the true one.

    ``d = s * |g| / |s|`` by cells of ``cell`` x ``cell`` values, then ``d - (d.g / g.g) g``: with s the shadow's
    gradient of its own top class, d ranks cells as the true map g does, has signs and detail of its own, and
    is orthogonal to g. ``weights`` of the ``architecture`` are the shadow's, of a model that takes the same
    rows as clients send them, best trained on other labels; without them s is keyed noise.

    Cost: a forward and a backward pass of the shadow, or a hash. What undoes it: as of `explanation_display`;
    what is averaged over jittered rows is still orthogonal. A clone that learns decoys learns the shadow's.
    """

    type: Literal["explanation_decoy"] = "explanation_decoy"
    weights: Path | None = None
    """A safetensors file; without it keyed noise takes the shadow's place."""
    architecture: str = ""
    """A registered architecture."""
    settings: dict[str, int | float | str | bool] = Field(default_factory=dict)
    """Settings of the architecture."""
    cell: Annotated[int, Field(ge=1, le=256)] = 4
    """Side of a cell, in values."""
    keeps_top1 = True
    kinds = frozenset({Kind.ATTRIBUTIONS})

    _secret: bytes = PrivateAttr()
    _shadow: nn.Module | None = PrivateAttr(None)
    _device: torch.device = PrivateAttr()

    @model_validator(mode="after")
    def _shadow_is_whole(self) -> "ExplanationDecoy":
        if (self.weights is None) != (not self.architecture):
            raise ValueError("a shadow needs both 'weights' and 'architecture'")
        return self

    def load(self, setup: Setup) -> None:
        self._secret, self._device = setup.secret, setup.device
        if self.weights is None:
            return
        weights.refuse_unsafe(self.weights)
        shadow = architectures.build(self.architecture, self.settings)
        weights.load_into(shadow, self.weights, self.architecture)
        self._shadow = shadow.eval().to(setup.device)
        try:
            self._carrier(Query(["probe"], torch.zeros(1, *setup.shape), 0.0))
        except Exception as error:  # a network fails in its own way on rows it was not made for
            raise ConfigError(
                f"defense '{self.name}': architecture '{self.architecture}' has no gradient after rows of"
                f" shape {setup.shape}; give a classifier of the same rows"
            ) from error

    def apply(
        self, prediction: Prediction, query: Query, signals: Mapping[str, Signal]
    ) -> Prediction:
        true, carrier = prediction.values, self._carrier(query).to(prediction.values)
        wanted, there = (regions.magnitudes(maps, self.cell) for maps in (true, carrier))
        factors = wanted / torch.where(there > 0, there, torch.ones_like(there))
        decoy = (carrier * regions.spread(factors, true, self.cell)).flatten(1)
        unit = nn.functional.normalize(regions.scaled(true.flatten(1)), eps=1e-30)
        along = (decoy * unit).sum(dim=1, keepdim=True)
        return replace(prediction, values=(decoy - along * unit).view_as(true))

    def _carrier(self, query: Query) -> Tensor:
        """(B, *shape) signs and detail."""
        inputs = query.inputs
        if self._shadow is None:
            drawn = noise.normal(self._secret, self.name, inputs, inputs[0].numel())
            return drawn.view_as(inputs)
        with torch.enable_grad():
            rows = inputs.to(self._device).detach().clone().requires_grad_()
            chosen = torch.log_softmax(self._shadow(rows).float(), dim=1).amax(dim=1)
            (slopes,) = torch.autograd.grad(chosen.sum(), rows)
        return slopes.cpu()
