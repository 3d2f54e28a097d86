import numpy as np
import pytest

from detectors.rate import Rate
from mantlet.types import State


def used(rate: Rate, state: State, rows: int, at: float) -> tuple[State, float, bool]:
    """After the last of so many rows: state, suspicion, alarm."""
    state, suspicion, alarm = rate.update(state, np.zeros((rows, 1)), at)
    return state, float(suspicion[-1]), bool(alarm[-1])


def test_suspicion_is_the_share_of_the_budget_and_the_last_row_alarms() -> None:
    rate = Rate(rows=100, window_s=60)
    state, suspicion, alarm = used(rate, rate.initial(), 99, 0.0)

    assert (suspicion, alarm) == (pytest.approx(0.99), False)
    assert used(rate, state, 1, 1.0)[1:] == (1.0, True)


def test_a_new_window_starts_anew() -> None:
    rate = Rate(rows=100, window_s=60)
    state, _, _ = used(rate, rate.initial(), 90, 59.9)

    assert used(rate, state, 5, 60.0)[1:] == (pytest.approx(0.05), False)
    assert used(rate, state, 5, 59.99)[1:] == (pytest.approx(0.95), False)


def test_a_clock_that_steps_back_refills_nothing() -> None:
    rate = Rate(rows=100, window_s=60)
    state, _, _ = used(rate, rate.initial(), 90, 125.0)
    state, suspicion, _ = used(rate, state, 5, 10.0)

    assert suspicion == pytest.approx(0.95)
    assert used(rate, state, 5, 126.0)[2]


def test_an_alarm_outlives_its_window() -> None:
    rate = Rate(rows=10, window_s=60)
    state, _, _ = used(rate, rate.initial(), 10, 0.0)

    assert used(rate, state, 1, 1e6)[1:] == (1.0, True)


def test_a_single_row_can_be_the_whole_budget() -> None:
    rate = Rate(rows=1)

    assert used(rate, rate.initial(), 1, 0.0)[1:] == (1.0, True)
