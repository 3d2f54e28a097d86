"""Trains a writer and a reader of marks, together with a copy that learns from marked pictures."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from mantlet import architectures, weights
from mantlet.data import load_images
from mantlet.errors import ConfigError
from mantlet.foreign_training import Weights
from mantlet.gan_training import drawn
from mantlet.learned_marks import LENGTH, SIDE, LearnedMark
from mantlet.training import Progress, RecipeFile, one_cycle

BLOCK = 8
QUANTA = torch.tensor(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
"""Steps of brightness in a JPEG of quality 50 (ITU-T T.81, table K.1), of 255."""
QUALITY = 70
"""Of the JPEG in training, from 50 to 100."""


class MarkRecipe(RecipeFile):
    """How to train a learned mark: ``steps`` updates of Adam on pictures that ``generator`` draws.

    Every batch is marked with random messages at ``psnr`` dB (30 dB at first), then distorted; and drawn anew by
    a simulated copy, which learns to draw marked pictures in turns with the mark. ``copied`` is the weight of
    what is read of its pictures. The last ``holdout`` rows of the data are only used to report.
    """

    kind: Literal["watermark"]
    generator: Weights
    pool: Annotated[int, Field(ge=1)] = 4000
    steps: PositiveInt = 1500
    batch: Annotated[int, Field(ge=2)] = 64
    lr: PositiveFloat = 3e-3
    psnr: Annotated[float, Field(ge=20, le=50)] = 38.0
    copied: Annotated[float, Field(ge=0)] = 0.5
    holdout: Annotated[int, Field(ge=1)] = 5000
    seed: Annotated[int, Field(ge=0)] = 0
    output: Path


def make(
    recipe: MarkRecipe,
    data: Path,
    *,
    output: Path | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> list[str]:
    """Train, write the weights, and tell how many bits are right in held-out pictures of ``data``."""
    held = torch.from_numpy(load_images(data, "train").x[-recipe.holdout :])
    if held.shape[1:] != (1, SIDE, SIDE):
        raise ConfigError(f"'{data}' holds pictures of {tuple(held.shape[1:])}; give (1, 28, 28)")
    networks, clone = fit(recipe, progress=progress)
    target = output or recipe.output
    recorded = recipe.model_dump_json(exclude={"output": True, "generator": {"weights"}})
    networks.save(
        target, {"recipe": recorded, "generator": weights.fingerprint(recipe.generator.weights)}
    )
    ways = DISTORTIONS | {"copy": lambda pictures, random: clone(pictures)}
    right = {name: accuracy(networks, held, recipe, distort) for name, distort in ways.items()}
    told = ", ".join(f"{share:.1%} ({name})" for name, share in right.items())
    return [f"weights: {target}", f"bits right in held-out pictures: {told}"]


def fit(
    recipe: MarkRecipe, *, progress: Callable[[Progress], None] = lambda _: None
) -> tuple[LearnedMark, nn.Module]:
    """Networks of the recipe, and the simulated copy: the same recipe gives the same weights."""
    random = torch.Generator().manual_seed(recipe.seed)
    pictures = _pictures(recipe, random)
    with torch.random.fork_rng():
        torch.random.manual_seed(recipe.seed)  # layers draw their first weights from it
        networks = LearnedMark()
        clone = Clone()
    optimizer = torch.optim.Adam(networks.parameters(), recipe.lr)
    learning = torch.optim.Adam(clone.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: one_cycle(step / recipe.steps)
    )
    for step in range(1, recipe.steps + 1):
        rows = torch.randint(len(pictures), (recipe.batch,), generator=random)
        clean, messages = pictures[rows], _signs((recipe.batch, LENGTH), random)
        psnr = 30 + (recipe.psnr - 30) * min(1.0, 2 * step / recipe.steps)
        marked = networks.embed(clean, messages, psnr)
        _learn(clone, learning, marked.detach(), random)
        loss = _misread(networks.read(_distorted(marked, random)), messages)
        if recipe.copied:
            loss = loss + recipe.copied * _misread(networks.read(clone(marked)), messages)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()
        schedule.step()
        progress(
            Progress(step, recipe.steps, step * recipe.batch // len(pictures) + 1, loss.item())
        )
    return networks.eval().requires_grad_(False), clone


class Clone(nn.Sequential):
    """A thief's network that draws pictures anew, through as narrow a place as a small generator has."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 12, 4, 2, 1),
            nn.ReLU(),
            nn.Conv2d(12, 6, 4, 2, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(6, 12, 4, 2, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(12, 1, 4, 2, 1),
            nn.Sigmoid(),
        )


def _learn(
    clone: Clone, optimizer: torch.optim.Optimizer, marked: Tensor, random: torch.Generator
) -> None:
    """One step of a copy towards the pictures that it was given."""
    noisy = blurred(marked) + 0.05 * torch.randn(marked.shape, generator=random)
    loss = functional.mse_loss(clone(noisy), marked)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    optimizer.step()


def _misread(odds: Tensor, messages: Tensor) -> Tensor:
    return functional.softplus(-odds * messages).mean()


def _signs(shape: tuple[int, int], random: torch.Generator) -> Tensor:
    return torch.randint(2, shape, generator=random).float() * 2 - 1


def _pictures(recipe: MarkRecipe, random: torch.Generator) -> Tensor:
    """(pool, 1, 28, 28) that the generator draws."""
    of = recipe.generator
    network = architectures.build(of.architecture, of.settings)
    weights.load_into(network, of.weights, of.architecture)
    shape: tuple[int, ...] = getattr(network, "input_shape", ())
    if getattr(network, "task", "classify") != "generate":
        raise ConfigError(f"architecture '{of.architecture}' draws no pictures; take 'dcgan'")
    latents = torch.randn(recipe.pool, *shape, generator=random)
    with torch.no_grad():
        pictures = drawn(network.eval(), latents)
    if pictures.shape[1:] != (1, SIDE, SIDE):
        raise ConfigError(
            f"the generator draws {tuple(pictures.shape[1:])}; it must be (1, 28, 28)"
        )
    return pictures


def blurred(pictures: Tensor) -> Tensor:
    """Means of 3x3 pixels."""
    return functional.avg_pool2d(pictures, 3, 1, 1, count_include_pad=False)


def halved(pictures: Tensor) -> Tensor:
    """Made half as large, and large again."""
    half = functional.interpolate(pictures, scale_factor=0.5, mode="bilinear", antialias=True)
    return functional.interpolate(half, size=pictures.shape[-2:], mode="bilinear")


def noisy(pictures: Tensor, random: torch.Generator) -> Tensor:
    """With Gaussian noise of 0.05."""
    return (pictures + 0.05 * torch.randn(pictures.shape, generator=random)).clamp(0, 1)


def cosines() -> Tensor:
    """(BLOCK, BLOCK) orthonormal waves of the discrete cosine transform, one a row."""
    at = (torch.arange(BLOCK) + 0.5) * math.pi / BLOCK
    waves = torch.cos(torch.arange(BLOCK)[:, None] * at) * math.sqrt(2 / BLOCK)
    waves[0] /= math.sqrt(2)
    return waves


def compressed(pictures: Tensor) -> Tensor:
    """What JPEG of `QUALITY` leaves of grey pictures; gradients pass its rounding as if there were none."""
    quanta = (QUANTA * (2 - QUALITY / 50)).round().clamp(min=1) / 255
    height, width = pictures.shape[-2:]
    extra = (0, -width % BLOCK, 0, -height % BLOCK)
    padded = functional.pad(pictures, extra, mode="replicate")
    blocks = padded.unfold(2, BLOCK, BLOCK).unfold(3, BLOCK, BLOCK)  # (B, 1, h, w, 8, 8)
    waves = cosines()
    levels = waves @ (blocks - 0.5) @ waves.T / quanta
    levels = levels + (levels.round() - levels).detach()
    back = waves.T @ (levels * quanta) @ waves + 0.5
    whole = back.permute(0, 1, 2, 4, 3, 5).reshape(padded.shape)
    return whole[..., :height, :width].clamp(0, 1)


def cut(pictures: Tensor, random: torch.Generator) -> Tensor:
    """Black but for 80 % of each side: a crop that was put back in its place."""
    side = round(0.8 * SIDE)
    down, across = torch.randint(SIDE - side + 1, (2,), generator=random).tolist()
    kept = torch.zeros(SIDE, SIDE)
    kept[down : down + side, across : across + side] = 1
    return pictures * kept


DISTORTIONS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "none": lambda pictures, random: pictures,
    "noise": noisy,
    "blur": lambda pictures, random: blurred(pictures),
    "resize": lambda pictures, random: halved(pictures),
    "jpeg": lambda pictures, random: compressed(pictures),
    "crop": cut,
}
"""What training does to pictures."""


def _distorted(pictures: Tensor, random: torch.Generator) -> Tensor:
    """Each part of a batch with another distortion; rows change their part by chance."""
    order = torch.randperm(len(pictures), generator=random)
    parts = torch.tensor_split(order, len(DISTORTIONS))
    changed = [
        d(pictures[part], random) for d, part in zip(DISTORTIONS.values(), parts, strict=True)
    ]
    return torch.cat(changed)[torch.argsort(order)]


@torch.no_grad()
def accuracy(
    networks: LearnedMark,
    pictures: Tensor,
    recipe: MarkRecipe,
    distort: Callable[[Tensor, torch.Generator], Tensor],
) -> float:
    """Share of bits of random messages that are right in distorted pictures."""
    random = torch.Generator().manual_seed(recipe.seed)
    pictures = pictures[:500]
    messages = _signs((len(pictures), LENGTH), random)
    marked = networks.embed(pictures, messages, recipe.psnr)
    read = networks.read(distort(marked, random))
    return float((read * messages > 0).float().mean())
