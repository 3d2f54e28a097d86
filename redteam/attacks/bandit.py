"""A gradient bandit: it learns which kind of query pays, for the adaptive form of Knockoff Nets."""

import numpy as np


class Bandit:
    """Preferences H of arms, drawn from softmax(H) (Sutton and Barto, section 2.8).

    After a reward r of arm z: H(z) += a (r - rbar) (1 - pi(z)), others -= a (r - rbar) pi(z'), with
    a = 1 / N(z), N(z) how often z was drawn, and rbar the mean reward so far.
    """

    def __init__(self, arms: int) -> None:
        self._preferences = np.zeros(arms)
        self._drawn = np.zeros(arms, dtype=np.int64)
        self._mean = 0.0

    def policy(self, open_arms: np.ndarray) -> np.ndarray:
        """(arms,) chances of the arms; those that are not open have none. One of them must be."""
        raised = np.where(open_arms, self._preferences, -np.inf)
        weights = np.exp(raised - raised.max())
        chances: np.ndarray = weights / weights.sum()
        return chances

    def reward(self, arm: int, reward: float) -> None:
        """Learn what an arm paid."""
        self._drawn[arm] += 1
        self._mean += (reward - self._mean) / self._drawn.sum()
        chances = self.policy(np.ones(len(self._preferences), dtype=bool))
        gain = (reward - self._mean) / self._drawn[arm]
        self._preferences -= gain * chances
        self._preferences[arm] += gain


class Rescaled:
    """Brings each of some rewards to [0, 1] by the least and the greatest it was so far."""

    def __init__(self, count: int) -> None:
        self._low, self._high = np.full(count, np.inf), np.full(count, -np.inf)

    def __call__(self, rewards: np.ndarray) -> np.ndarray:
        """(B, count) rewards, those of a batch at once, to as many in [0, 1]; 0 where all are the same."""
        self._low = np.minimum(self._low, rewards.min(axis=0))
        self._high = np.maximum(self._high, rewards.max(axis=0))
        width = self._high - self._low
        scaled: np.ndarray = (rewards - self._low) / np.where(width > 0, width, 1.0)
        return scaled
