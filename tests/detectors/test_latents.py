"""The null holds to the letter under the prior; who leaves it, or walks in it, is found within few rows."""

import numpy as np
import pytest
import torch

from detectors.latents import Latents, Test, drawn_tails, near_limits
from mantlet.plugin import Setup
from mantlet.types import Kind, Prediction
from serving.folding import Fold
from tests.helpers import SETUP, query

SIZES = [8, 64, 300]
PICTURES = Prediction(torch.zeros(1, 1, 1, 1), Kind.IMAGES)


def loaded(size: int, **settings: float | tuple[Test, ...]) -> Latents:
    detector = Latents.model_validate(settings)
    detector.load(Setup(SETUP.device, SETUP.secret, shape=(size,)))
    return detector


def flags(detector: Latents, rows: np.ndarray) -> np.ndarray:
    """(n, tests) of one client's rows."""
    scores = detector.score(query(torch.from_numpy(rows).float()), PICTURES).double().numpy()
    return detector.watch(detector.initial(), scores, 0.0)[1]


def alarm(rows: np.ndarray) -> int | None:
    """At which of a client's rows the alarm comes, as served: one in a million, retries left out."""
    detector = loaded(rows.shape[1])
    asked = query(torch.from_numpy(rows).float())
    scores = {"latents": detector.score(asked, PICTURES).double().numpy()}
    folded = Fold([detector], 1e-6, secret=SETUP.secret).run(asked, scores, {})
    found = folded.signals["evidence"].alarm.numpy()
    return int(found.argmax()) + 1 if found.any() else None


def drawn(rows: int, size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, size))


def arcs(anchors: np.ndarray, points: int) -> np.ndarray:
    """Points on the arcs between consecutive anchors."""
    angle = np.linspace(0, np.pi / 2, points + 1)[None, :-1, None]
    return (anchors[:-1, None] * np.cos(angle) + anchors[1:, None] * np.sin(angle)).reshape(
        -1, anchors.shape[1]
    )


@pytest.mark.parametrize("size", SIZES)
def test_every_test_flags_a_drawn_latent_as_often_as_it_says_at_most(size: int) -> None:
    """20,000 latents of one client: below the share by four deviations at most, and nowhere near what is tolerated."""
    found = flags(loaded(size), drawn(20_000, size)).mean(axis=0)
    deviation = (0.01 * 0.99 / 20_000) ** 0.5

    assert (found < 0.01 + 4 * deviation).all()
    assert (found[[0, 1]] > 0.01 - 4 * deviation).all()
    assert found[3] > 0.005
    assert (found < loaded(size).tolerated("default")).all()


@pytest.mark.parametrize("size", SIZES)
def test_an_honest_client_is_never_alarmed(size: int) -> None:
    for seed in range(5):
        assert alarm(drawn(2000, size, seed)) is None


@pytest.mark.parametrize("decimals", [2, 3])
def test_nor_is_one_that_rounds_its_latents(decimals: int) -> None:
    assert alarm(drawn(2000, 64).round(decimals)) is None


THIEVES = {
    "uniform in [-1, 1]": lambda: np.random.default_rng(0).uniform(-1, 1, (200, 64)),
    "uniform of variance 1": lambda: np.random.default_rng(0).uniform(-1, 1, (200, 64)) * 3**0.5,
    "signs": lambda: np.sign(drawn(200, 64)),
    "too long": lambda: 1.5 * drawn(200, 64),
    "one number at a time": lambda: 8.0 * np.eye(64),
    "a grid of a tenth": lambda: drawn(200, 64).round(1),
    "a grid in two directions": lambda: (
        drawn(1, 64) * (np.arange(64) > 1)
        + np.pad(np.stack(np.mgrid[-2:2:20j, -2:2:20j], axis=-1).reshape(-1, 2), ((0, 0), (0, 62)))
    ),
    "a walk": lambda: arcs(drawn(20, 64), 10),
    "a search": lambda: drawn(1, 64) + 0.03 * drawn(200, 64, 1).cumsum(axis=0),
    "a picture five times, jittered": lambda: (
        drawn(60, 64).repeat(5, axis=0) + 0.01 * drawn(300, 64, 1)
    ),
}


@pytest.mark.parametrize("name", THIEVES)
def test_a_thief_off_the_prior_or_on_a_walk_is_alarmed_within_ten_rows(name: str) -> None:
    row = alarm(THIEVES[name]())

    assert row is not None
    assert row <= 10


def test_a_walk_in_random_order_takes_a_hundred_rows() -> None:
    rows = arcs(drawn(101, 64), 10)
    row = alarm(np.random.default_rng(0).permutation(rows))

    assert row is not None
    assert row <= 100


def test_the_same_latent_again_is_a_retry() -> None:
    assert alarm(drawn(40, 64).repeat(20, axis=0)) is None


def test_what_was_asked_before_does_not_raise_the_chance_of_near() -> None:
    """After 140 rows of a walk, 4,000 drawn rows are flagged as seldom as ever."""
    detector = loaded(64, tests=("near",))
    scores = detector.score(query(torch.from_numpy(arcs(drawn(15, 64), 10)).float()), PICTURES)
    walked, _ = detector.watch(detector.initial(), scores.double().numpy(), 0.0)
    honest = detector.score(query(torch.from_numpy(drawn(4000, 64, 1)).float()), PICTURES)
    found = [detector.watch(walked, row[None], 0.0)[1][0, 0] for row in honest.double().numpy()]

    assert np.mean(found) < 0.01 + 4 * (0.01 * 0.99 / 4000) ** 0.5


def test_latents_that_all_clients_shrink_are_no_evidence_where_that_is_said() -> None:
    shrunk = 0.7 * drawn(1000, 64)

    assert flags(loaded(64), shrunk)[:, 0].mean() > 0.5
    assert flags(loaded(64, scale=0.7), shrunk).mean(axis=0).max() < 0.02


def test_only_the_tests_that_are_named_are_run() -> None:
    one = loaded(64, tests=("grid",))
    every = flags(loaded(64), np.sign(drawn(50, 64)))

    assert one.width == 1
    assert np.array_equal(flags(one, np.sign(drawn(50, 64))), every[:, [2]])


def test_no_more_directions_than_set_are_remembered() -> None:
    detector = loaded(64, remembered=10)
    rows = drawn(11, 64)
    again = np.concatenate([rows, rows[:1] + 1e-3, rows[5:6] + 1e-3])

    assert flags(detector, again)[-2:, 3].tolist() == [0.0, 1.0]


def test_another_secret_projects_otherwise() -> None:
    rows, scores = query(torch.from_numpy(drawn(5, 64)).float()), []
    for secret in (b"one secret", b"another"):
        detector = Latents()
        detector.load(Setup(SETUP.device, secret))
        scores.append(detector.score(rows, PICTURES)[:, 3:])

    assert not torch.isclose(*scores).all(dim=1).any()


@pytest.mark.parametrize("size", [1, 2, 3])
def test_latents_of_few_numbers_are_no_trouble(size: int) -> None:
    found = flags(loaded(size), drawn(5000, size)).mean(axis=0)

    assert (found < 0.015).all()


def test_limits_are_those_of_the_beta_law() -> None:
    """In three dimensions the cosine of two drawn directions is uniform: (1 - cos) / 2 = q / m."""
    limits = near_limits(3, 0.01, 50)

    assert limits[0] == 0
    assert limits[1:] == pytest.approx(4 * 0.01 / np.arange(1, 51))
    assert drawn_tails(64, 0.01).norm == pytest.approx((38.610, 96.878), abs=1e-3)
