"""What detectors remember of a client's rows: short codes in a fixed number of slots, and how near they are."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from mantlet.types import State

FINENESS = 8.0
"""Steps of a code per standard deviation of benign rows; the largest it holds is 127 steps."""
NEVER, LONG = -(2**30), 2**30
"""How many rows ago what was never sent was sent, and what was so long ago that it is all the same."""


@dataclass(frozen=True, slots=True)
class Recalled:
    """What n new rows of one client find among P others: the slots and, of several, each other.

    ``square`` (n, P) squared distances in steps; ``lag`` (n, P) how many rows ago the other was sent, 0 or
    less where it was forgotten or not sent yet; ``same`` (n, P) whether both have one tag.
    """

    square: np.ndarray
    lag: np.ndarray
    same: np.ndarray


@lru_cache(maxsize=8)
def projection(size: int, dimensions: int, seed: int) -> np.ndarray:
    """(size, dimensions) Gaussian map that keeps squared distances on average (Johnson, Lindenstrauss)."""
    drawn = np.random.default_rng(seed).standard_normal((size, dimensions))
    scaled: np.ndarray = drawn / np.sqrt(dimensions)
    return scaled


def codes_of(rows: np.ndarray) -> np.ndarray:
    """(n, k) int8 codes of rows whose benign standard deviation is about 1 in every dimension."""
    return np.clip(np.rint(rows * FINENESS), -127, 127).astype(np.int8)


def empty(slots: int, dimensions: int) -> dict[str, np.ndarray]:
    """``codes`` of the rows in the slots, their ``tags``, and their numbers (``born``), 0 for none."""
    return {
        "codes": np.zeros((slots, dimensions), np.int8),
        "tags": np.zeros(slots, np.uint32),
        "born": np.zeros(slots, np.uint32),
    }


def in_parts(
    fold: Callable[[State, np.ndarray], tuple[State, np.ndarray]],
    state: State,
    rows: np.ndarray,
    *,
    width: int,
    size: int,
) -> tuple[State, np.ndarray]:
    """Fold (n, F) rows ``size`` at a time, so that those compared with each other are few; scores (n, width)."""
    scores = np.empty((len(rows), width))
    for start in range(0, len(rows), size):
        part = slice(start, start + size)
        state, scores[part] = fold(state, rows[part])
    return state, scores


def recall(
    memory: State, new: np.ndarray, tags: np.ndarray, slots: Sequence[int], first: int
) -> Recalled:
    """Compare ``new`` codes (n, k) with what is remembered, row by row; each then takes its slot.

    ``first`` is the number of the first of them. Distances are whole numbers and exact, so all is the
    same however a stream is cut.
    """
    if len(new) == 1:  # nothing comes between the row and what is remembered
        return recall_each([memory], new, tags, np.array([first]))
    codes, births = memory["codes"], memory["born"]
    steps = np.arange(len(new), dtype=np.int32)
    age = np.where(births > 0, np.minimum(first - births.astype(np.int64), LONG), NEVER)
    lag = steps[:, None] + np.concatenate([age, -steps], dtype=np.int32)
    lag *= _last(len(codes), slots) >= steps[:, None]
    same = np.concatenate([memory["tags"], tags]) == tags[:, None]
    return Recalled(_squares(np.concatenate([codes, new]), new), lag, same)


def recall_each(
    memories: Sequence[State], new: np.ndarray, tags: np.ndarray, firsts: np.ndarray
) -> Recalled:
    """Compare one row of each of n clients, ``new`` codes (n, k), with what is remembered of it."""
    births = np.array([memory["born"] for memory in memories])  # (n, M)
    lag = np.where(births > 0, firsts[:, None] - births.astype(np.int64), NEVER)
    same = np.array([memory["tags"] for memory in memories]) == tags[:, None]
    ones, square = np.ones(new.shape[1], np.float32), np.empty(births.shape, np.float32)
    for row, memory in enumerate(memories):
        apart = memory["codes"] - new[row].astype(np.float32)
        np.matmul(np.square(apart, out=apart), ones, out=square[row])
    return Recalled(square, lag, same)


def remember(
    memory: State, new: np.ndarray, tags: np.ndarray, slots: Sequence[int], first: int
) -> dict[str, np.ndarray]:
    """What is remembered once ``new`` codes (n, k) took their slots; of several in one slot the last."""
    after = {name: memory[name].copy() for name in ("codes", "tags", "born")}
    after["codes"][slots], after["tags"][slots] = new, tags
    after["born"][slots] = range(first, first + len(new))
    return after


def runs(following: np.ndarray, before: int) -> np.ndarray:
    """(n,) how many rows in a row, up to each, follow the ones just before; ``before``: up to the first."""
    place = np.arange(len(following))
    ended = np.maximum.accumulate(np.where(following, -1 - before, place))
    run: np.ndarray = place - ended
    return run


def _last(many: int, slots: Sequence[int]) -> np.ndarray:
    """(M + n,) the last of the new rows, from 0, that finds what is in the slots, and each new one."""
    last = np.full(many + len(slots), LONG, dtype=np.int32)
    if len(set(slots)) == len(slots):  # nearly always: each takes the place of an earlier one
        last[slots] = np.arange(len(slots))
        return last
    holder: dict[int, int] = {}
    for row, slot in enumerate(slots):
        last[holder.get(slot, slot)] = row
        holder[slot] = many + row
    return last


def _squares(others: np.ndarray, new: np.ndarray) -> np.ndarray:
    """(n, P) squared distances; exact, as all numbers stay below 2**24."""
    rows, own = others.astype(np.float32), new.astype(np.float32)
    norms, mine = np.einsum("pk,pk->p", rows, rows), np.einsum("nk,nk->n", own, own)
    square: np.ndarray = own @ rows.T
    square *= -2.0
    square += norms
    square += mine[:, None]
    return square
