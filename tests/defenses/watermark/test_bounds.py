"""Bounds on sums of random signs are bounds."""

import itertools

import numpy as np

from defenses.watermark.bounds import log_chernoff, log_tail


def all_sums(weights: np.ndarray) -> np.ndarray:
    signs = np.array(list(itertools.product([-1, 1], repeat=len(weights))))
    sums: np.ndarray = signs @ weights
    return sums


def test_no_sum_of_signs_exceeds_its_bound_more_often_than_it_says() -> None:
    rng = np.random.default_rng(0)
    for weights in (
        np.ones(12),
        rng.standard_normal(12),
        np.array([5.0, 1, 1, 1]),
        rng.random(10) ** 4,
    ):
        sums, norm = all_sums(weights), np.linalg.norm(weights)
        for total in np.unique(sums[sums >= 0].round(9)):
            share = np.mean(sums >= total - 1e-9)

            assert share <= np.exp(log_tail((total - 1e-9) / norm)) * (1 + 1e-9)
            assert share <= np.exp(log_chernoff(weights, np.array([total - 1e-9]))[0]) * (1 + 1e-9)


def test_all_of_32_bits_are_worth_nearly_32_bits() -> None:
    best = log_chernoff(np.ones(32), np.array([32.0]))[0]

    assert abs(best / np.log(2) + 32) < 0.1


def test_a_larger_sum_is_never_more_likely() -> None:
    t = np.linspace(-3, 40, 500)
    weights = np.random.default_rng(0).random(32)

    assert (np.diff(log_tail(t)) <= 1e-12).all()
    assert (np.diff(log_chernoff(weights, t)) <= 1e-12).all()
    assert log_tail(40.0) < -700
