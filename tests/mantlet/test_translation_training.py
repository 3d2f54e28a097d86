"""Training of networks from pictures to pictures, on pictures that are drawn here."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from mantlet import likeness
from mantlet import translation_training as training
from mantlet.errors import ConfigError
from mantlet.training import Progress, kind_of
from mantlet.translation_training import Pairs, TranslateRecipe

RECIPE = TranslateRecipe(
    kind="translate",
    settings={"width": 6},
    steps=500,
    batch=8,
    crop=16,
    output=Path("t.safetensors"),
)


def quality(made: Tensor, wanted: Tensor) -> float:
    return float(likeness.psnr(made, wanted).mean())


def discs(count: int, *, channels: int = 1, side: int = 24, seed: int = 0) -> Tensor:
    """Soft discs at chance places, of chance sizes."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(6, side - 6, (2, count, 1, 1))
    far = np.hypot(np.arange(side) - x, np.arange(side)[:, None] - y)
    grey = np.clip(rng.uniform(3, 8, (count, 1, 1)) - far, 0, 1)
    return torch.from_numpy(np.repeat(grey[:, None], channels, axis=1)).float()


def written(path: Path, **arrays: Tensor) -> Path:
    np.savez(path, **{name: (x * 255).round().byte().numpy() for name, x in arrays.items()})  # type: ignore[arg-type]  # the stub takes a flag by name as well
    return path


def test_super_resolution_beats_what_it_starts_from() -> None:
    pairs = training.made(discs(80), "enlarge", 2)
    steps: list[Progress] = []
    network = training.fit(RECIPE.model_copy(update={"holdout": 20}), pairs, progress=steps.append)
    given, wanted = pairs.given[-20:], pairs.wanted[-20:]
    base = torch.nn.functional.interpolate(given, scale_factor=2, mode="bilinear")

    assert quality(training.translated(network, given), wanted) > quality(base, wanted) + 1
    assert (steps[-1].step, steps[-1].steps) == (500, 500)


def test_the_same_recipe_and_pairs_give_the_same_weights() -> None:
    pairs = training.made(discs(20), "emboss", 1)
    recipe = RECIPE.model_copy(update={"settings": {"scale": 1, "width": 4}, "steps": 5})
    one, other = (training.fit(recipe, pairs).state_dict() for _ in range(2))

    assert all(torch.equal(one[name], other[name]) for name in one)


def test_pictures_are_shrunk_as_pillow_shrinks_them() -> None:
    picture = 0.3 + 0.4 * discs(
        1, side=28
    )  # nothing overshoots, which Pillow clips between two passes
    levels = (picture[0, 0] * 255).round().byte().numpy()
    small = Image.fromarray(levels).resize((14, 14), Image.Resampling.BICUBIC)
    ours = training.shrunk(torch.from_numpy(levels / np.float32(255))[None, None], 2)

    assert np.abs(np.asarray(small) - ours[0, 0].numpy() * 255).max() <= 1


def test_a_cartoon_is_flat_where_the_picture_is_noisy_and_keeps_its_edges() -> None:
    generator = torch.Generator().manual_seed(0)
    picture = 0.3 + 0.05 * torch.randn(1, 3, 32, 32, generator=generator)
    picture[:, :, :, 16:] += 0.4
    drawn = training.cartoon(picture.clamp(0, 1))
    left = drawn[..., 2:14]
    across = (drawn[..., 18] - drawn[..., 13]).mean()

    assert left.std() < 0.7 * picture[..., 2:14].std()
    assert across > 0.38


def test_an_embossed_flat_picture_is_middle_grey() -> None:
    drawn = training.emboss(torch.full((2, 3, 8, 8), 0.7))

    assert torch.allclose(drawn, torch.tensor(0.5))


def test_a_crop_is_the_same_place_of_both_pictures() -> None:
    generator = torch.Generator().manual_seed(3)
    small = torch.rand(4, 1, 12, 12, generator=generator)
    pairs = Pairs(small, torch.nn.functional.interpolate(small, scale_factor=2))
    for _ in range(5):
        given, wanted = training.cropped(pairs, torch.tensor([1, 3]), 8, generator)

        assert given.shape == (2, 1, 4, 4)
        assert torch.equal(torch.nn.functional.interpolate(given, scale_factor=2), wanted)


def test_pairs_come_of_a_and_b_or_of_all_pictures(tmp_path: Path) -> None:
    a, b = discs(4, channels=3), discs(4, channels=3, seed=1)
    data = written(tmp_path / "ab.npz", a_train=a, b_train=b)
    settings = {"scale": 1, "channels": 3}
    redraw = RECIPE.model_copy(update={"teach": "pairs", "settings": settings})
    pairs = training.load_pairs(redraw, data, "train")
    enlarged = training.load_pairs(
        RECIPE.model_copy(update={"settings": {"channels": 3}}), data, "train"
    )

    assert torch.allclose(pairs.given, a, atol=0.01)
    assert torch.allclose(pairs.wanted, b, atol=0.01)
    assert enlarged.given.shape == (8, 3, 12, 12)


def test_data_that_fit_no_recipe_are_refused_with_a_remedy(tmp_path: Path) -> None:
    plain = written(tmp_path / "x.npz", x_train=discs(40))
    redraw = RECIPE.model_copy(update={"teach": "pairs", "settings": {"scale": 1}})
    with pytest.raises(ConfigError, match="has no pairs; give a_train and b_train"):
        training.load_pairs(redraw, plain, "train")
    with pytest.raises(ConfigError, match="makes no pictures of pictures"):
        training.load_pairs(
            RECIPE.model_copy(update={"architecture": "lenet", "settings": {}}), plain, "train"
        )
    with pytest.raises(ConfigError, match=r"set settings: \{channels"):
        training.fit(RECIPE, training.made(discs(40, channels=3), "enlarge", 2))
    with pytest.raises(ConfigError, match=r"wants \(24, 24\) of \(24, 24\); set the scale"):
        training.fit(RECIPE, training.made(discs(40), "cartoon", 1))
    with pytest.raises(ConfigError, match="under one batch of 8"):
        training.fit(RECIPE, training.made(discs(5), "enlarge", 2))


def test_the_recipes_that_ship_name_networks_that_fit_what_they_teach(root: Path) -> None:
    paths = (root / "configs/recipes").glob("*.yaml")
    recipes = [TranslateRecipe.load(p) for p in paths if kind_of(p) == "translate"]
    for recipe in recipes:
        tiny = recipe.model_copy(update={"steps": 1, "batch": 2, "crop": 16})
        pictures = discs(4, channels=3)
        teach = "cartoon" if recipe.teach == "pairs" else recipe.teach
        pairs = training.made(pictures, teach, int(recipe.settings["scale"]))

        assert training.fit(tiny, pairs)

    assert {recipe.teach for recipe in recipes} == {"enlarge", "cartoon", "pairs"}


def test_a_sheet_shows_given_made_and_wanted() -> None:
    pairs = training.made(discs(10), "enlarge", 2)
    network = training.fit(RECIPE.model_copy(update={"steps": 1}), pairs)

    assert training.sheet(network, pairs).size == (8 * 26 - 2, 3 * 26 - 2)
