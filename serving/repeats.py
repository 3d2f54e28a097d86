"""Repeated rows: what a client has asked before teaches it nothing and is no evidence against it.

A monitor that asks the same pictures for ever would otherwise be judged by these few: nothing bounds the
mean score of rows that are not drawn anew. A thief gains nothing by repeating rows, for the answer to a row
that is asked again is the same.
"""

import numpy as np

from mantlet.types import State

KEPT = 256
"""Different rows of a client that are remembered: the last so many."""


def fold(state: State | None, marks: np.ndarray) -> tuple[State, np.ndarray]:
    """What is remembered after (n,) rows of one client, and which of them (n,) it had asked before.

    ``marks`` are those of `mantlet.noise.row_marks`.
    """
    if state is None:
        state = {"marks": np.zeros(KEPT, np.uint32), "count": np.zeros(1, np.int64)}
    ring, count = state["marks"], int(state["count"][0])
    known = ring[: min(count, KEPT)]
    if len(marks) == 1:
        again = known == marks[0]
        if again.any():
            return state, np.ones(1, dtype=bool)
        return _with(ring, count, marks.tolist()), np.zeros(1, dtype=bool)
    held, repeated = dict.fromkeys(known.tolist()), np.zeros(len(marks), dtype=bool)
    asked = marks.tolist()
    if held.keys().isdisjoint(asked) and len(set(asked)) == len(asked):
        return _with(ring, count, asked), repeated  # nearly always: none was asked before
    new: list[int] = []
    for row, mark in enumerate(asked):
        repeated[row] = mark in held
        if not repeated[row]:
            place = count + len(new)
            if place >= KEPT:  # the oldest makes room
                oldest = int(ring[place % KEPT]) if len(new) < KEPT else new[len(new) - KEPT]
                held.pop(oldest, None)
            held[mark] = None
            new.append(mark)
    return (_with(ring, count, new) if new else state), repeated


def _with(ring: np.ndarray, count: int, new: list[int]) -> State:
    """The ring after new marks."""
    ring = ring.copy()
    for mark in new:
        ring[count % KEPT] = mark
        count += 1
    return {"marks": ring, "count": np.array([count])}
