from pathlib import Path

import pytest
import torch

from defenses.ini.recipe import IniRecipe
from mantlet.errors import ConfigError


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("{kind: ini, architecture: lenet, warm_start: w.st, output: ../m.st}")
    recipe = IniRecipe.load(path)

    assert recipe.output == tmp_path / "../m.st"
    assert recipe.warm_start == tmp_path / "w.st"


def test_what_is_recorded_names_no_path(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("{kind: ini, architecture: lenet, warm_start: w.st, output: m.st}")
    recorded = IniRecipe.load(path).recorded()

    assert str(tmp_path) not in recorded
    assert '"gamma":1.0' in recorded


def test_every_recipe_of_the_kind_that_ships_is_read(root: Path) -> None:
    names = [f"{data}-ini.yaml" for data in ("mnist", "fashion", "cifar")]
    recipes = [IniRecipe.load(root / "configs/recipes" / name) for name in names]

    assert all(recipe.defended and recipe.holdout == 5000 for recipe in recipes)


def test_inputs_are_normalised_by_channel(recipe: IniRecipe) -> None:
    plan = recipe.model_copy(update={"mean": (0.5, 0.0), "std": (0.5, 2.0)})
    inputs = torch.ones(1, 2, 1, 1)

    assert plan.normalised_inputs(inputs).flatten().tolist() == [1.0, 0.5]
    assert recipe.normalised_inputs(inputs) is inputs


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("gamma: -1", "gamma: Input should be greater than or equal to 0"),
        ("share: 1.0", "share: Input should be less than 1"),
        ("direction: backward", "direction: Input should be 'published' or 'attacker'"),
        ("drawn: [faces]", r"drawn.0: Input should be 'mixed'"),
        ("mean: [0.5]", "mean has 1 numbers, std 0; give both"),
        ("gama: 1", "gama: Extra inputs"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, setting: str, words: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(f"kind: ini\narchitecture: lenet\noutput: m\n{setting}\n")

    with pytest.raises(ConfigError, match=words):
        IniRecipe.load(path)
