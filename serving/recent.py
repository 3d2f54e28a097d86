"""What clients did of late: the mean of their last scores, which tells when all of them drift."""

from collections.abc import Sequence

import numpy as np

BLOCK = 25
"""Rows of a block; the block under way and the one before it are remembered."""
FINENESS = 1024.0
"""Steps of a score. Sums are of whole numbers, so they are the same however a stream is cut."""


def initial(columns: int) -> np.ndarray:
    """(2, F + 1) of a client never seen before: the block before, and the one under way.

    The last number of the latter is when the last row came, in seconds.
    """
    return np.zeros((2, columns + 1))


def fold(
    recent: np.ndarray,
    seen: Sequence[int] | np.ndarray,
    rows_of: Sequence[Sequence[int]],
    share: np.ndarray,
    at: float,
) -> np.ndarray:
    """(N, 2, F + 1) after (B, F) scores as shares of what is tolerated; NaN counts as 0.

    ``recent`` (N, 2, F + 1) and ``seen`` (N,) rows before; ``rows_of[n]`` are client n's rows, in order.
    """
    after = recent.copy()
    after[:, 1, -1] = at
    steps = np.rint(share * FINENESS)
    steps[np.isnan(steps)] = 0.0
    if len(rows_of) == 1:
        _alone(after[0, :, :-1], int(seen[0]), steps)
        return after
    seen, counts = np.asarray(seen), np.array([len(rows) for rows in rows_of])  # (N,)
    starts = counts.cumsum() - counts
    order = [row for rows in rows_of for row in rows]
    steps = steps[order]
    block = (seen + counts - 1) // BLOCK  # (N,) under way
    moved = block - (seen - 1) // BLOCK
    if not moved.any():
        after[:, 1, :-1] += np.add.reduceat(steps, starts)
        return after
    number = np.arange(len(order)) + np.repeat(seen - starts, counts)  # of the row, from 0
    ago = (np.repeat(block, counts) - number // BLOCK)[:, None]
    after[moved == 1, 0, :-1] = recent[moved == 1, 1, :-1]
    after[moved > 1, 0, :-1] = after[moved > 0, 1, :-1] = 0.0
    after[:, 0, :-1] += np.add.reduceat(steps * (ago == 1), starts)
    after[:, 1, :-1] += np.add.reduceat(steps * (ago == 0), starts)
    return after


def _alone(blocks: np.ndarray, seen: int, steps: np.ndarray) -> None:
    """Fold (n, F) steps of one client into its two ``blocks`` (2, F)."""
    now = (seen + len(steps) - 1) // BLOCK  # under way
    moved = now - (seen - 1) // BLOCK
    if moved:
        start = max(now * BLOCK - seen, 0)  # of the block under way, among these rows
        blocks[0] = blocks[1] if moved == 1 else 0.0
        blocks[0] += steps[max(start - BLOCK, 0) : start].sum(axis=0)
        blocks[1], steps = 0.0, steps[start:]
    blocks[1] += steps.sum(axis=0)


def mean(recent: np.ndarray, seen: int) -> np.ndarray:
    """(F,) mean share of what is tolerated over a client's last rows; ``seen`` it has asked in its life."""
    covered = (seen - 1) % BLOCK + 1 + (BLOCK if seen > BLOCK else 0)
    share: np.ndarray = recent[:, :-1].sum(axis=0) / (FINENESS * max(covered, 1))
    return share
