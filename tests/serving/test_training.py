"""``mantlet train``, without its command line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from defenses.watermark.learned import SHIPPED
from mantlet import weights
from mantlet.data import Images
from mantlet.errors import ConfigError
from mantlet.foreignness import Foreignness
from mantlet.gan_making import GanRecipe
from mantlet.mark_training import MarkRecipe
from mantlet.training import Progress
from serving import training

FOREIGN = {"kind": "foreign", "rows": 200, "holdout": 100, "components": 8, "epochs": 1}


def silent(_: Progress) -> None:
    """Shows nothing."""


def written(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]  # the stub takes a flag by name as well
    return path


def test_the_classifier_of_foreign_inputs_is_written_and_reported_by_family(
    tmp_path: Path, digits: Images
) -> None:
    recipe = tmp_path / "f.yaml"
    recipe.write_text(yaml.safe_dump({**FOREIGN, "output": "own.safetensors"}))
    data = written(tmp_path / "digits.npz", x_train=digits.x[:500])
    rng = np.random.default_rng(0)
    noise = written(tmp_path / "noise.npz", x_train=rng.random((300, 28, 28)))
    turned = written(tmp_path / "turned.npz", x_test=1.0 - digits.x[:200])
    steps: list[Progress] = []
    report = training.run(
        training.load(recipe), data, foreign=[noise], unseen=[turned], progress=steps.append
    )
    about = weights.metadata(tmp_path / "own.safetensors")

    assert report[0] == f"weights: {tmp_path / 'own.safetensors'}"
    assert report[1].startswith("held-out accuracy, balanced: ")
    assert report[2].startswith("flagged at 5% of benign rows: noise (held out): ")
    assert report[3].startswith("flagged at 5% of benign rows: turned (never seen): ")
    assert steps[-1].step == steps[-1].steps
    assert about["data"] == weights.fingerprint(data)
    assert not Foreignness.load(tmp_path / "own.safetensors").needs_victim


def test_a_classifier_of_the_victim_is_reported_by_its_test_accuracy(
    tmp_path: Path, digits: Images
) -> None:
    assert digits.y is not None
    plan = {"architecture": "lenet", "settings": {"width": 2}, "epochs": 1, "batch": 50}
    recipe = tmp_path / "v.yaml"
    recipe.write_text(yaml.safe_dump({**plan, "holdout": 100, "output": "v.safetensors"}))
    split = {"x_train": digits.x[:300], "y_train": digits.y[:300]}
    held = {"x_test": digits.x[300:400], "y_test": digits.y[300:400]}
    data = written(tmp_path / "d.npz", **split, **held)
    report = training.run(training.load(recipe), data, progress=silent)

    assert report[0] == f"weights: {tmp_path / 'v.safetensors'}"
    assert report[1].startswith("test accuracy: 0.")


def test_a_victim_that_resists_is_trained_by_its_recipe(tmp_path: Path, digits: Images) -> None:
    assert digits.y is not None
    plan = {"kind": "ini", "architecture": "lenet", "settings": {"width": 2}, "epochs": 1}
    recipe = tmp_path / "i.yaml"
    recipe.write_text(yaml.safe_dump(plan | {"drawn_rows": 100, "holdout": 100, "output": "i.st"}))
    split = {"x_train": digits.x[:300], "y_train": digits.y[:300]}
    held = {"x_test": digits.x[300:400], "y_test": digits.y[300:400]}
    data = written(tmp_path / "d.npz", **split, **held)
    noise = np.random.default_rng(0).random((300, 28, 28))
    foreign = written(tmp_path / "noise.npz", x_train=noise)
    report = training.run(training.load(recipe), data, foreign=[foreign], progress=silent)

    assert report[0] == f"weights: {tmp_path / 'i.st'}"
    assert weights.metadata(tmp_path / "i.st")["trained_with"] == "ini"


def test_a_generator_is_trained_by_its_recipe(root: Path) -> None:
    plan = training.load(root / "configs/recipes/mnist-dcgan.yaml")

    assert isinstance(plan, GanRecipe)
    assert plan.output.resolve() == root / "configs/models/mnist-dcgan.safetensors"


def test_a_mark_is_trained_by_its_recipe(root: Path) -> None:
    plan = training.load(root / "configs/recipes/mnist-watermark.yaml")

    assert isinstance(plan, MarkRecipe)
    assert plan.output.resolve() == SHIPPED
    assert json.loads(weights.metadata(SHIPPED)["recipe"])["steps"] == plan.steps


def test_a_kind_that_nobody_knows_is_named(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("kind: forein\n")

    with pytest.raises(ConfigError, match="kind 'forein' is unknown; did you mean 'foreign'"):
        training.load(recipe)


@pytest.mark.parametrize(
    ("recipe", "option", "words"),
    [
        ("mnist-lenet", "foreign", "without a kind .* only one of kind 'foreign' or of kind 'ini'"),
        ("mnist-ini", "unseen", "of kind 'ini' does not use it, only one of kind 'foreign'"),
        ("mnist-dcgan", "foreign", "of kind 'gan' does not use it"),
        ("superres-x2", "device", "of kind 'translate' does not use it, only one without a kind"),
        ("mnist-watermark", "unseen", "of kind 'watermark' does not use it"),
        ("mnist-foreign", "device", "of kind 'foreign' does not use it"),
    ],
)
def test_an_option_that_the_recipe_would_ignore_is_refused(
    root: Path, recipe: str, option: str, words: str
) -> None:
    plan = training.load(root / f"configs/recipes/{recipe}.yaml")
    given: Any = {option: "cuda" if option == "device" else [Path("pictures.npz")]}

    with pytest.raises(ConfigError, match=f"--{option}: a recipe {words}.*; leave it out"):
        training.run(plan, Path("none.npz"), progress=silent, **given)


def test_a_device_that_is_not_there_is_named(root: Path) -> None:
    plan = training.load(root / "configs/recipes/mnist-lenet.yaml")

    with pytest.raises(ConfigError, match=r"device 'abacus' cannot be used: .*; try cpu"):
        training.run(plan, Path("none.npz"), device="abacus", progress=silent)


def test_without_foreign_pictures_nothing_is_trained(tmp_path: Path, digits: Images) -> None:
    recipe = tmp_path / "f.yaml"
    recipe.write_text(yaml.safe_dump({**FOREIGN, "output": "own.safetensors"}))
    data = written(tmp_path / "digits.npz", x_train=digits.x[:500])

    with pytest.raises(ConfigError, match="foreign pictures are missing"):
        training.run(training.load(recipe), data, progress=silent)
    assert not (tmp_path / "own.safetensors").exists()


def test_a_translator_is_reported_by_its_quality_beside_a_sheet_of_samples(
    tmp_path: Path, digits: Images
) -> None:
    plan = {"kind": "translate", "settings": {"width": 4}, "steps": 20, "output": "t.safetensors"}
    recipe = tmp_path / "t.yaml"
    recipe.write_text(yaml.safe_dump(plan))
    data = written(tmp_path / "d.npz", x_train=digits.x[:100], x_test=digits.x[100:140])
    report = training.run(training.load(recipe), data, progress=silent)

    assert report[0] == f"weights: {tmp_path / 't.safetensors'}"
    assert report[1].startswith("test PSNR: ")
    assert weights.metadata(tmp_path / "t.safetensors")["data"] == weights.fingerprint(data)
    with Image.open(tmp_path / "t.png") as sheet:
        assert sheet.size == (8 * 30 - 2, 3 * 30 - 2)
