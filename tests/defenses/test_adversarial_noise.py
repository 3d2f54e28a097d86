from pathlib import Path

import pytest
import torch
from torch import Tensor

from defenses.adversarial_noise import AdversarialNoise
from mantlet import architectures
from mantlet.data import Images
from mantlet.errors import WeightsError
from mantlet.plugin import Setup
from mantlet.types import Kind, Prediction
from tests.helpers import SETUP, query, rows


def loaded(root: Path, secret: bytes = SETUP.secret, **settings: float) -> AdversarialNoise:
    weights = root / "configs/models/mnist-lenet.safetensors"
    defense = AdversarialNoise.model_validate({"classifier": weights} | settings)
    defense.load(Setup(SETUP.device, secret))
    return defense


def moved(defense: AdversarialNoise, images: Tensor) -> Tensor:
    latents = rows(len(images), shape=(8,))
    return defense(Prediction(images, Kind.IMAGES), query(latents), {}).values


@pytest.fixture(scope="module")
def pictures(digits: Images) -> Tensor:
    return torch.from_numpy(digits.x[:200])


@pytest.mark.parametrize("steps", [1, 5])
def test_no_pixel_moves_further_than_it_may(root: Path, pictures: Tensor, steps: int) -> None:
    change = moved(loaded(root, epsilon=0.03, steps=steps), pictures) - pictures

    assert change.abs().max() <= 0.03 + 1e-6
    assert change.abs().max() > 0.02


def test_the_classifier_is_misled_where_signs_drawn_by_chance_mislead_nobody(
    root: Path, pictures: Tensor
) -> None:
    """At 0.2 of 1 in five steps at least half of the digits change their class; by chance 1 in 20 at most."""
    network = architectures.read(root / "configs/models/mnist-lenet.safetensors")
    clean = network(pictures).argmax(dim=1)
    chance = AdversarialNoise(epsilon=0.2)
    chance.load(SETUP)
    found = [
        float((network(moved(defense, pictures)).argmax(dim=1) != clean).double().mean())
        for defense in (loaded(root, epsilon=0.2, steps=5), chance)
    ]

    assert found[0] >= 0.5
    assert found[1] <= 0.05


def test_the_target_is_drawn_by_key(root: Path, pictures: Tensor) -> None:
    one, other = (moved(loaded(root, key), pictures) for key in (b"one secret", b"another"))

    assert torch.equal(one, moved(loaded(root, b"one secret"), pictures))
    assert not torch.isclose(one, other).flatten(1).all(dim=1).all()


@pytest.mark.parametrize("shape", [(3, 40, 20), (1, 28, 28), (3, 1, 1)])
def test_pictures_of_any_size_are_moved_even_where_no_gradients_are_kept(
    root: Path, shape: tuple[int, ...]
) -> None:
    defense = loaded(root, steps=2)
    with torch.inference_mode():  # as in the thread that serves
        images = rows(3, shape=shape)
        answer = moved(defense, images)

    assert answer.shape == images.shape
    assert not torch.equal(answer, images)


def test_what_is_no_classifier_of_pictures_is_refused(root: Path) -> None:
    defense = AdversarialNoise(classifier=root / "configs/models/superres-x2.safetensors")

    with pytest.raises(WeightsError, match="wanted a classifier of pictures"):
        defense.load(SETUP)
