"""The window test: on rows whose distribution is known, and on the shipped model's digits."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from detectors.shift import Shift
from mantlet.data import Images
from mantlet.errors import CalibrationError
from mantlet.plugin import Setup
from mantlet.types import Prediction
from serving.victims.torch import TorchVictim
from tests.helpers import SETUP, TinyVictim, query, rows


def answered(features: torch.Tensor, label: torch.Tensor) -> Prediction:
    """A prediction of two classes with these features."""
    values = torch.nn.functional.one_hot(label, 2).float()
    return replace(TinyVictim().predict(torch.zeros(1, 1, 4, 4)), values=values, features=features)


def drawn(count: int, *, seed: int, moved: float = 0.0) -> tuple[torch.Tensor, Prediction]:
    """Rows of two classes, far apart in the four features; ``moved`` moves them all."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(2, (count,), generator=generator)
    features = torch.randn(count, 4, generator=generator) + 6.0 * label[:, None] + moved
    return torch.zeros(count, 1, 4, 4), answered(features, label)


def calibrated(detector: Shift, inputs: torch.Tensor, answer: Prediction) -> Shift:
    learned = detector.calibrate(query(inputs), answer)
    detector.load(Setup(SETUP.device, SETUP.secret, learned))
    return detector


def windows(detector: Shift, inputs: torch.Tensor, answer: Prediction) -> np.ndarray:
    """Scores of the windows of one client."""
    scores = detector.score(query(inputs), answer).numpy()
    _, said = detector.watch(detector.initial(), scores, 0.0)
    return said[~np.isnan(said)]


@pytest.fixture(scope="module")
def known() -> Shift:
    return calibrated(Shift(slack=1.5), *drawn(2000, seed=1))


def test_windows_of_benign_rows_are_not_flagged(known: Shift) -> None:
    said = windows(known, *drawn(2000, seed=2))

    assert len(said) == 80
    assert said.mean() < 0.05


def test_windows_of_moved_rows_are_flagged(known: Shift) -> None:
    assert windows(known, *drawn(500, seed=3, moved=2.0)).mean() > 0.95


def test_a_client_of_one_class_is_not_taken_for_a_thief(known: Shift) -> None:
    """Without the class the mean of its rows would be far from that of all."""
    inputs, answer = drawn(2000, seed=4)
    one = answer.values[:, 1] == 1
    assert answer.features is not None
    only = replace(answer, values=answer.values[one], features=answer.features[one])

    assert windows(known, inputs[one], only).mean() < 0.05


def test_a_score_comes_with_the_last_row_of_a_window_and_the_others_abstain(known: Shift) -> None:
    inputs, answer = drawn(60, seed=5)
    scores = known.score(query(inputs), answer).numpy()
    state, said = known.watch(known.initial(), scores, 0.0)

    assert np.flatnonzero(~np.isnan(said[:, 0])).tolist() == [24, 49]
    assert state["rows"].tolist() == [10]


def test_a_victim_that_shows_no_features_is_watched_by_its_inputs() -> None:
    benign = rows(1000, seed=1)
    bare = replace(TinyVictim().predict(benign), features=None, logits=None)
    detector = calibrated(Shift(), benign, bare)
    dark = 0.3 * rows(200, seed=2)
    others = replace(TinyVictim().predict(dark), features=None, logits=None)

    assert windows(detector, benign, bare).mean() < 0.05
    assert windows(detector, dark, others).mean() > 0.95


def test_inputs_of_many_numbers_are_projected_first() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(400, 1, 40, 40, generator=generator)
    answer = answered(torch.zeros(400, 4), torch.zeros(400, dtype=torch.long))
    detector = calibrated(Shift(), inputs, replace(answer, features=None))

    assert detector._learned["axes"].shape == (1600, 64)


def test_honest_digits_pass_and_inverted_ones_do_not(
    shipped_victim: TorchVictim, digits: Images
) -> None:
    inputs = torch.from_numpy(digits.x[:3000])
    detector = calibrated(Shift(), inputs[:2000], shipped_victim.predict(inputs[:2000]))
    inverted = 1.0 - inputs[2000:]

    assert not windows(detector, inputs[2000:], shipped_victim.predict(inputs[2000:])).any()
    assert windows(detector, inverted, shipped_victim.predict(inverted)).mean() > 0.9


def test_too_few_rows_for_the_windows_are_refused() -> None:
    inputs = rows(450)
    answer = TinyVictim().predict(inputs)

    with pytest.raises(CalibrationError, match=r"399 benign rows are too few .* at least 400"):
        Shift().calibrate(query(inputs[:399]), TinyVictim().predict(inputs[:399]))
    with pytest.raises(CalibrationError, match=r"windows of 200; give at least 800"):
        Shift(window=200).calibrate(query(inputs), answer)


def test_a_memory_of_other_frequencies_starts_anew() -> None:
    assert not Shift().fits(Shift(frequencies=32).initial())
    assert Shift().fits(Shift().initial())
