"""What every victim's settings share: how inputs are normalised, and their range."""

from abc import ABC, abstractmethod
from typing import Annotated

import torch
from pydantic import Field, model_validator
from torch import Tensor

from mantlet.errors import ConfigError
from mantlet.plugin import Plugin
from mantlet.types import InputSpec, Kind, Prediction

Numbers = tuple[float, ...]


class VictimPlugin(Plugin, ABC):
    """Settings of a victim; after ``load`` it is a `mantlet.types.Victim`.

    ``low`` and ``high`` bound the values that clients may send. ``mean`` and ``std``, one number a
    channel, normalise them as in training: (x - mean) / std.
    """

    low: float | None = 0.0
    """Smallest value that clients may send; ``null`` for no bound."""
    high: float | None = 1.0
    """Largest value that clients may send; ``null`` for no bound."""
    mean: Annotated[Numbers, Field(max_length=16)] = ()
    """Subtracted from the inputs, one number a channel or one for all."""
    std: Annotated[Numbers, Field(max_length=16)] = ()
    """Divides the inputs after that; as many numbers as ``mean``."""

    @model_validator(mode="after")
    def _normalisation_fits(self) -> "VictimPlugin":
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} numbers, std {len(self.std)}; give both")
        if any(s <= 0 for s in self.std):
            raise ValueError(f"std {self.std} must be above 0")
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError(f"low {self.low} is not below high {self.high}")
        return self

    @property
    def concurrency(self) -> int:
        """Batches that may be under way at once: one where the work is on this machine's cores."""
        return 1

    @property
    def version(self) -> str:
        """The model's version on the wire."""
        return "1"

    @property
    @abstractmethod
    def kind(self) -> Kind:
        """What it answers."""

    @property
    @abstractmethod
    def input(self) -> InputSpec:
        """What it takes; known after ``load``."""

    @property
    def output(self) -> str:
        """The name of the answer on the wire."""
        return "probabilities"

    @property
    @abstractmethod
    def classes(self) -> int:
        """Number of classes; known after ``load``."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 that identifies the weights; known after ``load``."""

    @property
    def trained_with(self) -> str:
        """How its weights were made to resist, such as ``ini``; empty where they do not say."""
        return ""

    @property
    def engine(self) -> str:
        """What runs the model, in a word."""
        return self.type

    @abstractmethod
    def predict(self, inputs: Tensor) -> Prediction:
        """Clean answers to (B, *input.shape) float32; safe to call from several threads."""

    def close(self) -> None:
        """Let go of connections and threads."""

    def input_spec(
        self, shape: tuple[int, ...], name: str = "input", datatype: str = "FP32"
    ) -> InputSpec:
        """What it takes, for rows of ``shape``; raises `ConfigError` when ``mean`` does not fit them."""
        if len(self.mean) > 1 and len(self.mean) != shape[0]:
            raise ConfigError(
                f"victim '{self.name}': mean has {len(self.mean)} numbers, but rows of shape {shape}"
                f" have {shape[0]} channels; give one number a channel, or one for all"
            )
        return InputSpec(shape, self.low, self.high, name, datatype)

    def probe(self, rows: int) -> Tensor:
        """Random rows within the range of inputs, the same ones every time, to try a model at load."""
        low = 0.0 if self.low is None else self.low
        high = low + 1.0 if self.high is None else self.high
        drawn = torch.rand(rows, *self.input.shape, generator=torch.Generator().manual_seed(0))
        return low + (high - low) * drawn

    def normalized(self, inputs: Tensor) -> Tensor:
        """(x - mean) / std by channel, where they are set."""
        if not self.mean:
            return inputs
        shape = (1, -1, *([1] * (inputs.ndim - 2)))
        return (inputs - torch.tensor(self.mean).view(shape)) / torch.tensor(self.std).view(shape)


def first_line(error: Exception) -> str:
    """What another library's error says, short enough for one line of ours."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
