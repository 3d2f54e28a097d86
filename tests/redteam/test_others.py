"""Another victim than the shipped one: trained once, and watched by detectors without the shipped one's files."""

import json
from pathlib import Path

import numpy as np
import pytest

from detectors.coverage import Coverage
from detectors.foreign import Foreign
from detectors.rate import Rate
from mantlet import weights
from mantlet.data import Images
from mantlet.errors import ConfigError
from redteam import others

RECIPE = """
architecture: lenet
settings: {width: 2}
epochs: 1
holdout: 0
output: unused.safetensors
"""


def test_a_victim_is_trained_once(tmp_path: Path, digits: Images) -> None:
    recipe, data = tmp_path / "recipe.yaml", tmp_path / "digits.npz"
    path = tmp_path / "made" / "w.safetensors"
    recipe.write_text(RECIPE)
    np.savez(data, x_train=digits.x[:300], y_train=digits.y[:300])  # type: ignore[index]
    others.trained(path, recipe, data, "digits")
    made = path.read_bytes()
    others.trained(path, tmp_path / "no recipe.yaml", data, "digits")

    assert path.read_bytes() == made
    assert json.loads(weights.metadata(path)["recipe"])["settings"] == {"width": 2}


def test_pictures_that_are_missing_are_named(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)

    with pytest.raises(ConfigError, match=r"none\.npz': no such file"):
        others.trained(tmp_path / "w", tmp_path / "recipe.yaml", tmp_path / "none.npz", "digits")


def test_what_was_made_for_the_shipped_model_is_left_out(tmp_path: Path) -> None:
    shipped = (
        Foreign(classifier=tmp_path / "c.safetensors", quantile=0.98),
        Coverage(curve=tmp_path / "curve.json", planes=8),
        Rate(rows=5, window_s=1),
    )

    assert others.general(shipped) == (Foreign(quantile=0.98), Coverage(planes=8), shipped[2])
