"""A suspect that translates is known by the owner's filter alone, and what is said is no more than it shows."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from defenses.high_band_dither import HighBandDither
from mantlet import weights
from mantlet.architectures import build
from mantlet.errors import ConfigError
from mantlet.plugin import Setup
from mantlet.types import Kind, Prediction, Query
from serving.generator_ownership import Reading, Report
from serving.settings import Settings
from serving.suspects import Opening
from serving.translator_ownership import marks, read, verdict, verify
from tests.e2e.harness import GENERATOR, gateway
from tests.helpers import config
from tests.redteam.targets import TRANSLATOR

SECRET = "the secret of the owner"
SUPERRES = "configs/models/superres-x2.safetensors"
OPENING = Opening("superres", TRANSLATOR["victim"]["settings"])  # type: ignore[arg-type]  # one of its values
DITHERED: Mapping[str, Any] = {"defenses": [{"type": "high_band_dither"}], "policy": []}


def settings(root: Path, folder: Path, **models: Any) -> Settings:
    """Of a translator whose pictures carry the filter, unless other models are given."""
    raw = config(root, folder, secret=SECRET)
    raw["models"] = models or {"enlarged": TRANSLATOR | dict(DITHERED)}
    return Settings.model_validate(raw)


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    """(48, 3, 24, 24) of coloured fields with edges."""
    rough = np.random.default_rng(0).uniform(0.1, 0.9, (48, 3, 8, 8)).astype(np.float32)
    return rough.repeat(3, axis=2).repeat(3, axis=3)


@pytest.fixture(scope="module")
def clean(root: Path, pictures: np.ndarray) -> Tensor:
    network = build("superres", OPENING.settings)
    weights.load_into(network, root / SUPERRES, "superres")
    with torch.inference_mode():
        answers: Tensor = network(torch.from_numpy(pictures)).clamp(0, 1)
    return answers


def dithered(clean: Tensor, secret: str = SECRET) -> Tensor:
    defense = HighBandDither()
    defense.load(Setup(torch.device("cpu"), secret.encode()))
    answer = Prediction(clean, Kind.IMAGES)
    return defense(answer, Query(["ann"] * len(clean), clean, 0.0), {}).values


def changed(root: Path, folder: Path, change: Callable[[str, Tensor], Tensor]) -> str:
    """The shipped enlarger with other weights."""
    network = build("superres", OPENING.settings)
    state = load_file(root / SUPERRES)
    network.load_state_dict({name: change(name, weight) for name, weight in state.items()})
    weights.save(network, folder / "other.safetensors", {})
    return str(folder / "other.safetensors")


def test_the_filter_is_read_with_the_owners_secret_alone(clean: Tensor) -> None:
    made = dithered(clean)
    reading = read("copy", made, clean, SECRET.encode())

    assert reading.p <= 1e-6
    assert list(reading.along) == [16, 32, 48]
    assert reading.needed is not None
    assert read("copy", made, clean, b"another").p > 0.01


def test_a_served_model_with_the_filter_is_found_beside_an_independent_file(
    root: Path, tmp_path: Path, pictures: np.ndarray
) -> None:
    other = changed(root, tmp_path, lambda name, weight: weight * 0.98)
    own = settings(root, tmp_path)
    served = {
        "identity": {"open": True},
        "secret": SECRET,
        "models": {"enlarged": TRANSLATOR | dict(DITHERED)},
    }
    with gateway(tmp_path / "served", served) as running:
        address = f"{running.url}/v2/models/enlarged"
        report = verify(own, pictures, address, independent=[other], opening=OPENING, count=40)

    assert report.found
    assert report.suspect.pictures == 40
    assert report.independent[0].p > 0.01


def test_the_model_itself_shows_nothing(root: Path, tmp_path: Path, pictures: np.ndarray) -> None:
    own = settings(root, tmp_path)
    report = verify(own, pictures, str(root / SUPERRES), opening=OPENING)

    assert report.suspect.p == 1.0
    assert not report.found


def test_suspects_that_cannot_be_compared_are_named(
    root: Path, tmp_path: Path, pictures: np.ndarray
) -> None:
    own = settings(root, tmp_path)
    larger = build("superres", {"scale": 4, "channels": 3, "width": 4})
    weights.save(larger, tmp_path / "x4.safetensors", {})
    lenet = root / "configs/models/mnist-lenet.safetensors"
    for suspect, opening, telling in (
        (lenet, Opening("lenet"), "is there to classify, and not to translate"),
        (root / SUPERRES, Opening(), "name their --architecture"),
        (
            tmp_path / "x4.safetensors",
            Opening("superres", {"scale": 4, "channels": 3, "width": 4}),
            r"makes pictures of \(3, 96, 96\), and the protected model \(3, 48, 48\)",
        ),
    ):
        with pytest.raises(ConfigError, match=telling):
            verify(own, pictures, str(suspect), opening=opening)


def test_a_suspect_of_brightness_is_asked_about_that_of_colours(
    root: Path, tmp_path: Path, pictures: np.ndarray
) -> None:
    fsrcnn = root / "tests/data/models/sr_fsrcnn_x2.onnx"
    report = verify(settings(root, tmp_path), pictures, str(fsrcnn))

    assert report.suspect.p > 0.01
    assert report.suspect.pictures == 48


def test_a_suspect_of_colours_is_none_of_a_grey_model(
    root: Path, tmp_path: Path, pictures: np.ndarray
) -> None:
    about = {"scale": 2, "channels": 1, "width": 4}
    weights.save(build("superres", about), tmp_path / "grey.safetensors", {})
    victim = {"type": "torch", "weights": str(tmp_path / "grey.safetensors")}
    victim |= {"architecture": "superres", "settings": about}
    own = settings(root, tmp_path, grey={"victim": victim, **DITHERED})

    with pytest.raises(ConfigError, match=r"takes pictures of \(3, -1, -1\), and those of --que"):
        verify(own, pictures[:, :1], str(root / SUPERRES), opening=OPENING)


def test_configs_and_pictures_that_say_nothing_are_named(
    root: Path, tmp_path: Path, pictures: np.ndarray
) -> None:
    own, plain = settings(root, tmp_path), settings(root, tmp_path, plain=TRANSLATOR)
    digits = settings(root, tmp_path, digits=GENERATOR | dict(DITHERED))

    assert marks(own)
    assert not marks(plain)
    with pytest.raises(ConfigError, match="model 'plain' has no defense 'high_band_dither'"):
        verify(plain, pictures, "a.onnx")
    with pytest.raises(ConfigError, match="is there to generate, and not to translate"):
        verify(digits, pictures, "a.onnx")
    with pytest.raises(ConfigError, match=r"--queries have shape \(2, 24, 24\); the model takes"):
        verify(own, pictures[:, :2], "a.onnx")


@pytest.mark.parametrize(
    ("p", "other", "telling"),
    [
        (1e-9, 0.5, "has learned the filter"),
        (0.5, 0.5, "The filter is not shown"),
        (1e-9, 1e-9, "this proves nothing"),
    ],
)
def test_verdicts_say_what_they_do_not_show(p: float, other: float, telling: str) -> None:
    said = verdict(Report(Reading("m", 20, p, {20: p}), [Reading("i", 20, other, {20: other})]))

    assert telling in said[0]
    assert "never sole proof" in said[1]
