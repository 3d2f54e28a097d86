"""Trains a classifier from a recipe; nothing that serves imports this."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self, TypeVar

import numpy as np
import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError
from torch import Tensor, nn

from mantlet import architectures
from mantlet.data import Images
from mantlet.errors import ConfigError

R = TypeVar("R", bound=BaseModel)


class RecipeFile(BaseModel):
    """What every recipe is: frozen settings in a YAML file, whose paths are relative to the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a YAML recipe; raises `ConfigError`."""
        try:
            recipe = cls.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"recipe '{path}' cannot be read: {error}") from error
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join(str(part) for part in first["loc"])
            raise ConfigError(f"recipe '{path}': {field}: {first['msg']}") from error
        return _beside(path.parent, recipe)


def _beside(folder: Path, settings: R) -> R:
    """Settings whose paths, and those of the settings within them, are relative to a folder."""
    update: dict[str, object] = {}
    for name, value in settings:
        if isinstance(value, Path):
            update[name] = folder / value
        elif isinstance(value, BaseModel):
            update[name] = _beside(folder, value)
    return settings.model_copy(update=update)


class Recipe(RecipeFile):
    """How to train a classifier: the same recipe, data and seed give the same weights on one machine.

    SGD with Nesterov momentum under a one-cycle learning rate (linear up, then linear down).
    ``shift`` pixels of random translation are the only augmentation. The last ``holdout`` rows of the
    training data are never trained on: they are for calibration.
    """

    architecture: str
    settings: dict[str, int | float | str | bool] = Field(default_factory=dict)
    epochs: PositiveInt = 12
    batch: PositiveInt = 128
    lr: PositiveFloat = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    shift: Annotated[int, Field(ge=0, le=8)] = 2
    holdout: Annotated[int, Field(ge=0)] = 5000
    seed: int = 0
    output: Path


def kind_of(path: Path) -> str:
    """The ``kind:`` that a recipe names; empty for a victim's, and for what cannot be read."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return ""  # who reads it as a victim's says what is wrong
    return str(raw.get("kind", "")) if isinstance(raw, dict) else ""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far training is: ``step`` of ``steps``, the batch's loss, and which epoch."""

    step: int
    steps: int
    epoch: int
    loss: float


def fit(
    recipe: Recipe,
    data: Images,
    *,
    device: torch.device,
    progress: Callable[[Progress], None] = lambda _: None,
) -> nn.Module:
    """Train the recipe's network on all but the held-out rows of ``data``."""
    x, y = _learned_from(recipe, data)
    kept = len(x)
    with torch.random.fork_rng():
        torch.random.manual_seed(
            recipe.seed
        )  # layers draw their first weights from the global generator
        network = architectures.build(recipe.architecture, recipe.settings)
    network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # the types lack it
    generator = torch.Generator().manual_seed(recipe.seed)
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.momentum > 0,
    )
    steps = recipe.epochs * (kept // recipe.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: one_cycle(step / steps))
    network.train()
    for step, rows in enumerate(batches(kept, recipe.batch, recipe.epochs, generator), start=1):
        inputs = shifted(x[rows], recipe.shift, generator).to(
            device, memory_format=torch.channels_last
        )
        loss = nn.functional.cross_entropy(network(inputs), y[rows].to(device))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()
        schedule.step()
        progress(Progress(step, steps, (step - 1) * recipe.batch // kept + 1, loss.item()))
    return network.eval()


def _learned_from(recipe: Recipe, data: Images) -> tuple[Tensor, Tensor]:
    """Rows and labels that are not held out."""
    if data.y is None:
        raise ConfigError("the training data has no labels; give a .npz with y_train")
    kept = len(data.x) - recipe.holdout
    if kept < recipe.batch:
        raise ConfigError(
            f"{len(data.x)} rows less {recipe.holdout} held out are under one batch of"
            f" {recipe.batch}; give more data or lower holdout"
        )
    return torch.from_numpy(data.x[:kept]), torch.from_numpy(data.y[:kept])


def one_cycle(share: float) -> float:
    """Learning-rate factor after a share of training: 0 to 1 over the first fifth, then to 0.

    >>> [round(one_cycle(s), 2) for s in (0.0, 0.2, 0.6, 1.0)]
    [0.0, 1.0, 0.5, 0.0]
    """
    return min(share / 0.2, max(0.0, (1.0 - share) / 0.8))


def batches(rows: int, size: int, epochs: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Row numbers of whole batches, shuffled anew every epoch."""
    for _ in range(epochs):
        order = torch.randperm(rows, generator=generator)
        yield from torch.split(order[: rows - rows % size], size)


def shifted(inputs: Tensor, pixels: int, generator: torch.Generator) -> Tensor:
    """The batch (B, C, H, W) moved by up to ``pixels`` in each direction, each picture its own way."""
    if not pixels:
        return inputs
    count, _, height, width = inputs.shape
    padded = nn.functional.pad(inputs, (pixels, pixels, pixels, pixels))
    top, left = torch.randint(0, 2 * pixels + 1, (2, count, 1), generator=generator)
    row = (top + torch.arange(height))[:, None, :, None]
    column = (left + torch.arange(width))[:, None, None, :]
    picture = torch.arange(count)[:, None, None, None]
    channel = torch.arange(inputs.shape[1])[None, :, None, None]
    return padded[picture, channel, row, column]


@torch.inference_mode()
def accuracy(network: nn.Module, data: Images, device: torch.device) -> float:
    """Share of pictures whose label the network names."""
    if data.y is None:
        raise ConfigError("the data has no labels; give a .npz with y_test")
    parts = torch.split(torch.from_numpy(data.x), 500)
    labels = torch.cat([network(part.to(device)).argmax(dim=1).cpu() for part in parts])
    return float(np.mean(labels.numpy() == data.y))
