import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog

from defenses.modelguard_w import MARGIN, UNIT, ModelGuardW, farthest
from tests.helpers import probabilities, query, rows


def costs(row: np.ndarray) -> np.ndarray:
    """What a unit of each class costs: the logarithm of its probability."""
    logs: np.ndarray = np.log(np.rint(row / UNIT) * UNIT + UNIT)
    return logs


def least_cost(row: np.ndarray, epsilon: float) -> float:
    """The optimum of the linear program by HiGHS: y' and its distances from y as unknowns."""
    classes, top = len(row), row.argmax()
    one, zero = np.eye(classes), np.zeros((1, classes))
    margin = min(MARGIN, row[top] - np.delete(row, top).max())
    leads = np.delete(one - one[top], top, axis=0)  # y'_j - y'_top <= -margin
    program = linprog(
        np.concatenate([costs(row), zero[0]]),
        A_ub=np.block([[one, -one], [-one, -one], [zero, zero + 1], [leads, np.zeros_like(leads)]]),
        b_ub=np.concatenate([row, -row, [epsilon], np.full(classes - 1, -margin)]),
        A_eq=np.concatenate([zero + 1, zero], axis=1),
        b_eq=[1.0],
        method="highs",
    )
    assert program.status == 0
    return float(program.fun)


@st.composite
def any_row(draw: st.DrawFn) -> np.ndarray:
    """Probabilities of 2 to 20 classes: sharp to flat, and some with ties."""
    classes, sharpness = (
        draw(st.integers(2, 20)),
        draw(st.sampled_from([0.05, 0.3, 1.0, 5.0, 50.0])),
    )
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    row = random.dirichlet(np.full(classes, sharpness))
    if draw(st.booleans()):
        row = np.ceil(row * 20)
    scaled: np.ndarray = row / row.sum()
    return scaled


@given(row=any_row(), epsilon=st.floats(0.01, 2.0))
def test_the_answer_is_the_optimum_of_the_linear_program(row: np.ndarray, epsilon: float) -> None:
    (answer,) = farthest(row[None], epsilon)
    top = row.argmax()
    margin = min(MARGIN, row[top] - np.delete(row, top).max())

    assert costs(row) @ answer == pytest.approx(least_cost(row, epsilon), abs=1e-6)
    assert answer.sum() == pytest.approx(1.0, abs=1e-9)
    assert answer.min() >= -1e-12
    assert np.abs(answer - row).sum() <= epsilon + 1e-9
    assert answer[top] - np.delete(answer, top).max() >= margin - 1e-9


@given(seed=st.integers(0, 2**32))
def test_rows_of_a_batch_are_solved_as_they_are_alone(seed: int) -> None:
    batch = np.random.default_rng(seed).dirichlet(np.full(10, 0.3), size=16)
    alone = [farthest(row[None], 0.7)[0] for row in batch]

    assert np.allclose(farthest(batch, 0.7), alone, atol=1e-12)


def test_a_sure_row_gives_half_the_budget_to_its_least_likely_class() -> None:
    (answer,) = ModelGuardW(epsilon=0.6)(
        probabilities([[0.9, 0.06, 0.04]]), query(rows(1)), {}
    ).values

    assert answer.tolist() == pytest.approx([0.6, 0.06, 0.34], abs=1e-6)


def test_at_the_cap_the_next_least_likely_class_is_served() -> None:
    """Nobody may reach the top class, so a second class takes what the least likely one cannot."""
    (answer,) = ModelGuardW(epsilon=1.0)(
        probabilities([[0.9, 0.06, 0.04]]), query(rows(1)), {}
    ).values

    assert answer.tolist() == pytest.approx([0.4, 0.2, 0.4], abs=2e-4)
    assert answer[0] - answer[2] == pytest.approx(MARGIN, abs=1e-6)


def test_rounding_errors_of_the_victim_choose_no_class() -> None:
    """Which of two impossible classes is a little less impossible differs from batch to batch."""
    one = torch.tensor([[1.0 - 3e-10, 1e-10, 2e-10]], dtype=torch.float64)
    other = torch.tensor([[1.0 - 3e-10, 2e-10, 1e-10]], dtype=torch.float64)

    assert np.allclose(farthest(one.numpy(), 1.0), farthest(other.numpy(), 1.0), atol=1e-8)


@pytest.mark.parametrize("classes", [2, 100, 1000])
def test_an_undecided_row_has_nothing_to_move_without_its_label(classes: int) -> None:
    clean = torch.full((1, classes), 1.0 / classes)
    answer = ModelGuardW()(probabilities(clean.tolist()), query(rows(1)), {}).values

    assert int(answer.argmax()) == 0
