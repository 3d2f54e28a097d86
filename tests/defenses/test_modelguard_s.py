import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from defenses.modelguard_s import ModelGuardS
from mantlet.types import State
from tests.conformance.strategies import rows_of_probabilities

NEAR = [[0.90, 0.06, 0.04], [0.80, 0.15, 0.05], [0.95, 0.01, 0.04]]


def told(
    defense: ModelGuardS, values: list[list[float]], state: State | None = None
) -> tuple[State, list[list[float]]]:
    """The state after, and the answers to the rows of one client."""
    state, answers = defense.answer(state or defense.initial(), torch.tensor(values))
    return state, answers.tolist()


def test_rows_of_one_cell_get_one_answer() -> None:
    _, answers = told(ModelGuardS(epsilon=0.3), NEAR)

    assert answers == [pytest.approx(NEAR[0], abs=1e-4)] * 3
    assert answers[0] == answers[1] == answers[2]


def test_a_row_out_of_reach_opens_a_cell_of_its_own() -> None:
    state, answers = told(ModelGuardS(epsilon=0.15), NEAR)

    assert len(state["answers"]) == 2
    assert answers[1] == pytest.approx(NEAR[1], abs=1e-4)
    assert answers[2] == answers[0]


def test_no_cell_holds_rows_of_two_classes() -> None:
    rows = [[0.5001, 0.4999, 0.0], [0.4999, 0.5001, 0.0]]
    _, answers = told(ModelGuardS(epsilon=2.0), rows)

    assert [max(range(3), key=answer.__getitem__) for answer in answers] == [0, 1]


def test_an_old_row_finds_its_old_answer_though_a_later_cell_is_nearer() -> None:
    defense = ModelGuardS(epsilon=0.3)
    old = [0.76, 0.20, 0.04]
    state, before = told(defense, [NEAR[0], old])
    state, _ = told(defense, [[0.70, 0.26, 0.04]], state)
    _, after = told(defense, [old], state)

    assert len(state["answers"]) == 2
    assert after[0] == before[1]


def test_with_all_cells_taken_a_row_out_of_reach_gets_its_label_now_and_ever() -> None:
    defense = ModelGuardS(epsilon=0.1, cells=2)
    far = [0.5, 0.1, 0.4]
    state, answers = told(defense, [*NEAR[:2], far])
    again = told(defense, [far, NEAR[1]], state)[1]

    assert answers[2] == again[0] == [1.0, 0.0, 0.0]
    assert again[1] == answers[1]


def test_a_known_row_changes_nothing_that_is_remembered() -> None:
    defense = ModelGuardS(epsilon=0.3)
    state, _ = told(defense, NEAR)
    after, _ = told(defense, NEAR, state)

    assert after is state


@given(clean=rows_of_probabilities(), epsilon=st.floats(0.01, 2.0))
def test_no_answer_is_farther_than_epsilon(clean: Tensor, epsilon: float) -> None:
    defense = ModelGuardS(epsilon=epsilon)
    _, answers = defense.answer(defense.initial(), clean)
    rounding = clean.shape[1] / 65_535

    assert (answers - clean).abs().sum(dim=1).max() <= epsilon + 2 * rounding


@pytest.mark.parametrize("cells", [1, 128])
def test_the_memory_of_ten_classes_stays_under_four_kilobytes(cells: int) -> None:
    defense = ModelGuardS(epsilon=0.01, cells=cells)
    random = np.random.default_rng(0).dirichlet(np.ones(10), size=3000)
    state, _ = defense.answer(defense.initial(), torch.from_numpy(random).float())

    assert len(state["answers"]) == cells
    assert state["answers"].nbytes <= 4096


def test_a_memory_of_a_model_of_other_classes_is_begun_anew() -> None:
    defense = ModelGuardS()
    state, _ = told(defense, [[0.5, 0.3, 0.1, 0.1]])
    state, answers = told(defense, [NEAR[0]], state)

    assert state["answers"].shape == (1, 3)
    assert answers[0] == pytest.approx(NEAR[0], abs=1e-4)
