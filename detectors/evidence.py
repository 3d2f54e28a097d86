"""The shared alarm statistic: an anytime-valid test that holds for a client's whole life.

The null says that the conditional mean of each of a client's scores never exceeds ``tolerated``. Each of
K bets grows as long as scores exceed it; new money enters at every row, with weights 1/(t(t+1)) that
sum to one, so that an attack may start at any time. The mean over bets, scores and detectors is an
e-process: by Ville's inequality it reaches 1/alpha with probability at most alpha under the null, however
long the client lives, however often it is looked at, and however many detectors look.

Sources: Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", JRSS-B
2024; Shin, Ramdas and Rinaldo, "E-detectors", 2023; Ville, 1939.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

CEILING = 1e60
"""Wealth is capped here: far beyond every threshold, far from what a float cannot hold."""


@dataclass(frozen=True)
class Evidence:
    """Tests the scores of D detectors at once; detector d gives ``widths[d]`` of the F columns.

    ``alpha`` in (0, 1): the chance that one honest client is ever alarmed, by all of them together.
    ``bets``: size K of the grid of bets. Each detector has the same share of the mean.

    >>> test = Evidence(widths=(1,), alpha=1e-6)
    >>> wealth, trail = test.fold(
    ...     test.initial()[None], np.zeros(1), [range(20)], np.ones((20, 1)), np.array([0.08])
    ... )
    >>> int((test.suspicion(trail)[:, 0] >= 1).argmax()) + 1  # the alarm, when every row scores 1
    7
    """

    widths: tuple[int, ...]
    alpha: float
    bets: int = 16

    @cached_property
    def _grid(self) -> np.ndarray:
        """(K,) bets as shares of the largest: geometric, from a fortieth to just below 1/m0."""
        return 0.98 * np.geomspace(1 / 40, 1.0, self.bets)

    @cached_property
    def _starts(self) -> np.ndarray:
        """(D,) the first column of each detector."""
        return np.cumsum((0, *self.widths[:-1]))

    @cached_property
    def _weights(self) -> np.ndarray:
        """(D,) the weight of one bet on one column of each detector in the mean."""
        return 1 / (len(self.widths) * self.bets * np.asarray(self.widths))

    def initial(self) -> np.ndarray:
        """(F, K) wealth of a client never seen before."""
        return np.zeros((sum(self.widths), self.bets))

    def fold(
        self,
        wealth: np.ndarray,
        seen: Sequence[int] | np.ndarray,
        rows_of: Sequence[Sequence[int]],
        scores: np.ndarray,
        tolerated: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Fold (B, F) scores in [0, 1] of N clients; NaN abstains and leaves the wealth as it is.

        ``wealth`` (N, F, K) and ``seen`` (N,) rows before; ``rows_of[n]`` are client n's rows, in order;
        ``tolerated`` (F,) or (B, F) in (0, 1). Returns the wealth after, (N, F, K), and the wealth of
        each row's client just after that row, (B, F, K).
        """
        gain = (scores - tolerated) / tolerated
        gain[np.isnan(gain)] = 0.0
        factor = 1.0 + gain[:, :, None] * self._grid  # (B, F, K)
        trail = np.empty_like(factor)
        if len(rows_of) == 1:
            _grow(wealth[0], int(seen[0]), rows_of[0], factor, trail)
            return trail[rows_of[0][-1]][None], trail
        # the n-th rows of all clients that have so many are one step; the longest come first
        order = sorted(range(len(rows_of)), key=lambda n: -len(rows_of[n]))
        counts = np.array([len(rows_of[n]) for n in order])
        t = np.asarray(seen)[order, None] + np.arange(1, counts[0] + 1)  # (N, steps)
        money = (1.0 / (t * (t + 1.0)))[:, :, None, None]
        now = wealth[order]
        for step, many in enumerate((counts > np.arange(counts[0])[:, None]).sum(axis=1).tolist()):
            rows = [rows_of[n][step] for n in order[:many]]
            at = now[:many]
            at += money[:many, step]
            at *= factor[rows]
            np.minimum(at, CEILING, out=at)
            trail[rows] = at
        after = np.empty_like(now)
        after[order] = now
        return after, trail

    def suspicion(self, trail: np.ndarray) -> np.ndarray:
        """(B, 1 + D) in [0, 1] from (B, F, K) wealth: of all detectors together, then of each.

        The wealth is in logarithms, as a share of that of 1/alpha; 1 is the alarm.
        """
        # no matrix product: its last bits depend on how many rows there are
        parts = np.add.reduceat(trail.sum(axis=2), self._starts, axis=1) * self._weights  # (B, D)
        mean = np.hstack([parts.sum(axis=1, keepdims=True), parts])
        level: np.ndarray = np.log(np.maximum(mean, 1.0)) / -math.log(self.alpha)
        np.minimum(level, 1.0, out=level)
        return level

    def worth(self, wealth: np.ndarray, seen: int) -> float:
        """The e-process of one client after ``seen`` rows: its mean wealth (F, K), and what is still to enter."""
        parts = np.add.reduceat(wealth.sum(axis=1), self._starts) * self._weights  # (D,)
        return float(parts.sum()) + 1.0 / (seen + 1)


def _grow(
    wealth: np.ndarray, seen: int, rows: Sequence[int], factor: np.ndarray, trail: np.ndarray
) -> None:
    """Write into ``trail`` (B, F, K) how the wealth (F, K) of one client grows by its rows, in order."""
    grows = factor.max() > 1.0  # where no bet gains, none comes near the ceiling
    for t, row in enumerate(rows, seen + 1):
        wealth = np.multiply(wealth + 1.0 / (t * (t + 1.0)), factor[row], out=trail[row])
        if grows:
            np.minimum(wealth, CEILING, out=wealth)
