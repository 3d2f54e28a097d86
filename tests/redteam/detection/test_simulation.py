"""Simulated honest clients at the edge of what is tolerated: the bound holds, and is no empty one."""

import numpy as np

from detectors.evidence import Evidence
from redteam.detection.simulation import ever_alarmed


def test_no_more_are_alarmed_than_the_bound_says_and_some_are() -> None:
    strict, loose = ever_alarmed(
        Evidence(widths=(2, 1), alpha=1e-4),
        np.array([0.1, 0.05, 0.3]),
        (1e-4, 0.1),
        clients=1500,
        rows=400,
        rng=np.random.default_rng(0),
    )

    assert (strict["streams"], strict["rows"]) == (1500, 400)
    assert strict["detected"] <= 2
    assert 0 < loose["detected"] <= 0.1 * 1500


def test_clients_worse_than_tolerated_would_be_seen() -> None:
    """The simulation itself can fail: scores far above the bound it is told are alarms."""
    test = Evidence(widths=(1,), alpha=1e-4)
    wealth, _ = test.fold(
        test.initial()[None], np.zeros(1), [range(50)], np.ones((50, 1)), np.array([0.1])
    )

    assert wealth.mean() > 1e4
