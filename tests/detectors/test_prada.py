"""PRADA, on the shipped MNIST model and on distances of a known law."""

import numpy as np
import pytest
import torch
from scipy.stats import shapiro

from detectors.prada import Prada
from mantlet.data import Images
from mantlet.errors import CalibrationError
from mantlet.plugin import Setup
from mantlet.types import State
from redteam.attacks.jbda import Jbda
from redteam.client.oracle import InProcess
from redteam.learning import Means, Training
from serving.pipeline import Pipeline
from serving.victims.torch import TorchVictim
from tests.helpers import SETUP, TinyVictim, query, rows

PUBLISHED = Prada(delta=0.96, persistence=1, dimensions=0, capacity=20_000, window=5000)


@pytest.fixture(scope="module")
def calibrated(shipped_victim: TorchVictim, digits: Images) -> Prada:
    benign = torch.from_numpy(digits.x[:800])
    detector = Prada()
    learned = detector.calibrate(query(benign), shipped_victim.predict(benign))
    detector.load(Setup(SETUP.device, SETUP.secret, learned))
    return detector


def follow(
    detector: Prada, victim: TorchVictim, inputs: torch.Tensor
) -> tuple[State, np.ndarray, np.ndarray]:
    scores = detector.score(query(inputs), victim.predict(inputs)).double().numpy()
    return detector.update(detector.initial(), scores, 0.0)


@pytest.fixture(scope="module")
def attack(shipped_victim: TorchVictim, digits: Images) -> torch.Tensor:
    """The first two rounds after 150 seeds: 600 rows."""
    oracle = InProcess(Pipeline(shipped_victim), recording=True)
    seeds = torch.from_numpy(digits.x[5000:5150])
    attack = Jbda(training=Training(steps=1))
    attack.run(oracle, Means(seeds), budget=600, generator=torch.Generator().manual_seed(0))
    return torch.cat(oracle.sent)


def test_jbda_is_alarmed_and_honest_digits_are_not(
    calibrated: Prada, shipped_victim: TorchVictim, digits: Images, attack: torch.Tensor
) -> None:
    honest = torch.from_numpy(digits.x[2000:2600])
    _, _, alarm = follow(calibrated, shipped_victim, attack)

    assert not follow(calibrated, shipped_victim, honest)[2].any()
    assert 100 < alarm.argmax() + 1 <= 400


def test_as_published_w_is_lower_for_jbda_than_for_honest_digits(
    shipped_victim: TorchVictim, digits: Images, attack: torch.Tensor
) -> None:
    """B1(c) of the acceptance checks: at most 0.95 against 0.97 or more."""
    honest = torch.from_numpy(digits.x[2000:2600])
    w_honest = float(follow(PUBLISHED, shipped_victim, honest)[0]["w"][0])
    w_attack = float(follow(PUBLISHED, shipped_victim, attack)[0]["w"][0])

    assert w_attack <= 0.95
    assert w_honest >= 0.97


def line(distances: np.ndarray) -> np.ndarray:
    """Rows of one class on a line, each as far from its predecessor, the nearest, as is told."""
    places = np.concatenate([[0.0], np.cumsum(distances)])
    return np.column_stack([np.zeros(len(places)), places])


PLAIN = Prada(delta=0.95, persistence=2, dimensions=0, capacity=1000)


def test_the_statistic_is_that_of_the_least_distances() -> None:
    """Of those noted until row 300, within three deviations, as SciPy gives it."""
    distances = 10 + np.random.default_rng(0).standard_normal(300)
    distances[50] = 1000.0
    state, _, _ = PLAIN.update(PLAIN.initial(), line(distances), 0.0)
    noted = state["distances"][:299, 0]
    near = noted[np.abs(noted - noted.mean()) <= 3 * noted.std()]

    assert len(near) == 298
    assert float(state["w"][0]) == pytest.approx(shapiro(near)[0], rel=1e-6)


def test_the_alarm_comes_with_the_last_of_so_many_breaches() -> None:
    skewed = 1 + np.random.default_rng(0).exponential(size=200)
    _, suspicion, alarm = PLAIN.update(PLAIN.initial(), line(skewed), 0.0)

    assert not suspicion[:101].any()
    assert sorted(set(suspicion.tolist())) == [0.0, 0.5, 1.0]
    assert (alarm == (suspicion == 1.0)).all()
    assert alarm.argmax() - (suspicion == 0.5).argmax() == 10


def test_rows_sent_again_are_not_noted() -> None:
    twice = np.repeat(line(10 + np.random.default_rng(0).standard_normal(150)), 2, axis=0)
    state, _, alarm = PLAIN.update(PLAIN.initial(), twice, 0.0)

    assert (state["distances"][:, 0] > 0).all()
    assert not alarm.any()


def test_distances_all_the_same_have_no_statistic() -> None:
    state, suspicion, _ = PLAIN.update(PLAIN.initial(), line(np.ones(300)), 0.0)

    assert state["w"][0] == 1.0
    assert not suspicion.any()


@pytest.mark.parametrize("leading_zero", [False, True])
def test_a_row_is_accepted_when_it_is_farther_than_the_threshold(leading_zero: bool) -> None:
    """After distance 4 the threshold is 4, or with a leading 0 the mean 2 less the deviation 2."""
    detector = Prada(delta=0.9, dimensions=0, leading_zero=leading_zero)
    state, _, _ = detector.update(detector.initial(), line(np.array([4.0])), 0.0)

    assert state["accepted"][0, 3] == pytest.approx(0.0 if leading_zero else 4.0)
    state, _, _ = detector.update(state, np.array([[0.0, 7.0]]), 0.0)
    assert state["counts"][1] == (3 if leading_zero else 2)


def test_the_sets_hold_no_more_than_their_capacity() -> None:
    detector = Prada(delta=0.9, dimensions=0, capacity=20)
    state, _, _ = detector.update(detector.initial(), line(np.full(500, 3.0)), 0.0)

    assert state["rows"].shape == (20, 1)
    assert (state["owner"] == 0).all()


def test_a_memory_of_another_space_starts_anew() -> None:
    state, _, _ = PLAIN.update(PLAIN.initial(), line(np.ones(50)), 0.0)
    other, _, _ = PLAIN.update(state, np.zeros((1, 5)), 0.0)

    assert other["counts"].tolist() == [1, 1, 0]
    assert not Prada(capacity=20).fits(state)


def test_features_are_measured_where_the_victim_shows_them() -> None:
    inputs = rows(20)
    answer = TinyVictim().predict(inputs)
    features = Prada(space="features", dimensions=0).score(query(inputs), answer)

    assert torch.equal(features[:, 1:], answer.features if answer.features is not None else inputs)


def test_too_few_rows_are_refused() -> None:
    inputs = rows(90)

    with pytest.raises(CalibrationError, match=r"90 benign rows are too few .* at least 300"):
        Prada().calibrate(query(inputs), TinyVictim().predict(inputs))


def test_with_a_threshold_of_ones_own_nothing_is_calibrated() -> None:
    inputs = rows(20)

    assert PLAIN.calibrate(query(inputs), TinyVictim().predict(inputs)) == {}
    assert PLAIN.enforces
