"""Trains networks that translate pictures from a recipe; nothing that serves imports this."""

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from mantlet import architectures
from mantlet.data import load_images
from mantlet.errors import ConfigError
from mantlet.sheets import contact_sheet
from mantlet.training import Progress, RecipeFile, one_cycle

SHOWN = 8
"""Pictures on a sample sheet."""


class TranslateRecipe(RecipeFile):
    """How to train a network from pictures to pictures: ``steps`` updates on crops, L1 loss, Adam.

    ``teach`` is what it learns: ``enlarge`` restores pictures that were shrunk by its scale (Pillow's
    BICUBIC), ``cartoon`` and ``emboss`` are fixed filters of the same size, and ``pairs`` are the data's
    own, ``a_train`` to ``b_train``. ``crop`` is the side of the crops of the answer. The last ``holdout``
    rows are never trained on.
    """

    kind: Literal["translate"]
    teach: Literal["enlarge", "cartoon", "emboss", "pairs"] = "enlarge"
    architecture: str = "superres"
    settings: dict[str, int | float | str | bool] = Field(default_factory=dict)
    steps: PositiveInt = 2000
    batch: PositiveInt = 32
    lr: PositiveFloat = 2e-3
    crop: Annotated[int, Field(ge=8)] = 48
    holdout: Annotated[int, Field(ge=0)] = 0
    seed: Annotated[int, Field(ge=0)] = 0
    output: Path


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pictures and what a network must make of them: (n, C, H, W) and (n, C, s H, s W) in [0, 1]."""

    given: Tensor
    wanted: Tensor

    def __len__(self) -> int:
        return len(self.given)


def load_pairs(recipe: TranslateRecipe, path: Path, split: str) -> Pairs:
    """The pairs of a split: of ``a`` and ``b`` where the recipe teaches pairs, else made of all pictures."""
    network = _network(recipe)
    if recipe.teach == "pairs":
        named = _paired(path, split)
        if set(named) != {"a", "b"}:
            raise ConfigError(f"data '{path}' has no pairs; give a_{split} and b_{split}")
        return Pairs(named["a"], named["b"])
    named = _paired(path, split)
    pictures = torch.cat(list(named.values())) if named else _tensor(path, split)
    return made(pictures, recipe.teach, scale_of(network))


def _paired(path: Path, split: str) -> Mapping[str, Tensor]:
    if not zipfile.is_zipfile(path):
        return {}
    with np.load(path, allow_pickle=False) as file:
        names = [name for name in "ab" if f"{name}_{split}" in file.files]
        arrays = {name: file[f"{name}_{split}"] for name in names}
    return {name: torch.from_numpy(x).float() / 255 for name, x in arrays.items()}


def _tensor(path: Path, split: str) -> Tensor:
    return torch.from_numpy(load_images(path, split).x)


def scale_of(network: nn.Module) -> int:
    """Output side over input side."""
    return int(getattr(network, "scale", 1))


def _network(recipe: TranslateRecipe) -> nn.Module:
    network = architectures.build(recipe.architecture, recipe.settings)
    if getattr(network, "task", "classify") != "translate":
        raise ConfigError(
            f"architecture '{recipe.architecture}' makes no pictures of pictures; take 'superres'"
        )
    return network


def made(pictures: Tensor, teach: str, scale: int) -> Pairs:
    """The pairs that ``teach`` makes of (n, C, H, W) pictures; sides are cut to multiples of the scale."""
    if teach == "enlarge":
        height, width = (side - side % scale for side in pictures.shape[2:])
        wanted = pictures[:, :, :height, :width].contiguous()
        return Pairs(shrunk(wanted, scale), wanted)
    wanted = torch.cat([FILTERS[teach](part) for part in torch.split(pictures, 500)])
    return Pairs(pictures, wanted)


def shrunk(pictures: Tensor, scale: int) -> Tensor:
    """Pictures (n, C, H, W) made smaller as Pillow's BICUBIC does, rounded to 256 levels."""
    parts = [
        nn.functional.interpolate(part, scale_factor=1 / scale, mode="bicubic", antialias=True)
        for part in torch.split(pictures, 500)
    ]
    return (torch.cat(parts).clamp(0, 1) * 255).round() / 255


def cartoon(pictures: Tensor) -> Tensor:
    """Flat areas with sharp edges: the mean of the calmest quarter around a pixel (Kuwahara et al., 1976).

    Contrast is raised a little, so that the areas look painted.
    """
    _, channels, height, width = pictures.shape
    padded = nn.functional.pad(pictures, (2, 2, 2, 2), mode="replicate")
    mean = nn.functional.avg_pool2d(padded, 3, 1)  # of 3x3 pixels
    square = nn.functional.avg_pool2d(padded.square(), 3, 1)
    spread = (square - mean.square()).sum(dim=1, keepdim=True)
    corners = [(slice(y, y + height), slice(x, x + width)) for y in (0, 2) for x in (0, 2)]
    means = torch.stack([mean[:, :, y, x] for y, x in corners], dim=1)  # (n, 4, C, H, W)
    calmest = torch.stack([spread[:, :, y, x] for y, x in corners], dim=1).argmin(1, keepdim=True)
    flat = means.gather(1, calmest.expand(-1, 1, channels, -1, -1))[:, 0]
    return (flat * 1.15 - 0.05).clamp(0, 1)


