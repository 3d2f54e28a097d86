"""What every victim's settings share: how inputs are normalised, and their range."""

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Annotated, Literal

import structlog
import torch
from pydantic import Field, FiniteFloat, model_validator
from torch import Tensor

from mantlet.attribution import Explainer
from mantlet.errors import ConfigError
from mantlet.plugin import Plugin
from mantlet.types import OPEN, InputSpec, Kind, Prediction, Task
from serving.explaining import Explain
from serving.victims import pictures
from serving.victims.pictures import Run, Tiling

log = structlog.get_logger(__name__)
Numbers = tuple[FiniteFloat, ...]
LATENT = 8.0
"""Beyond that many standard deviations no number of a latent is taken."""
TILED = 1 / 255
"""Largest difference in a pixel at which tiles count as the same as the whole."""
PROBE_SIDE = 32
"""Side of the pictures on which a model that takes any size is tried."""


class VictimPlugin(Plugin, ABC):
    """Settings of a victim; after ``load`` it is a `mantlet.types.Victim`.

    ``low`` and ``high`` bound the values that clients may send. ``mean`` and ``std``, one number a
    channel, normalise them as in training: (x - mean) / std. ``output_range`` are the values that stand for
    black and white in the pictures of a model that makes some.
    """

    task_choice: Literal["auto", "classify", "generate", "translate"] = Field("auto", alias="task")
    """What the model does; ``auto`` is what its architecture says, or to classify."""
    output_range: tuple[FiniteFloat, FiniteFloat] | None = None
    """Black and white in the model's pictures; what its architecture says, or 0 and 1."""
    max_pixels: Annotated[int, Field(ge=1, le=1 << 26)] = 1 << 20
    """Pixels of a picture of any size that a client may send."""
    tile: Annotated[int, Field(ge=16, le=4096)] = 256
    """Larger pictures are translated in tiles of that many pixels a side."""
    overlap: Annotated[int, Field(ge=0, le=512)] = 16
    """Pixels of the picture that a tile sees beyond its edges; how far the model looks, where that is known."""
    multiple: Annotated[int, Field(ge=1, le=64)] = 1
    """Sides that a model translates are multiples of this; others are filled up, and the rest cut off."""
    luma: bool = False
    """Whether the model translates brightness alone, and clients send colour."""

    low: FiniteFloat | None = 0.0
    """Smallest value that clients may send; ``null`` for no bound."""
    high: FiniteFloat | None = 1.0
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
        black, white = self.output_range or (0.0, 1.0)
        if black == white:
            raise ValueError(f"output_range {self.output_range} has one value for black and white")
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
    def task(self) -> Task:
        """What it does."""
        return Task.CLASSIFY if self.task_choice == "auto" else Task(self.task_choice)

    @property
    def kind(self) -> Kind:
        """What it answers."""
        return self.task.kind

    @property
    @abstractmethod
    def input(self) -> InputSpec:
        """What it takes; known after ``load``."""

    @property
    def output(self) -> str:
        """The name of the answer on the wire."""
        return "probabilities" if self.task is Task.CLASSIFY else "image"

    @property
    @abstractmethod
    def output_shape(self) -> tuple[int, ...]:
        """Of one answer; known after ``load``."""

    @property
    def classes(self) -> int:
        """Number of classes, 0 of pictures; known after ``load``."""
        return self.output_shape[0] if self.task is Task.CLASSIFY else 0

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

    def explainer(self, settings: Explain, secret: bytes) -> Explainer:
        """What explains its answers, known after ``load``, while others are predicted.

        Raises `ConfigError` where nothing can.
        """
        raise ConfigError(
            f"victim '{self.name}' of type {self.type} shows no gradients, by which it could be explained;"
            " remove 'explain', or serve the network with type torch"
        )

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
        if self.task is not Task.GENERATE:
            most = self.max_pixels if OPEN in shape else None
            return InputSpec(shape, self.low, self.high, name, datatype, max_pixels=most)
        bound = 2 * sum(shape) ** 0.5 + 4  # of a standard normal row's norm, which is near sqrt(D)
        return InputSpec(shape, -LATENT, LATENT, name, datatype, max_norm=bound)

    def shape_of_rows(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of what clients send to a model that takes ``shape``; raises `ConfigError`."""
        if not self.luma:
            return shape
        if self.task is not Task.TRANSLATE or shape[0] != 1:
            raise ConfigError(
                f"victim '{self.name}': luma is for models that translate (1, H, W), and this one takes"
                f" {shape}; remove it"
            )
        return (3, *shape[1:])

    def tiling_of(self, spec: InputSpec, scale: int, margin: int | None = None) -> Tiling:
        """How pictures of ``spec`` go through a model that enlarges them by ``scale``."""
        margin = self.overlap if margin is None else margin
        if 2 * margin >= self.tile:
            raise ConfigError(
                f"victim '{self.name}': tiles of {self.tile} pixels cannot overlap by {margin} on each"
                " side; make 'tile' larger"
            )
        side = self.tile if spec.is_open else max(self.tile, *spec.shape)
        return Tiling(side, margin, self.multiple, scale)

    def scale_of(self, inputs: Tensor, answer: Tensor) -> int:
        """How much larger the answer to a probe is; raises `ConfigError` for what is no picture of it."""
        sides = [a / b for a, b in zip(answer.shape[2:], inputs.shape[2:], strict=False)]
        if answer.ndim != 4 or len({*sides}) != 1 or sides[0] < 1 or sides[0] % 1:
            raise ConfigError(
                f"victim '{self.name}' answers {tuple(answer.shape)} to pictures of"
                f" {tuple(inputs.shape)}; served are models whose pictures are as large, or whole times as"
                " large"
            )
        return int(sides[0])

    def settled(
        self, tiling: Tiling, spec: InputSpec, run: Run, output_range: tuple[float, float]
    ) -> tuple[Tiling, InputSpec]:
        """Tiling and spec of a model that was tried: one that looks at whole pictures gets them whole.

        It then takes pictures of as many pixels as a tile has, since there is nothing to bound its memory else.
        """
        if not spec.is_open:
            return tiling, spec
        channels = 1 if self.luma else spec.shape[0]
        tiling = tiling.fitted(run, channels)
        black, white = output_range
        if tiling.difference(run, channels) <= abs(white - black) * TILED:
            return tiling, spec
        most = min(self.max_pixels, self.tile**2)
        log.warning(
            "victim_looks_at_whole_pictures",
            victim=self.name,
            max_pixels=most,
            remedy="its answers differ in tiles, so it gets none; set 'tile' for larger pictures",
        )
        return replace(tiling, side=most), replace(spec, max_pixels=most)

    def pictured(
        self, inputs: Tensor, run: Run, tiling: Tiling | None, output_range: tuple[float, float]
    ) -> Prediction:
        """Pictures of a model whose ``run`` maps rows as it takes them to what it computes.

        Without a ``tiling`` the rows go through it as they are: it generates.
        """
        black, white = output_range
        if tiling is None:
            return pictures.prediction(run(inputs), black, white)

        def translate(rows: Tensor) -> Tensor:
            return (tiling.run(run, rows) - black) / (white - black)

        if self.luma:
            return pictures.prediction(pictures.by_luma(translate, tiling.scale)(inputs), 0.0, 1.0)
        return pictures.prediction(translate(inputs), 0.0, 1.0)

    def probe(self, rows: int) -> Tensor:
        """Random rows within the range of inputs, the same ones every time, to try a model at load."""
        shape = tuple(PROBE_SIDE if axis == OPEN else axis for axis in self.input.shape)
        if self.task is Task.GENERATE:
            return torch.randn(rows, *shape, generator=torch.Generator().manual_seed(0))
        low = 0.0 if self.low is None else self.low
        high = low + 1.0 if self.high is None else self.high
        drawn = torch.rand(rows, *shape, generator=torch.Generator().manual_seed(0))
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
