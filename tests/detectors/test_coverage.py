"""Cells of feature space, and the progress that a measured curve makes of them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detectors.coverage import Coverage
from mantlet.errors import CalibrationError, ConfigError
from mantlet.plugin import Setup
from tests.helpers import SETUP, TinyVictim, query, rows

CURVE: dict[str, Any] = {
    "planes": 6,
    "pools": [
        {"pool": "own", "rows": [10, 100], "cells": [8, 40], "agreement": [0.5, 0.95]},
        {"pool": "foreign", "rows": [10, 100], "cells": [4, 20], "agreement": [0.3, 0.6]},
    ],
}


def written(path: Path, curve: object = CURVE) -> Path:
    path.write_text(json.dumps(curve))
    return path


def calibrated(detector: Coverage, *, bare: bool = False) -> Coverage:
    inputs = rows(600, seed=1)
    answer = TinyVictim().predict(inputs)
    if bare:
        answer = replace(answer, features=None, logits=None)
    learned = detector.calibrate(query(inputs), answer)
    detector.load(Setup(SETUP.device, SETUP.secret, learned))
    return detector


def progress(detector: Coverage, inputs: torch.Tensor) -> np.ndarray:
    """(n,) after each row of one client."""
    scores = detector.score(query(inputs), TinyVictim().predict(inputs)).numpy()
    return detector.update(detector.initial(), scores, 0.0)[1]


def test_progress_rises_with_rows_that_are_unlike_and_not_with_repeats() -> None:
    detector = calibrated(Coverage())
    seen = progress(detector, rows(300, seed=2))
    repeated = progress(detector, rows(1, seed=2).repeat(300, 1, 1, 1))

    assert (np.diff(seen) >= 0).all()
    assert seen[-1] > 3 * seen[20] > 0
    assert repeated[0] == repeated[-1]


def test_without_a_curve_it_is_the_share_of_the_cells_that_benign_rows_opened() -> None:
    detector = calibrated(Coverage(planes=4))
    score = detector.score(query(rows(500)), TinyVictim().predict(rows(500)))

    assert len(score.unique()) == 16
    assert progress(detector, rows(500))[-1] == 1.0


def test_with_a_curve_it_is_the_share_of_the_rows_that_a_clone_needed(tmp_path: Path) -> None:
    """The clone of the own pool reaches 0.95 with 100 rows, which open 40 cells; the other never does."""
    detector = Coverage(planes=6, curve=written(tmp_path / "c.json"), agreement=0.95)
    calibrated(detector)

    assert np.allclose(detector._progress(np.array([0, 8, 24, 40, 60])), [0, 0.1, 0.55, 1, 1])


def test_an_agreement_between_two_budgets_is_interpolated_in_the_logarithm(tmp_path: Path) -> None:
    detector = Coverage(planes=6, curve=written(tmp_path / "c.json"), agreement=0.725)
    calibrated(detector)

    assert np.isclose(detector._progress(np.array([8]))[0], 10 / np.sqrt(1000))


def test_it_never_alarms_unless_it_is_told_when() -> None:
    quiet, loud = calibrated(Coverage(planes=4)), calibrated(Coverage(planes=4, alarm_at=0.5))
    inputs = rows(500)
    scores = quiet.score(query(inputs), TinyVictim().predict(inputs)).numpy()
    _, _, never = quiet.update(quiet.initial(), scores, 0.0)
    _, suspicion, alarm = loud.update(loud.initial(), scores, 0.0)

    assert not never.any()
    assert not quiet.enforces
    assert loud.enforces
    assert alarm.any()
    assert suspicion[alarm].min() == 1.0
    assert (suspicion[~alarm] < 0.5).all()


def test_a_victim_that_shows_no_features_is_watched_by_its_inputs() -> None:
    detector = calibrated(Coverage(), bare=True)

    assert detector._learned["normals"].shape == (16, 12)


def test_a_memory_is_one_bit_a_cell_and_one_of_other_planes_starts_anew() -> None:
    assert Coverage().initial()["cells"].nbytes == 512
    assert not Coverage().fits(Coverage(planes=11).initial())


@pytest.mark.parametrize(
    ("curve", "words"),
    [
        ({"planes": 6}, "cannot be read"),
        ({**CURVE, "planes": 7}, "was measured with 7 planes; the detector has 6"),
        ([1], "cannot be read"),
        ({**CURVE, "pools": [{**CURVE["pools"][0], "cells": [1]}]}, "lists of one length"),
        ({**CURVE, "pools": CURVE["pools"][1:]}, r"no clone reached .* of 0\.9, the best 0\.6"),
        ({**CURVE, "pools": []}, "names no pool"),
    ],
)
def test_a_curve_that_is_none_is_named(tmp_path: Path, curve: object, words: str) -> None:
    detector = Coverage(planes=6, curve=written(tmp_path / "c.json", curve))

    with pytest.raises(ConfigError, match=words):
        detector.load(SETUP)


def test_a_missing_curve_is_named_with_the_command_that_makes_it() -> None:
    with pytest.raises(
        ConfigError, match=r"no such file; run: python -m redteam\.detection\.curve CONFIG"
    ):
        Coverage(curve=Path("/none.json")).load(SETUP)


def test_a_calibration_of_other_planes_is_refused() -> None:
    learned = Coverage(planes=5).calibrate(query(rows(300)), TinyVictim().predict(rows(300)))

    with pytest.raises(CalibrationError, match="has 5 planes, its settings 12"):
        Coverage().load(Setup(SETUP.device, SETUP.secret, learned))
    with pytest.raises(CalibrationError, match="199 benign rows are too few for a median"):
        Coverage().calibrate(query(rows(199)), TinyVictim().predict(rows(199)))
