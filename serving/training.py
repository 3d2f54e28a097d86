"""What ``mantlet train`` does: read a recipe and its data, train, write, report."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from defenses.ini import making
from defenses.ini.recipe import IniRecipe
from mantlet import (
    foreign_training,
    gan_making,
    likeness,
    mark_training,
    training,
    translation_training,
    weights,
)
from mantlet.data import Images, load_images
from mantlet.errors import ConfigError
from mantlet.foreign_training import FALSE_ALARMS, ForeignRecipe
from mantlet.gan_making import GanRecipe
from mantlet.mark_training import MarkRecipe
from mantlet.registry import did_you_mean
from mantlet.training import Progress, Recipe
from mantlet.translation_training import TranslateRecipe
from serving.build import device_of

AnyRecipe = Recipe | ForeignRecipe | IniRecipe | TranslateRecipe | GanRecipe | MarkRecipe

KINDS: Mapping[str, type[AnyRecipe]] = {
    "": Recipe,
    "foreign": ForeignRecipe,
    "gan": GanRecipe,
    "ini": IniRecipe,
    "translate": TranslateRecipe,
    "watermark": MarkRecipe,
}
"""Recipes by what they name as their ``kind:``; one of a classifier names none."""
USERS = {"foreign": ("foreign", "ini"), "unseen": ("foreign",), "device": ("",)}
"""The kinds of recipe that use an option."""


def load(recipe: Path) -> AnyRecipe:
    """The recipe of any kind; raises `ConfigError`."""
    kind = training.kind_of(recipe)
    if kind not in KINDS:
        raise ConfigError(
            f"recipe '{recipe}': kind '{kind}' is unknown; {did_you_mean(kind, filter(None, KINDS))}"
        )
    return KINDS[kind].load(recipe)


def run(
    plan: AnyRecipe,
    data: Path,
    *,
    progress: Callable[[Progress], None],
    foreign: Sequence[Path] = (),
    unseen: Sequence[Path] = (),
    device: str = "cpu",
    output: Path | None = None,
) -> Sequence[str]:
    """Train what a recipe describes and write it to its ``output``, or the one given; returns what to tell the operator.

    Raises `ConfigError` for ``foreign`` and ``unseen`` files, and a ``device`` beside the CPU, that its kind does not use.
    """
    _refuse_unused(plan, {"foreign": foreign, "unseen": unseen, "device": device != "cpu"})
    if isinstance(plan, Recipe):
        return _classifier(plan, data, device, output, progress)
    if isinstance(plan, IniRecipe):
        return making.make(plan, data, foreign, output=output, progress=progress)
    if isinstance(plan, TranslateRecipe):
        return _translator(plan, data, output, progress)
    if isinstance(plan, GanRecipe):
        return gan_making.make(plan, data, output=output, progress=progress)
    if isinstance(plan, MarkRecipe):
        return mark_training.make(plan, data, output=output, progress=progress)
    return _foreignness(plan, data, foreign, unseen, output, progress)


def _refuse_unused(plan: AnyRecipe, given: Mapping[str, object]) -> None:
    """Raise for an option that would be ignored."""
    kind = next(kind for kind, recipe in KINDS.items() if type(plan) is recipe)
    for option in (option for option, value in given.items() if value):
        if kind not in USERS[option]:
            users = " or ".join(map(_called, USERS[option]))
            raise ConfigError(
                f"--{option}: a recipe {_called(kind)} does not use it, only one {users}; leave it out"
            )


def _called(kind: str) -> str:
    return f"of kind '{kind}'" if kind else "without a kind"


def _classifier(
    plan: Recipe,
    data: Path,
    device: str,
    output: Path | None,
    progress: Callable[[Progress], None],
) -> list[str]:
    target = output or plan.output
    on = device_of(device)
    network = training.fit(plan, load_images(data, "train"), device=on, progress=progress)
    recorded = plan.model_dump_json(exclude={"output"})
    weights.save(network, target, {"recipe": recorded, "data": weights.fingerprint(data)})
    accuracy = training.accuracy(network, load_images(data, "test"), on)
    return [f"weights: {target}", f"test accuracy: {accuracy:.4f}"]


def _foreignness(
    plan: ForeignRecipe,
    data: Path,
    foreign: Sequence[Path],
    unseen: Sequence[Path],
    output: Path | None,
    progress: Callable[[Progress], None],
) -> list[str]:
    target = output or plan.output
    trained = foreign_training.fit(
        plan,
        load_images(data, "train"),
        _families(foreign, "train"),
        unseen=_families(unseen, "test"),
        progress=progress,
    )
    about = {
        "recipe": plan.model_dump_json(exclude={"output": True, "victim": {"weights"}}),
        "data": weights.fingerprint(data),
        "foreign": ",".join(map(weights.fingerprint, foreign)),
    }
    if plan.victim is not None:
        about["victim"] = weights.fingerprint(plan.victim.weights)
    trained.save(target, about)
    lines = [f"weights: {target}", f"held-out accuracy, balanced: {trained.accuracy:.4f}"]
    for family, caught in trained.caught.items():
        known = "held out" if family in _names(foreign) else "never seen"
        lines.append(
            f"flagged at {FALSE_ALARMS:.0%} of benign rows: {family} ({known}): {caught:.3f}"
        )
    return lines


def _translator(
    plan: TranslateRecipe,
    data: Path,
    output: Path | None,
    progress: Callable[[Progress], None],
) -> list[str]:
    """With a sheet of samples beside the weights."""
    target = output or plan.output
    pairs = translation_training.load_pairs(plan, data, "train")
    network = translation_training.fit(plan, pairs, progress=progress)
    recorded = plan.model_dump_json(exclude={"output"})
    weights.save(network, target, {"recipe": recorded, "data": weights.fingerprint(data)})
    test = translation_training.load_pairs(plan, data, "test")
    made = translation_training.translated(network, test.given)
    quality = float(likeness.psnr(made, test.wanted).mean())
    sheet = target.with_suffix(".png")
    translation_training.sheet(network, test).save(sheet)
    return [f"weights: {target}", f"test PSNR: {quality:.2f} dB", f"samples: {sheet}"]


def _families(paths: Sequence[Path], split: str) -> dict[str, Images]:
    return dict(zip(_names(paths), (load_images(path, split) for path in paths), strict=True))


def _names(paths: Sequence[Path]) -> list[str]:
    return [path.stem for path in paths]
