"""What detectors remember of a client's rows: short codes in a fixed number of slots, and how near they are."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

FINENESS = 8.0
"""Steps of a code per standard deviation of benign rows; the largest it holds is 127 steps."""


@dataclass(frozen=True, slots=True)
class Recalled:
    """What n new rows of one client find, and what is remembered after them.

    ``square`` (n, M + n) squared distances to the M slots and to the new rows themselves, in steps;
    ``lag`` (n, M + n) how many rows ago the other was sent, 0 where it was forgotten or not sent yet.
    ``codes`` (M, k) and ``born`` (M,) are the slots after.
    """

    square: np.ndarray
    lag: np.ndarray
    codes: np.ndarray
    born: np.ndarray


@lru_cache(maxsize=8)
def projection(size: int, dimensions: int, seed: int) -> np.ndarray:
    """(size, dimensions) Gaussian map that keeps squared distances on average (Johnson, Lindenstrauss)."""
    drawn = np.random.default_rng(seed).standard_normal((size, dimensions))
    return drawn / np.sqrt(dimensions)


def codes_of(rows: np.ndarray) -> np.ndarray:
    """(n, k) int8 codes of rows whose benign standard deviation is about 1 in every dimension."""
    return np.clip(np.rint(rows * FINENESS), -127, 127).astype(np.int8)


def recall(
    codes: np.ndarray, born: np.ndarray, new: np.ndarray, slots: Sequence[int], first: int
) -> Recalled:
    """Compare ``new`` (n, k) with ``codes`` (M, k), row by row; each then takes its slot.

    ``born`` (M,) is the number of the row in each slot, 0 for none; ``first`` that of the first new one.
    Distances are whole numbers and exact, so they are the same however a stream is cut.
    """
    many = len(codes)
    every = np.concatenate([codes, new])
    births = np.concatenate([born.astype(np.int64), np.arange(first, first + len(new))])
    deaths = np.full(len(every), np.iinfo(np.int64).max)
    holder = list(range(many))
    for row, slot in enumerate(slots):
        deaths[holder[slot]] = first + row
        holder[slot] = many + row
    numbers = births[many:, None]
    lag = np.where((births > 0) & (births < numbers) & (deaths >= numbers), numbers - births, 0)
    return Recalled(_squares(every, len(new)), lag, every[holder], births[holder])


def _squares(every: np.ndarray, last: int) -> np.ndarray:
    """(last, M) squared distances of the last rows to all; exact below 2**24."""
    rows = every.astype(np.float32)
    norms = (rows * rows).sum(axis=1)
    square: np.ndarray = norms[-last:, None] + norms - 2.0 * (rows[-last:] @ rows.T)
    return square