def emboss(pictures: Tensor) -> Tensor:
    """A relief in grey, lit from the upper left."""
    kernel = torch.tensor([[-2.0, -1, 0], [-1, 0, 1], [0, 1, 2]]).view(1, 1, 3, 3)
    grey = pictures.mean(dim=1, keepdim=True)
    padded = nn.functional.pad(grey, (1, 1, 1, 1), mode="replicate")
    relief = (nn.functional.conv2d(padded, kernel) / 4 + 0.5).clamp(0, 1)
    return relief.expand_as(pictures).contiguous()


FILTERS: Mapping[str, Callable[[Tensor], Tensor]] = {"cartoon": cartoon, "emboss": emboss}


def fit(
    recipe: TranslateRecipe,
    pairs: Pairs,
    *,
    progress: Callable[[Progress], None] = lambda _: None,
) -> nn.Module:
    """Train the recipe's network on all but the held-out pairs: same recipe and pairs, same weights."""
    kept = len(pairs) - recipe.holdout
    if kept < recipe.batch:
        raise ConfigError(
            f"{len(pairs)} pairs less {recipe.holdout} held out are under one batch of"
            f" {recipe.batch}; give more data or lower holdout"
        )
    with torch.random.fork_rng():
        torch.random.manual_seed(recipe.seed)  # layers draw their first weights from it
        network = _network(recipe)
    _check(recipe, network, pairs)
    generator = torch.Generator().manual_seed(recipe.seed)
    optimizer = torch.optim.Adam(network.parameters(), recipe.lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: one_cycle(step / recipe.steps)
    )
    network.train()
    for step in range(1, recipe.steps + 1):
        rows = torch.randint(kept, (recipe.batch,), generator=generator)
        given, wanted = cropped(pairs, rows, recipe.crop, generator)
        loss = nn.functional.l1_loss(network(given), wanted)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()
        schedule.step()
        progress(Progress(step, recipe.steps, step * recipe.batch // kept + 1, loss.item()))
    return network.eval()


def _check(recipe: TranslateRecipe, network: nn.Module, pairs: Pairs) -> None:
    """Raise `ConfigError` where the pairs are none of the network's."""
    shape: tuple[int, ...] = network.input_shape  # type: ignore[assignment]  # an architecture's own
    if pairs.given.shape[1] != shape[0]:
        raise ConfigError(
            f"the pictures have {pairs.given.shape[1]} channels, the network takes {shape[0]};"
            " set settings: {channels: ...}"
        )
    scale = scale_of(network)
    if pairs.wanted.shape[2] != scale * pairs.given.shape[2]:
        raise ConfigError(
            f"the network makes pictures {scale} times as large, '{recipe.teach}' wants"
            f" {tuple(pairs.wanted.shape[2:])} of {tuple(pairs.given.shape[2:])}; set the scale"
        )


def cropped(
    pairs: Pairs, rows: Tensor, side: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The same place of both pictures of some pairs, ``side`` pixels of the larger one, mirrored by chance."""
    scale = pairs.wanted.shape[2] // pairs.given.shape[2]
    height, width = (min(side // scale, extent) for extent in pairs.given.shape[2:])
    top = int(torch.randint(pairs.given.shape[2] - height + 1, (), generator=generator))
    left = int(torch.randint(pairs.given.shape[3] - width + 1, (), generator=generator))
    given = pairs.given[rows, :, top : top + height, left : left + width]
    area = [slice(scale * at, scale * (at + n)) for at, n in ((top, height), (left, width))]
    wanted = pairs.wanted[rows, :, area[0], area[1]]
    if bool(torch.randint(2, (), generator=generator)):
        return given.flip(3), wanted.flip(3)
    return given, wanted


@torch.inference_mode()
def translated(network: nn.Module, pictures: Tensor) -> Tensor:
    """What a network makes of (n, C, H, W), a few at a time, in [0, 1]."""
    return torch.cat([network(part).clamp(0, 1) for part in torch.split(pictures, 64)])


def sheet(network: nn.Module, pairs: Pairs) -> Image.Image:
    """Three rows of pictures: what was given (enlarged by pixels), what came of it, what was wanted."""
    given, wanted = pairs.given[:SHOWN], pairs.wanted[:SHOWN]
    large = nn.functional.interpolate(given, size=wanted.shape[2:], mode="nearest")
    rows = [large, translated(network, given), wanted]
    return contact_sheet(torch.cat(rows), columns=len(given))
