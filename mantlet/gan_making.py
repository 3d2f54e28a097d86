"""Trains a generator from a recipe, and shows how it went: sheets of samples, FID-lite over time."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from mantlet import architectures, weights
from mantlet.data import load_images
from mantlet.errors import ConfigError
from mantlet.fidelity import Fidelity, embedded, fidelity
from mantlet.foreign_training import Weights
from mantlet.gan_training import Gan, GanSettings, drawn, fit_gan
from mantlet.sheets import contact_sheet
from mantlet.training import Progress, RecipeFile

SHOWN = 10
"""Samples in a row of a sheet."""


class GanRecipe(GanSettings, RecipeFile):
    """How to train a generator of the data's pictures, of the kind ``dcgan``.

    The last ``holdout`` rows are never trained on, and of the others the first ``rows`` alone where given.
    ``looks`` times, evenly spread, ``samples`` drawn pictures are compared with as many that it learns from,
    in the features of the classifier that ``features`` names; without one there are sheets alone.
    """

    kind: Literal["gan"]
    rows: Annotated[int, Field(ge=0)] = 0
    holdout: Annotated[int, Field(ge=0)] = 5000
    features: Weights | None = None
    looks: PositiveInt = 10
    samples: Annotated[int, Field(ge=100)] = 5000
    seed: Annotated[int, Field(ge=0)] = 0
    output: Path

    def recorded(self) -> str:
        """The settings as JSON, without the paths of this machine."""
        return self.model_dump_json(exclude={"output": True, "features": {"weights"}})


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen at a step: the first samples (`SHOWN`, C, H, W), and how alike all were to real ones."""

    step: int
    samples: Tensor
    alike: Fidelity | None


def make(
    recipe: GanRecipe,
    data: Path,
    *,
    output: Path | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> list[str]:
    """Train on ``data``; returns what to tell the operator.

    Writes the generator, its discriminator (.discriminator.safetensors), a card (.md), a sheet of samples
    (.png), one of how they came to be (.progress.png), and FID-lite over time (.fid.png; needs matplotlib).
    """
    target = output or recipe.output
    pictures = _pictures(recipe, data)
    watcher = _Watcher(recipe, pictures, target)
    gan = fit_gan(
        pictures,
        recipe,
        torch.Generator().manual_seed(recipe.seed),
        progress=progress,
        watch=watcher.look,
        watch_every=-(-recipe.steps // recipe.looks),
    )
    about = {"recipe": recipe.recorded(), "data": weights.fingerprint(data)}
    weights.save(gan.generator, target, about)
    weights.save(gan.discriminator, target.with_suffix(".discriminator.safetensors"), about)
    target.with_suffix(".md").write_text(_card(recipe, data, watcher.looks), encoding="utf-8")
    found = _measured(watcher.looks, target.with_suffix(".fid.png"))
    return [f"weights: {target}", f"samples: {target.with_suffix('.png')}", *found]


def _measured(looks: list[Look], picture: Path) -> list[str]:
    """What the looks found, in words; the curve is drawn."""
    alike = looks[-1].alike
    if alike is None:
        return ["FID-lite: none; name a classifier under features"]
    last = f"FID-lite {alike.fid:.1f}, coverage {alike.coverage:.3f}, density {alike.density:.3f}"
    where = "in the card; a curve needs pip install 'mantlet[pictures]'"
    return [last, f"FID-lite over time: {picture if _curve(looks, picture) else where}"]


def _pictures(recipe: GanRecipe, data: Path) -> Tensor:
    """The (n, C, 28, 28) pictures to learn from."""
    x = load_images(data, "train").x
    kept = x[: max(0, len(x) - recipe.holdout)]
    pictures = torch.from_numpy(kept[: recipe.rows or None])
    if len(pictures) < max(recipe.batch, 100):
        raise ConfigError(
            f"{len(x)} rows less {recipe.holdout} held out leave {len(pictures)} pictures; a generator needs"
            f" {max(recipe.batch, 100)} or more: give more data, or lower holdout"
        )
    return pictures


class _Watcher:
    """Looks on while the loop runs, and writes sheets as it goes."""

    def __init__(self, recipe: GanRecipe, pictures: Tensor, target: Path) -> None:
        self.looks: list[Look] = []
        self._target = target
        random = torch.Generator().manual_seed(recipe.seed)
        count = min(recipe.samples, len(pictures))
        self._latents = torch.randn(count, recipe.latent, generator=random)
        self._network = _classifier(recipe.features)
        if self._network is not None:
            real = pictures[torch.randperm(len(pictures), generator=random)[:count]]
            self._real = embedded(real, self._network)
        target.parent.mkdir(parents=True, exist_ok=True)

    def look(self, step: int, gan: Gan) -> None:
        """Draw from the generator as it is now."""
        samples = drawn(gan.generator, self._latents)
        alike = None
        if self._network is not None:
            alike = fidelity(self._real, embedded(samples, self._network))
        self.looks.append(Look(step, samples[:SHOWN], alike))
        contact_sheet(samples[: SHOWN**2]).save(self._target.with_suffix(".png"))
        rows = torch.cat([look.samples for look in self.looks])
        contact_sheet(rows, columns=SHOWN).save(self._target.with_suffix(".progress.png"))


def _classifier(named: Weights | None) -> nn.Module | None:
    if named is None:
        return None
    network = architectures.build(named.architecture, named.settings)
    weights.load_into(network, named.weights, named.architecture)
    return network.eval()


def _curve(looks: list[Look], path: Path) -> bool:
    """Write a PNG of FID-lite and coverage by step; whether it could be drawn."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    seen = [(look.step, look.alike) for look in looks if look.alike is not None]
    figure = Figure(figsize=(6, 2.4), layout="constrained")
    panels = figure.subplots(1, 2)
    for panel, name in zip(panels, ("fid", "coverage"), strict=True):
        panel.plot(
            [step for step, _ in seen], [getattr(alike, name) for _, alike in seen], marker="."
        )
        panel.set_title({"fid": "FID-lite", "coverage": "coverage"}[name], fontsize=9)
        panel.set_xlabel("step", fontsize=8)
        panel.set_ylim(bottom=0)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    return True


def _card(recipe: GanRecipe, data: Path, looks: list[Look]) -> str:
    rows = [
        f"| {look.step} | {look.alike.fid:.1f} | {look.alike.coverage:.3f} | {look.alike.density:.3f} |"
        for look in looks
        if look.alike is not None
    ]
    table = ["| step | FID-lite | coverage | density |", "| ---: | ---: | ---: | ---: |", *rows]
    return "\n".join(
        [
            f"# {recipe.output.stem}",
            "",
            f"Draws 28x28 pictures of {recipe.latent} standard normal numbers. Trained on `{data.name}`, SHA-256",
            f"`{weights.fingerprint(data)}`.",
            "",
            *(table if rows else ["Not compared with real pictures: no classifier was named."]),
            "",
            "FID-lite, coverage and density compare samples with training pictures in the features of a small",
            "classifier; they compare with each other at one count of pictures, and with no other FID.",
            "",
            f"Recipe: `{recipe.recorded()}`",
            "",
        ]
    )
