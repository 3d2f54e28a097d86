"""Training of the classifier of foreign inputs, on pictures that are drawn here."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mantlet import architectures, foreign_training, weights
from mantlet.data import Images
from mantlet.errors import ConfigError
from mantlet.foreign_training import ForeignRecipe, Trained, Weights
from mantlet.foreignness import Foreignness
from mantlet.training import Progress
from mantlet.types import Kind, Prediction

RECIPE = ForeignRecipe(
    kind="foreign", rows=300, components=5, holdout=100, epochs=8, output=Path("f.safetensors")
)


def bars(count: int, *, seed: int, upright: bool) -> Images:
    """Soft bars at chance places of 12x12 pictures."""
    rng = np.random.default_rng(seed)
    place = np.abs(np.arange(12) - rng.uniform(2, 9, (count, 1)))
    line = np.clip(1.5 - place / 2, 0, 1)[:, None, None, :]
    pictures = np.broadcast_to(line, (count, 1, 12, 12)).astype(np.float32)
    pictures = pictures * rng.uniform(0.7, 1, (count, 1, 1, 1)).astype(np.float32)
    return Images(np.ascontiguousarray(pictures if upright else pictures.swapaxes(2, 3)), None)


def dots(count: int, *, seed: int) -> Images:
    rng = np.random.default_rng(seed)
    return Images((rng.random((count, 1, 12, 12)) > 0.7).astype(np.float32), None)


@pytest.fixture(scope="module")
def trained() -> Trained:
    own = bars(600, seed=1, upright=True)
    foreign = {"lying": bars(600, seed=2, upright=False)}
    return foreign_training.fit(RECIPE, own, foreign, unseen={"dots": dots(200, seed=3)})


def test_it_tells_the_family_it_knows_and_one_it_never_saw(trained: Trained) -> None:
    assert trained.accuracy > 0.75
    assert trained.caught["lying"] > 0.95
    assert trained.caught["dots"] > 0.9


def test_a_benign_family_is_flagged_as_the_benign_rows_are() -> None:
    own = bars(600, seed=1, upright=True)
    foreign = {"lying": bars(600, seed=2, upright=False)}
    alike = {"alike": bars(1000, seed=9, upright=True)}
    found = foreign_training.fit(RECIPE, own, foreign, unseen=alike)

    assert found.caught["alike"] < 0.12


def test_the_same_recipe_gives_the_same_arrays_and_progress_is_told(trained: Trained) -> None:
    seen: list[Progress] = []
    own = bars(600, seed=1, upright=True)
    foreign = {"lying": bars(600, seed=2, upright=False)}
    before = torch.get_rng_state()
    again = foreign_training.fit(RECIPE, own, foreign, unseen={}, progress=seen.append)

    assert all(
        np.array_equal(array, again.classifier.arrays[name])
        for name, array in trained.classifier.arrays.items()
    )
    assert seen[-1].step == seen[-1].steps == len(seen)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_is_written_judges_as_what_was_trained(trained: Trained, tmp_path: Path) -> None:
    trained.save(tmp_path / "deep/f.safetensors", {"recipe": "r"})
    loaded = Foreignness.load(tmp_path / "deep/f.safetensors")
    inputs = dots(20, seed=4).x
    nothing = Prediction(torch.zeros(20, 2), Kind.PROBABILITIES)

    assert weights.metadata(tmp_path / "deep/f.safetensors")["recipe"] == "r"
    assert np.allclose(
        loaded.judge(inputs, nothing), trained.classifier.judge(inputs, nothing), atol=1e-4
    )


def test_with_a_victim_it_sees_features_and_logits(tmp_path: Path) -> None:
    network = architectures.build("lenet", {"width": 2})
    weights.save(network, tmp_path / "v.safetensors", {})
    victim = Weights(
        weights=tmp_path / "v.safetensors", architecture="lenet", settings={"width": 2}
    )
    recipe = RECIPE.model_copy(update={"victim": victim, "epochs": 1})
    rng = np.random.default_rng(0)
    own, other = (Images(rng.random((400, 1, 28, 28), dtype=np.float32), None) for _ in range(2))
    found = foreign_training.fit(recipe, own, {"other": other}, unseen={})

    assert found.classifier.needs_victim
    assert len(found.classifier.arrays["centre"]) == 5 + 2 + 84 + 10


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_that_is_sent_again_is_alike_and_not_the_same(channels: int) -> None:
    picture = np.zeros((channels, 20, 24), np.uint8)
    picture[:, 6:14, 8:16] = 200
    sent = foreign_training.resent(picture, np.random.default_rng(0))

    assert sent.shape == picture.shape
    assert sent.dtype == np.uint8
    assert np.corrcoef(sent.ravel(), picture.ravel())[0, 1] > 0.6
    assert not np.array_equal(sent, picture)


def test_made_pictures_are_as_many_as_asked_and_bytes() -> None:
    rng = np.random.default_rng(0)
    ours = (bars(50, seed=1, upright=True).x * 255).astype(np.uint8)
    found = foreign_training.made(ours, 255 - ours, 90, rng)

    assert found.shape == (90, 1, 12, 12)
    assert found.dtype == np.uint8


def test_paths_of_a_recipe_are_relative_to_the_file(tmp_path: Path) -> None:
    text = "kind: foreign\noutput: out.safetensors\nvictim: {weights: v.st, architecture: lenet}\n"
    (tmp_path / "f.yaml").write_text(text)
    recipe = ForeignRecipe.load(tmp_path / "f.yaml")

    assert recipe.output == tmp_path / "out.safetensors"
    assert recipe.victim is not None
    assert recipe.victim.weights == tmp_path / "v.st"


def test_the_shipped_recipe_is_the_one_that_the_weights_remember(root: Path) -> None:
    recipe = ForeignRecipe.load(root / "configs/recipes/mnist-foreign.yaml")
    file = root / "configs/models/mnist-foreign.safetensors"
    about = weights.metadata(file)
    recorded = ForeignRecipe.model_validate_json(
        about["recipe"]
        .replace('"victim":{', '"victim":{"weights":"w",')
        .replace('"kind"', '"output":"o","kind"', 1)
    )

    assert recipe.output.resolve() == file
    assert replace_paths(recorded) == replace_paths(recipe)
    assert about["victim"] == weights.fingerprint(root / "configs/models/mnist-ini.safetensors")
    assert file.stat().st_size < 200_000


def replace_paths(recipe: ForeignRecipe) -> dict[str, object]:
    return recipe.model_dump(exclude={"output": True, "victim": {"weights"}})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kind: foreign\n", "output: Field required"),
        ("kind: [", "cannot be read"),
        ("kind: foreign\noutput: o\nrows: 3\n", "rows: Input should be greater"),
    ],
)
def test_a_recipe_that_is_wrong_is_named(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "f.yaml").write_text(text)

    with pytest.raises(ConfigError, match=words):
        ForeignRecipe.load(tmp_path / "f.yaml")


def test_data_that_does_not_do_is_named(tmp_path: Path) -> None:
    own, other = bars(600, seed=1, upright=True), dots(300, seed=1)
    small = replace(other, x=other.x[:, :, :6])

    def fit(data: Images, foreign: dict[str, Images]) -> None:
        foreign_training.fit(RECIPE, data, foreign, unseen={})

    with pytest.raises(ConfigError, match="give --foreign FILE"):
        fit(own, {})
    with pytest.raises(ConfigError, match="100 rows less 100 held out are too few"):
        fit(Images(own.x[:100], None), {"dots": other})
    with pytest.raises(ConfigError, match=r"'dots' has pictures of \(1, 6, 12\), the data of"):
        fit(own, {"dots": small})
