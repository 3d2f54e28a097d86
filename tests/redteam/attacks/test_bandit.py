"""The gradient bandit and its rescaled rewards."""

import numpy as np
import pytest

from redteam.attacks.bandit import Bandit, Rescaled

OPEN = np.ones(3, dtype=bool)


def test_at_first_all_arms_are_alike_and_closed_ones_are_never_drawn() -> None:
    bandit = Bandit(3)

    assert bandit.policy(OPEN) == pytest.approx([1 / 3] * 3)
    assert bandit.policy(np.array([True, False, True])) == pytest.approx([0.5, 0, 0.5])


def test_the_arm_that_pays_is_preferred() -> None:
    rng, bandit = np.random.default_rng(0), Bandit(3)
    for _ in range(400):
        arm = int(rng.choice(3, p=bandit.policy(OPEN)))
        bandit.reward(arm, [0.2, 0.9, 0.2][arm])

    assert bandit.policy(OPEN).argmax() == 1
    assert bandit.policy(OPEN)[1] > 0.5


def test_one_step_is_that_of_the_paper() -> None:
    bandit = Bandit(2)
    bandit.reward(0, 1.0)  # the mean is then 1 itself: nothing moves
    bandit.reward(1, 0.0)  # r - rbar = -0.5, a = 1, pi = 1/2: H = (+0.25, -0.25)
    raised = np.exp([0.25, -0.25])

    assert bandit.policy(OPEN[:2]) == pytest.approx(raised / raised.sum())


def test_rewards_are_rescaled_by_what_was_seen_so_far() -> None:
    rescaled = Rescaled(2)

    assert rescaled(np.array([[4.0, 7.0]])).tolist() == [[0, 0]]
    assert rescaled(np.array([[2.0, 7.0], [6.0, 8.0]])).tolist() == [[0, 0], [1, 1]]
    assert rescaled(np.array([[4.0, 7.5]])).tolist() == [[0.5, 0.5]]
