"""The shared alarm statistic: an anytime-valid test that holds for a client's whole life.

The null says that the client's conditional mean score never exceeds ``tolerated``. Each of K bets
grows as long as scores exceed it; new money enters at every row, with weights 1/(t(t+1)) that sum to
one, so that an attack may start at any time. The mean over the bets is an e-process: by Ville's
inequality it reaches 1/alpha with probability at most alpha under the null, however long the client
lives and however often it is looked at.

Sources: Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", JRSS-B
2024; Shin, Ramdas and Rinaldo, "E-detectors", 2023; Ville, 1939.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mantlet.types import State


@dataclass(frozen=True)
class Evidence:
    """Tests ``scores`` columns that each have their own tolerated mean, and averages their evidence.

    ``tolerated`` (F,) in (0, 1): the mean score an honest client may have. ``alpha`` in (0, 1): the
    chance that one honest client is ever alarmed. ``bets``: size K of the grid.

    >>> test = Evidence(tolerated=(0.08,), alpha=1e-6)
    >>> state, suspicion, alarm = test.update(test.initial(), np.ones((20, 1)))
    >>> int(alarm.argmax()) + 1  # the row of the alarm, when every row scores 1
    7
    """

    tolerated: tuple[float, ...]
    alpha: float
    bets: int = 16

    @cached_property
    def _mean(self) -> np.ndarray:
        """(F,) tolerated means."""
        return np.asarray(self.tolerated)

    @cached_property
    def _growth(self) -> np.ndarray:
        """(F, K) bets: geometric in (0, 1/m0), from a fortieth of the largest to just below it."""
        return (0.98 / self._mean)[:, None] * np.geomspace(1 / 40, 1.0, self.bets)[None, :]

    def initial(self) -> State:
        """No evidence; ``seen`` holds the rows so far and whether the alarm has come."""
        return {
            "log_wealth": np.full((len(self.tolerated), self.bets), -np.inf),
            "seen": np.zeros(2, dtype=np.int64),
        }

    def _wealth(self, state: State) -> np.ndarray:
        """The (F, K) log wealth so far; none when other settings left another shape."""
        wealth = state["log_wealth"]
        if wealth.shape == self._growth.shape:
            return wealth
        # the alarm and the count of rows stay: no alarm is lost, and the bound of a lifetime holds
        return self.initial()["log_wealth"]

    def update(self, state: State, scores: np.ndarray) -> tuple[State, np.ndarray, np.ndarray]:
        """Fold (n, F) scores in [0, 1], in order; return state, suspicion (n,) and alarm (n,).

        In closed form, all rows at once: with L the running log growth of a bet and w_j the money
        entering at row j, log S_i = L_i + log(S_0 + sum over j <= i of w_j exp(-L_{j-1})).
        """
        count, (seen, alarmed) = len(scores), state["seen"].tolist()
        log_growth = np.log1p((scores - self._mean)[:, :, None] * self._growth)  # (n, F, K)
        fold = self._one_row if count == 1 else self._many_rows
        log_wealth = fold(self._wealth(state), log_growth, seen)
        level = np.minimum(np.maximum(self._log_mean(log_wealth) / -math.log(self.alpha), 0.0), 1.0)
        alarm = np.maximum.accumulate((level >= 1.0) | bool(alarmed))
        after = {
            "log_wealth": log_wealth[-1],
            "seen": np.array([seen + count, alarm[-1]], dtype=np.int64),
        }
        return after, np.where(alarm, 1.0, level), alarm

    @staticmethod
    def _one_row(before: np.ndarray, log_growth: np.ndarray, seen: int) -> np.ndarray:
        """The recursion itself, for the usual batch that has one row of a client."""
        log_entering = -math.log(seen + 1) - math.log(seen + 2)
        after: np.ndarray = log_growth + np.logaddexp(before, log_entering)
        return after

    @staticmethod
    def _many_rows(before: np.ndarray, log_growth: np.ndarray, seen: int) -> np.ndarray:
        """The closed form, (n, F, K) wealth after each row."""
        count = len(log_growth)
        t = np.arange(seen + 1, seen + count + 1, dtype=np.float64)
        log_entering = -np.log(t) - np.log1p(t)  # (n,)
        grown = log_growth.cumsum(axis=0)
        banked = np.empty((count + 1, *grown.shape[1:]))
        banked[0] = before
        banked[1] = log_entering[0]
        banked[2:] = log_entering[1:, None, None] - grown[:-1]
        after: np.ndarray = grown + np.logaddexp.accumulate(banked, axis=0)[1:]
        return after

    def _log_mean(self, log_wealth: np.ndarray) -> np.ndarray:
        """(n,) log of the mean over scores and bets of (n, F, K) wealth."""
        flat = log_wealth.reshape(len(log_wealth), -1)
        peak = flat.max(axis=1)
        total = np.exp(flat - peak[:, None]).sum(axis=1)
        mean: np.ndarray = peak + np.log(total / flat.shape[1])
        return mean
