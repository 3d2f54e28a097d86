"""Reads the pictures, trains, and writes the victim with its card and its curves."""

from collections.abc import Callable, Sequence
from pathlib import Path

import structlog
import torch

from defenses.ini import curves, training
from defenses.ini.card import Source, card
from defenses.ini.checkpoint import Checkpoint
from defenses.ini.recipe import IniRecipe
from mantlet import weights
from mantlet.data import Images, load_images
from mantlet.training import Progress, accuracy

log = structlog.get_logger(__name__)
CPU = torch.device("cpu")


def make(
    recipe: IniRecipe,
    data: Path,
    foreign: Sequence[Path],
    *,
    output: Path | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> list[str]:
    """Train on ``data`` against ``foreign`` files; returns what to tell the operator.

    Beside the weights it writes a card (.md) and curves (.png), and while it runs a checkpoint: a run
    that was stopped goes on. Foreign pictures that are also in ``data`` are warned of and left out.
    """
    target = output or recipe.output
    own = load_images(data, "train")
    test = _normalised(recipe, load_images(data, "test"))
    families, sources = _families(own, foreign if recipe.defended else [])
    own_source = Source(data.name, weights.fingerprint(data))
    settings = "\n".join([recipe.recorded(), own_source.sha256, *(s.sha256 for s in sources)])
    if recipe.warm_start is not None:
        settings += "\n" + weights.fingerprint(recipe.warm_start)
    checkpoint = Checkpoint(target.with_suffix(".checkpoint.safetensors"), settings)
    trained = training.fit(recipe, own, families, checkpoint=checkpoint, progress=progress)
    about = {"recipe": recipe.recorded(), "data": own_source.sha256}
    if recipe.defended:
        about |= {"trained_with": "ini", "foreign": ",".join(s.sha256 for s in sources)}
    weights.save(trained.network, target, about)
    right = accuracy(trained.network, test, CPU)
    made = Source(target.name, weights.fingerprint(target))
    beside = target.with_suffix(".md")
    beside.write_text(card(recipe, made, own_source, sources, right), encoding="utf-8")
    lines = [f"weights: {target}", f"test accuracy: {right:.4f}", f"card: {beside}"]
    picture = target.with_suffix(".png")
    if curves.draw(trained.history, picture):
        lines.append(f"curves: {picture}")
    else:
        lines.append("curves: none; they need pip install 'mantlet[pictures]'")
    checkpoint.done()
    return lines


def _normalised(recipe: IniRecipe, images: Images) -> Images:
    return Images(recipe.normalised_inputs(torch.from_numpy(images.x)).numpy(), images.y)


def _families(own: Images, foreign: Sequence[Path]) -> tuple[dict[str, Images], list[Source]]:
    """Foreign pictures by the name of their file, without those that are the model's own."""
    families, sources = {}, []
    for path in foreign:
        families[path.stem], shared = training.without_overlap(own, load_images(path, "train"))
        sources.append(Source(path.name, weights.fingerprint(path), shared))
        if shared:
            log.warning(
                "foreign_overlap",
                file=path.name,
                pictures=shared,
                meaning="they are also in the training data and are left out",
            )
    return families, sources
