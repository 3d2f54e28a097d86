"""Which sketched rows lie close to a row of another client, without comparing all with all."""

from collections.abc import Callable, Iterator

import numpy as np

SAME = 0.02
"""Rows nearer than that, as a share of their scale, are one picture, which proves nothing."""
TABLES = 6
NEIGHBOURS = 4
CHUNK = 4_096
"""Rows that are compared at once."""


def compare(
    code: np.ndarray, scale: np.ndarray, owner: np.ndarray, radius: float, pause: Callable[[], None]
) -> tuple[np.ndarray, np.ndarray]:
    """(N,) whether a row lies close to one of another client, and (N,) to an earlier one of its own client.

    ``code`` (N, k), ``scale`` (N,), ``owner`` (N,); close is within ``radius`` times the smaller scale. In
    each of `TABLES` random orders, in which close rows stand near each other (signs of random
    projections; Charikar, 2002), a row is compared with the next `NEIGHBOURS`: some close pairs are
    missed and none is made up. ``pause`` is called between chunks.
    """
    linked, repeated = np.zeros(len(code), dtype=bool), np.zeros(len(code), dtype=bool)
    for order in _orders(code, pause):
        for step in range(1, NEIGHBOURS + 1):
            for start in range(0, len(order) - step, CHUNK):
                a = order[start : start + CHUNK]
                b = order[start + step : start + step + CHUNK]
                a = a[: len(b)]
                near = _distance(code[a], code[b], np.minimum(scale[a], scale[b]))
                close, own = near < radius, owner[a] == owner[b]
                repeated[np.maximum(a, b)[close & own]] = True
                others = close & ~own & (near >= SAME)
                linked[a[others]] = linked[b[others]] = True
                pause()
    return linked, repeated


def _distance(first: np.ndarray, second: np.ndarray, scale: np.ndarray) -> np.ndarray:
    gap = first.astype(np.float32) - second
    distance: np.ndarray = np.sqrt(np.einsum("nk,nk->n", gap, gap))
    return distance / np.maximum(scale.astype(np.float32), 1e-6)


def _orders(code: np.ndarray, pause: Callable[[], None]) -> Iterator[np.ndarray]:
    """Random orders (N,) of the rows: by cell, and within a cell along a random direction."""
    rng = np.random.default_rng(0)
    bits = max(1, int(np.log2(max(len(code), 2))) - 2)
    for _ in range(TABLES):
        planes = rng.standard_normal((code.shape[1], bits + 1)).astype(np.float32)
        cell, along = np.empty(len(code), np.int64), np.empty(len(code), np.float32)
        for start in range(0, len(code), CHUNK):
            sides = code[start : start + CHUNK].astype(np.float32) @ planes
            cell[start : start + CHUNK] = (sides[:, :-1] > 0) @ (1 << np.arange(bits))
            along[start : start + CHUNK] = sides[:, -1]
            pause()
        yield np.lexsort((along, cell))
