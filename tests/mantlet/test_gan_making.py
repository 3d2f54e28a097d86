import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from mantlet import architectures, gan_making, weights
from mantlet.data import Images
from mantlet.errors import ConfigError
from mantlet.gan_making import GanRecipe
from mantlet.gan_training import drawn
from mantlet.generators import DcganDiscriminator
from mantlet.training import Progress, kind_of

SMALL = {"kind": "gan", "latent": 4, "width": 4, "discriminator_width": 4, "steps": 6, "batch": 8}
SMALL |= {"looks": 3, "samples": 100, "holdout": 50, "output": "g.safetensors"}


@pytest.fixture
def data(tmp_path: Path, digits: Images) -> Path:
    """250 digits, no labels, no test pictures."""
    np.savez(tmp_path / "digits.npz", x_train=digits.x[:250])
    return tmp_path / "digits.npz"


def recipe(folder: Path, **settings: object) -> GanRecipe:
    (folder / "r.yaml").write_text(yaml.safe_dump(SMALL | settings))
    return GanRecipe.load(folder / "r.yaml")


def named(root: Path) -> dict[str, str]:
    return {
        "architecture": "lenet",
        "weights": str(root / "configs/models/mnist-lenet.safetensors"),
    }


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def test_a_generator_is_written_with_its_card_its_sheets_and_its_curve(
    tmp_path: Path, data: Path, root: Path
) -> None:
    seen: list[Progress] = []
    told = gan_making.make(recipe(tmp_path, features=named(root)), data, progress=seen.append)
    made = tmp_path / "g.safetensors"
    network = architectures.build("dcgan", {"latent": 4, "width": 4})
    weights.load_into(network, made, "dcgan")
    judge = DcganDiscriminator(width=4)
    weights.load_into(judge, tmp_path / "g.discriminator.safetensors", "discriminator")
    card = (tmp_path / "g.md").read_text()

    assert told[:2] == [f"weights: {made}", f"samples: {tmp_path / 'g.png'}"]
    assert told[2].startswith("FID-lite ")
    assert [step for step in (2, 4, 6) if f"\n| {step} | " in card] == [2, 4, 6]
    assert size(tmp_path / "g.png") == (298, 298)
    assert size(tmp_path / "g.progress.png") == (298, 88)
    assert min(size(tmp_path / "g.fid.png")) > 200
    assert weights.metadata(made)["data"] == weights.fingerprint(data)
    assert str(root) not in weights.metadata(made)["recipe"] + card
    assert seen[-1].step == seen[-1].steps == 6


def test_held_out_rows_and_rows_past_the_first_change_nothing(
    tmp_path: Path, data: Path, digits: Images
) -> None:
    other = digits.x[:250].copy()
    other[150:] = np.random.default_rng(0).random(other[150:].shape)
    np.savez(tmp_path / "other.npz", x_train=other)
    plan = recipe(tmp_path, rows=150)
    gan_making.make(plan, data, output=tmp_path / "first.safetensors")
    gan_making.make(plan, tmp_path / "other.npz", output=tmp_path / "second.safetensors")
    first, second = (weights.load_state(tmp_path / f"{n}.safetensors") for n in ("first", "second"))

    assert all(torch.equal(first[name], second[name]) for name in first)


def test_without_a_classifier_there_are_sheets_and_no_numbers(tmp_path: Path, data: Path) -> None:
    told = gan_making.make(recipe(tmp_path), data)

    assert told[-1] == "FID-lite: none; name a classifier under features"
    assert "no classifier was named" in (tmp_path / "g.md").read_text()
    assert (tmp_path / "g.png").is_file()
    assert not (tmp_path / "g.fid.png").exists()


def test_without_matplotlib_the_numbers_are_in_the_card_alone(
    tmp_path: Path, data: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    told = gan_making.make(recipe(tmp_path, features=named(root)), data)

    assert told[-1].endswith("pip install 'mantlet[pictures]'")
    assert not (tmp_path / "g.fid.png").exists()


def test_too_few_pictures_are_refused(tmp_path: Path, data: Path) -> None:
    with pytest.raises(ConfigError, match="250 rows less 200 held out leave 50 pictures"):
        gan_making.make(recipe(tmp_path, holdout=200), data)
    with pytest.raises(ConfigError, match="250 rows less 900 held out leave 0 pictures"):
        gan_making.make(recipe(tmp_path, holdout=900), data)


def test_a_mistake_in_a_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="looks: Input should be greater than 0"):
        recipe(tmp_path, looks=0)


def test_every_recipe_of_a_generator_that_ships_is_read_and_its_classifier_is_there(
    root: Path,
) -> None:
    paths = [p for p in (root / "configs/recipes").glob("*.yaml") if kind_of(p) == "gan"]
    recipes = [GanRecipe.load(path) for path in paths]

    assert len(recipes) == 2
    assert all(plan.features and plan.features.weights.is_file() for plan in recipes)


@pytest.mark.parametrize("kind", ["mnist", "fashion"])
def test_the_generator_that_ships_draws_what_its_classifier_knows(kind: str, root: Path) -> None:
    models = root / "configs/models"
    generator = loaded("dcgan", models / f"{kind}-dcgan.safetensors")
    classifier = loaded("lenet", models / f"{kind}-lenet.safetensors")
    latents = torch.randn(1000, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        answers = classifier(drawn(generator, latents)).softmax(dim=1)
    classes = torch.bincount(answers.argmax(dim=1), minlength=10)

    assert (models / f"{kind}-dcgan.safetensors").stat().st_size < 1_500_000
    assert answers.amax(dim=1).mean() > 0.8
    assert classes.min() > 30


def loaded(architecture: str, path: Path) -> torch.nn.Module:
    network = architectures.build(architecture, {})
    weights.load_into(network, path, architecture)
    return network.eval()
