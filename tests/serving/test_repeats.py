"""Rows that a client asked before are known again, the last 256 different ones, however a stream is cut."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mantlet.types import State
from serving import repeats
from serving.repeats import KEPT


def folded(marks: list[int], cuts: list[int]) -> tuple[State | None, list[bool]]:
    state, again = None, []
    for part in np.split(np.array(marks, np.uint32), sorted(cuts)):
        if len(part):
            state, seen = repeats.fold(state, part)
            again += seen.tolist()
    return state, again


def test_a_row_is_new_once() -> None:
    assert folded([5, 7, 5, 5, 7, 9], [])[1] == [False, False, True, True, True, False]


def test_the_mark_of_nothing_is_no_repeat() -> None:
    """An empty place holds a zero, which is a mark like any other."""
    assert folded([0, 0], [1])[1] == [False, True]


def test_what_lies_too_far_back_is_forgotten() -> None:
    marks = [*range(1, KEPT + 2), 2, 1]

    assert folded(marks, [])[1][-2:] == [True, False]


@given(
    marks=st.lists(st.integers(0, 400), max_size=900),
    cuts=st.lists(st.integers(0, 900), max_size=12),
)
def test_it_does_not_matter_how_a_stream_is_cut(marks: list[int], cuts: list[int]) -> None:
    whole, once = folded(marks, [])
    parts, cut = folded(marks, cuts)

    assert once == cut
    if whole is not None and parts is not None:
        assert all(np.array_equal(whole[name], parts[name]) for name in whole)


def test_a_cycle_of_few_rows_is_new_only_in_its_first_round() -> None:
    again = folded(list(range(100)) * 5, [33, 250])[1]

    assert again == [False] * 100 + [True] * 400
