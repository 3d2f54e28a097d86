"""Uniform noise."""

from redteam.attacks.noise import Noise
from tests.redteam.thieves import QUICK, Teller, stolen


def test_it_sends_as_many_rows_as_it_may_all_uniform() -> None:
    oracle = Teller()
    stolen(Noise(training=QUICK), oracle, budget=300)

    assert oracle.sent.shape == (300, 1, 28, 28)
    assert abs(float(oracle.sent.mean()) - 0.5) < 0.02
    assert abs(float(oracle.sent.var()) - 1 / 12) < 0.005
