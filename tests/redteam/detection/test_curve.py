"""The extraction curve of a small victim, measured end to end."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detectors.coverage import Coverage
from mantlet.data import Images
from mantlet.errors import ConfigError
from mantlet.plugin import Setup
from redteam.detection import curve
from redteam.learning import Means
from redteam.treatments.augment import Augment
from serving import calibration
from serving.pipeline import Pipeline
from serving.victims.torch import TorchVictim
from tests.helpers import SETUP, TinyVictim

THIEF = Means(torch.zeros(1, 1, 28, 28))


@pytest.fixture(scope="module")
def measured(shipped_victim: TorchVictim, digits: Images) -> dict[str, Any]:
    coverage = Coverage(planes=8)
    learned = calibration.learn(shipped_victim, [coverage], digits.x[:600])
    coverage.load(Setup(SETUP.device, SETUP.secret, learned["coverage"]))
    return curve.measure(
        Pipeline(shipped_victim, [coverage]),
        {
            "own": digits.x[1000:3000],
            "noise": np.random.default_rng(0).random((300, 1, 28, 28), np.float32),
        },
        digits.x[-500:],
        thief=THIEF,
        budgets=(20, 200),
        steps=200,
    )


def test_more_rows_open_more_cells_and_make_a_better_clone(measured: dict[str, Any]) -> None:
    own = measured["pools"][0]

    assert own["rows"] == [20, 200]
    assert own["cells"][1] > 2 * own["cells"][0] > 0
    assert own["agreement"][1] > own["agreement"][0] + 0.1


def test_own_pictures_make_a_better_clone_than_noise(measured: dict[str, Any]) -> None:
    own, noise = (pool["agreement"][1] for pool in measured["pools"])

    assert own > noise + 0.2


def test_the_curve_says_how_its_thief_learned(measured: dict[str, Any]) -> None:
    clone = measured["clone"]

    assert clone["steps"] == 200
    assert [Augment.model_validate(t) for t in clone["treatments"]] == [curve.AUGMENT]


def test_coverage_reads_what_was_measured(
    measured: dict[str, Any], shipped_victim: TorchVictim, tmp_path: Path
) -> None:
    path = tmp_path / "curve.json"
    path.write_text(json.dumps(measured))
    best = measured["pools"][0]["agreement"][1]
    detector = Coverage(planes=8, curve=path, agreement=best - 0.01)
    detector.load(SETUP)

    assert measured["victim"] == shipped_victim.fingerprint
    assert len(detector._curves) == 1, "the clones of noise never got there"


def test_the_shipped_curve_is_of_the_shipped_model(root: Path, shipped_victim: TorchVictim) -> None:
    table = json.loads((root / "configs/models/mnist-ini.curve.json").read_text())
    own, foreign = (np.array(pool["agreement"]) for pool in table["pools"])

    assert table["victim"] == shipped_victim.fingerprint
    assert own[-1] > 0.95
    assert table["clone"]["treatments"] == [curve.AUGMENT.model_dump()]
    assert table["clone"]["steps"] == curve.STEPS
    assert (own > foreign).all()
    assert torch.equal(torch.tensor(table["pools"][0]["rows"]), torch.tensor(curve.BUDGETS))


def test_a_model_without_coverage_is_named() -> None:
    with pytest.raises(ConfigError, match="no detector of type coverage"):
        curve.measure(Pipeline(TinyVictim()), {}, np.zeros((1, 1, 4, 4)), thief=THIEF)
