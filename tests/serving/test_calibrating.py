"""``mantlet calibrate``, without its command line."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
from PIL import Image

from mantlet.data import Images
from mantlet.errors import CalibrationError, ConfigError
from serving import calibration, settings
from serving.calibrating import calibrate_model
from serving.settings import Settings
from tests.helpers import config, write_config


def load(root: Path, tmp_path: Path, **model: Any) -> Settings:
    raw = config(root, tmp_path)
    raw["tiers"] |= {"dark": {}}
    raw["models"]["mnist"] |= {"calibration": str(tmp_path / "new.safetensors")} | model
    return settings.load(write_config(tmp_path / "gateway.yaml", raw))


def test_it_writes_the_file_that_serve_reads_and_tells_what_it_found(
    root: Path, tmp_path: Path, digits: Images
) -> None:
    loaded = load(root, tmp_path)
    report = calibrate_model(loaded, "", digits.x[-600:])
    learned, made_for = calibration.read(tmp_path / "new.safetensors")
    shipped, weights = calibration.read(root / "configs/models/mnist-ini.calibration.safetensors")

    assert made_for == weights
    assert learned["foreign"].keys() == shipped["foreign"].keys()
    assert report.path == tmp_path / "new.safetensors"
    own = [column for column in report.columns if column.detector == "foreign"]
    assert [column.number for column in own] == [1, 2, 3, 4]
    assert [column.tolerated for column in own] == learned["foreign"]["tolerated"].tolist()
    assert all(0 <= c.quantiles[0] <= c.quantiles[2] <= c.tolerated for c in report.columns)
    assert report.notes[0].startswith("alarms: at most one honest client in 1,000,000")


def test_the_picture_lies_beside_the_file(root: Path, tmp_path: Path, digits: Images) -> None:
    report = calibrate_model(load(root, tmp_path), "", digits.x[-600:])

    assert report.notes[1] == f"picture: {tmp_path / 'new.png'}"
    with Image.open(tmp_path / "new.png") as picture:
        assert picture.size > (400, 300)


def test_without_matplotlib_there_is_a_hint_and_a_calibration(
    root: Path, tmp_path: Path, digits: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    report = calibrate_model(load(root, tmp_path), "", digits.x[-600:])

    assert "pip install 'mantlet[pictures]'" in report.notes[1]
    assert (tmp_path / "new.safetensors").exists()
    assert not (tmp_path / "new.png").exists()


def test_a_tier_is_enrolled_in_the_calibration_that_is_there(
    root: Path, tmp_path: Path, digits: Images
) -> None:
    """Clients whose pictures are dark may reach more than others; nothing else is touched."""
    loaded = load(root, tmp_path)
    calibrate_model(loaded, "", digits.x[:2000])
    before, _ = calibration.read(tmp_path / "new.safetensors")
    report = calibrate_model(loaded, "", 0.4 * digits.x[2000:2600], tier="dark")
    after, _ = calibration.read(tmp_path / "new.safetensors")
    own = after["foreign"]["tolerated.dark"]

    assert own.max() > 2 * before["foreign"]["tolerated"].max()
    assert [c.tolerated for c in report.columns if c.detector == "foreign"] == own.tolist()
    assert report.notes[1] == f"picture: {tmp_path / 'new.dark.png'}"
    assert all(np.array_equal(after["foreign"][f], a) for f, a in before["foreign"].items())


def test_a_tier_is_not_enrolled_in_the_calibration_of_other_weights(
    root: Path, tmp_path: Path, digits: Images
) -> None:
    loaded = load(root, tmp_path)
    shipped, _ = calibration.read(root / "configs/models/mnist-ini.calibration.safetensors")
    calibration.write(tmp_path / "new.safetensors", shipped, "0" * 64)

    with pytest.raises(
        CalibrationError, match=r"for weights 0{12}, the model has .* without --tier"
    ):
        calibrate_model(loaded, "", digits.x[:300], tier="default")
    calibration.write(tmp_path / "new.safetensors", {}, weights_of(root))
    with pytest.raises(CalibrationError, match="has none of the model's detectors"):
        calibrate_model(loaded, "", digits.x[:300], tier="default")


def weights_of(root: Path) -> str:
    return calibration.read(root / "configs/models/mnist-ini.calibration.safetensors")[1]


def test_rows_whose_halves_are_not_alike_are_refused_unless_the_operator_wants_them(
    root: Path, tmp_path: Path, digits: Images
) -> None:
    mixed = np.concatenate([digits.x[:1000], digits.x[1000:2000, :, ::-1]])
    detectors = [{"type": "foreign", "measures": ["residual"]}]
    loaded = load(root, tmp_path, detectors=detectors, policy=[])

    with pytest.raises(CalibrationError, match=r"mixed traffic: by detector 'foreign', score 1"):
        calibrate_model(loaded, "", mixed)
    assert not (tmp_path / "new.safetensors").exists()
    calibrate_model(loaded, "", mixed, mixed=True)
    assert (tmp_path / "new.safetensors").exists()


def test_too_few_rows_and_rows_with_nan_are_refused(
    root: Path, tmp_path: Path, digits: Images
) -> None:
    holed = digits.x[:300].copy()
    holed[5:8, 0, 3, 3] = np.nan

    with pytest.raises(CalibrationError, match="199 benign rows are too few; give at least 200"):
        calibrate_model(load(root, tmp_path), "", digits.x[:199])
    with pytest.raises(CalibrationError, match="3 of the benign rows hold NaN or infinity"):
        calibrate_model(load(root, tmp_path), "", holed)


def test_a_calibration_that_does_not_exist_yet_is_no_mistake(
    root: Path, tmp_path: Path, digits: Images
) -> None:
    loaded = load(root, tmp_path)
    assert not (tmp_path / "new.safetensors").exists()

    with structlog.testing.capture_logs() as logged:
        calibrate_model(loaded, "mnist", digits.x[:600])

    assert (tmp_path / "new.safetensors").exists()
    assert not [entry for entry in logged if entry["log_level"] == "warning"]


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


def test_a_generator_is_calibrated_by_latents_that_are_drawn(root: Path, tmp_path: Path) -> None:
    override = [f"models.digits.calibration={tmp_path / 'new.safetensors'}", f"data_dir={tmp_path}"]
    loaded = settings.load(root / "configs/gateway/gan.yaml", override)
    report = calibrate_model(loaded, "", None)
    learned, _ = calibration.read(tmp_path / "new.safetensors")

    assert report.rows == 5000
    assert report.columns == report.notes == []
    assert learned.keys() == {"coverage"}


def test_what_is_no_generator_needs_benign_rows(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name its benign rows with --benign"):
        calibrate_model(load(root, tmp_path), "", None)
