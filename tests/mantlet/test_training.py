from pathlib import Path

import numpy as np
import pytest
import torch

from mantlet import architectures, training
from mantlet.data import Images
from mantlet.errors import ConfigError
from mantlet.training import Progress, Recipe

CPU = torch.device("cpu")
RECIPE = Recipe(
    architecture="lenet",
    settings={"width": 2, "classes": 2},
    epochs=2,
    batch=16,
    holdout=100,
    output=Path("m.safetensors"),
)


@pytest.fixture(scope="module")
def halves() -> Images:
    """Pictures that are light on the left (class 0) or on the right (class 1)."""
    generator = np.random.default_rng(0)
    y = generator.integers(0, 2, 420)
    x = 0.3 * generator.random((420, 1, 28, 28), dtype=np.float32)
    x[y == 0, :, :, :14] += 0.6
    x[y == 1, :, :, 14:] += 0.6
    return Images(x, y)


def test_training_learns_and_says_how_far_it_is(halves: Images) -> None:
    seen: list[Progress] = []
    network = training.fit(RECIPE, halves, device=CPU, progress=seen.append)

    assert training.accuracy(network, halves, CPU) > 0.95
    assert seen[-1].loss < seen[0].loss / 2
    assert [p.step for p in seen] == list(range(1, 41))
    assert {p.steps for p in seen} == {40}
    assert [p.epoch for p in seen] == [1] * 20 + [2] * 20
    assert not network.training


def test_the_same_recipe_gives_the_same_weights_and_another_seed_others(halves: Images) -> None:
    short = RECIPE.model_copy(update={"epochs": 1})
    before = torch.get_rng_state()
    first, second = (training.fit(short, halves, device=CPU).state_dict() for _ in range(2))
    other = training.fit(short.model_copy(update={"seed": 1}), halves, device=CPU).state_dict()

    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["output.weight"], other["output.weight"])
    assert torch.equal(torch.get_rng_state(), before)


def test_rows_that_are_held_out_are_never_trained_on(halves: Images) -> None:
    """Poison in the held-out rows changes nothing."""
    short = RECIPE.model_copy(update={"epochs": 1})
    poisoned = halves.x.copy()
    poisoned[-100:] = np.nan
    clean = training.fit(short, halves, device=CPU).state_dict()
    same = training.fit(short, Images(poisoned, halves.y), device=CPU).state_dict()

    assert all(torch.equal(clean[name], same[name]) for name in clean)


def test_data_without_labels_is_refused(halves: Images) -> None:
    with pytest.raises(ConfigError, match="no labels"):
        training.fit(RECIPE, Images(halves.x, None), device=CPU)
    with pytest.raises(ConfigError, match="no labels"):
        training.accuracy(torch.nn.Identity(), Images(halves.x, None), CPU)


def test_too_few_rows_are_refused(halves: Images) -> None:
    assert halves.y is not None
    few = Images(halves.x[:110], halves.y[:110])

    with pytest.raises(ConfigError, match="110 rows less 100 held out are under one batch of 16"):
        training.fit(RECIPE, few, device=CPU)


def test_the_learning_rate_rises_and_falls_within_its_bounds() -> None:
    factors = [training.one_cycle(share) for share in np.linspace(0, 1.2, 200)]

    assert min(factors) == 0.0
    assert max(factors) == pytest.approx(1.0, abs=0.01)


def test_batches_are_whole_and_an_epoch_names_no_row_twice() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = list(training.batches(50, 16, 2, generator))
    first, second = torch.cat(drawn[:3]), torch.cat(drawn[3:])

    assert [len(rows) for rows in drawn] == [16] * 6
    assert len(torch.unique(first)) == 48
    assert not torch.equal(first, second)


def test_a_shift_moves_each_picture_its_own_way_and_at_most_so_far() -> None:
    dot = torch.zeros(200, 1, 9, 9)
    dot[:, :, 4, 4] = 1.0
    moved = training.shifted(dot, 2, torch.Generator().manual_seed(0))
    places = moved[:, 0].nonzero()[:, 1:]

    assert moved.shape == dot.shape
    assert len(places) == 200
    assert (places.amin(dim=0).tolist(), places.amax(dim=0).tolist()) == ([2, 2], [6, 6])
    assert len(torch.unique(places, dim=0)) == 25


def test_no_shift_leaves_the_batch_as_it_is() -> None:
    inputs = torch.rand(2, 1, 4, 4)

    assert training.shifted(inputs, 0, torch.Generator()) is inputs


def test_a_recipe_writes_beside_itself(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("{architecture: lenet, output: ../m.safetensors}")

    assert Recipe.load(path).output == tmp_path / "../m.safetensors"


def test_recipes_are_told_by_their_kind(tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text("kind: foreign\n")
    (tmp_path / "c.yaml").write_text("architecture: lenet\noutput: o\n")

    assert training.kind_of(tmp_path / "f.yaml") == "foreign"
    assert training.kind_of(tmp_path / "c.yaml") == ""
    assert training.kind_of(tmp_path / "none.yaml") == ""


def test_every_recipe_that_ships_is_read(root: Path) -> None:
    paths = (root / "configs/recipes").glob("*.yaml")
    recipes = [Recipe.load(path) for path in paths if not training.kind_of(path)]

    assert recipes
    assert {recipe.architecture for recipe in recipes} <= architectures.known().keys()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{architecture: lenet}", "output: Field required"),
        (b"{architecture: lenet, output: m, epochs: 0}", "epochs: Input should be greater than 0"),
        (b"{architecture: lenet, output: m, epoch: 3}", "epoch: Extra inputs"),
        (b"- a list", "should be a valid dictionary"),
        (b"{", "cannot be read"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_a_mistake_in_a_recipe_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(content)

    with pytest.raises(ConfigError, match=f"recipe '{path}'.*{words}"):
        Recipe.load(path)


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read: .*No such file"):
        Recipe.load(tmp_path / "none.yaml")
