"""``mantlet calibrate``, without its command line."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mantlet.data import Images
from mantlet.errors import CalibrationError, ConfigError
from serving import calibration, settings
from serving.calibrating import calibrate_model
from serving.settings import Settings
from tests.helpers import config, write_config


def load(root: Path, tmp_path: Path, **model: Any) -> Settings:
    raw = config(root, tmp_path)
    raw["models"]["mnist"] |= {"calibration": str(tmp_path / "new.safetensors")} | model
    return settings.load(write_config(tmp_path / "gateway.yaml", raw))


def test_it_writes_the_file_that_serve_reads_and_tells_what_it_found(
    root: Path, tmp_path: Path, digits: Images
) -> None:
    loaded = load(root, tmp_path)
    lines = calibrate_model(loaded, "", digits.x[-600:])
    learned, made_for = calibration.read(tmp_path / "new.safetensors")
    shipped, weights = calibration.read(root / "configs/models/mnist-lenet.calibration.safetensors")

    assert made_for == weights
    assert learned["foreign"].keys() == shipped["foreign"].keys()
    assert lines[0] == f"calibration: {tmp_path / 'new.safetensors'} (600 rows)"
    (bounds,) = [line for line in lines if line.startswith("  foreign.tolerated: 0.")]
    assert bounds.count(", 0.") == 2, "one for each of its three distances"


def test_a_calibration_that_does_not_exist_yet_is_no_mistake(
    root: Path, tmp_path: Path, digits: Images
) -> None:
    loaded = load(root, tmp_path)
    assert not (tmp_path / "new.safetensors").exists()

    calibrate_model(loaded, "mnist", digits.x[:300])

    assert (tmp_path / "new.safetensors").exists()


def test_a_model_must_be_named_where_there_are_several(root: Path, tmp_path: Path) -> None:
    raw = config(root, tmp_path)
    raw["models"]["second"] = raw["models"]["mnist"]
    loaded = settings.load(write_config(tmp_path / "gateway.yaml", raw))
    nothing = np.zeros((1, 1, 28, 28), np.float32)

    with pytest.raises(ConfigError, match="has models mnist, second; name one with --model"):
        calibrate_model(loaded, "", nothing)
    with pytest.raises(ConfigError, match=r"model 'secnd' is unknown; did you mean 'second'"):
        calibrate_model(loaded, "secnd", nothing)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"calibration": None}, r"models\.mnist\.calibration is not set; name the file to write"),
        ({"detectors": ["rate"]}, "none of them needs a calibration; add foreign"),
    ],
)
def test_a_model_that_cannot_be_calibrated_is_named(
    root: Path, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        calibrate_model(load(root, tmp_path, **changes), "", np.zeros((1, 1, 28, 28), np.float32))


def test_rows_of_another_shape_are_refused_and_nothing_is_written(
    root: Path, tmp_path: Path
) -> None:
    with pytest.raises(CalibrationError, match=r"have shape \(3, 32, 32\); model 'mnist' takes"):
        calibrate_model(load(root, tmp_path), "", np.zeros((300, 3, 32, 32), np.float32))
    assert not (tmp_path / "new.safetensors").exists()
