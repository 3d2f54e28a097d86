import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog
from torch import Tensor, nn

from defenses.gradient_redirection import GradientRedirection, pull, redirected
from mantlet.types import Kind, Prediction
from tests.conformance.strategies import rows_of_probabilities
from tests.helpers import SETUP, query, rows


def solved(clean: np.ndarray, scores: np.ndarray, epsilon: float) -> float:
    """The value of the linear program, by HiGHS: variables are the row and the absolute differences."""
    classes, top = len(clean), clean.argmax()
    one, none = np.eye(classes), np.zeros(classes)
    above = np.delete(one - one[top], top, axis=0)  # no class above the top
    limits = np.vstack(
        [
            np.hstack([one, -one]),
            np.hstack([-one, -one]),
            np.hstack([none, np.ones(classes)])[None],
            np.hstack([above, np.zeros_like(above)]),
        ]
    )
    bounds = np.concatenate([clean, -clean, [epsilon], np.zeros(classes - 1)])
    total = np.concatenate([np.ones(classes), none])[None]
    found = linprog(np.r_[-scores, none], limits, bounds, total, [1.0], method="highs")
    assert found.status == 0
    return float(-found.fun)


@given(
    clean=rows_of_probabilities(max_rows=3, max_classes=12),
    epsilon=st.floats(0.01, 2.0),
    seed=st.integers(0, 10**6),
)
def test_the_answer_is_the_optimum_of_the_linear_program(
    clean: Tensor, epsilon: float, seed: int
) -> None:
    exact = clean.double() / clean.double().sum(dim=1, keepdim=True)
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(exact.shape, generator=generator, dtype=torch.float64)
    answer = redirected(exact, scores, epsilon)
    value = (answer * scores).sum(dim=1)
    wanted = [solved(y.numpy(), c.numpy(), epsilon) for y, c in zip(exact, scores, strict=True)]
    top = exact.argmax(dim=1, keepdim=True)

    assert value.tolist() == pytest.approx(wanted, abs=1e-6)
    assert (answer >= -1e-12).all()
    assert answer.sum(dim=1).tolist() == pytest.approx([1.0] * len(answer), abs=1e-9)
    assert ((answer - exact).abs().sum(dim=1) <= epsilon + 1e-9).all()
    assert (answer <= answer.gather(1, top) + 1e-9).all()


@given(clean=rows_of_probabilities(max_rows=4, max_classes=20), seed=st.integers(0, 10**6))
def test_a_larger_budget_goes_at_least_as_far(clean: Tensor, seed: int) -> None:
    exact = clean.double() / clean.double().sum(dim=1, keepdim=True)
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(exact.shape, generator=generator, dtype=torch.float64)
    values = torch.stack(
        [(redirected(exact, scores, e) * scores).sum(1) for e in (0.01, 0.1, 0.5, 1, 2)]
    )

    assert (values[0] >= (exact * scores).sum(1) - 1e-9).all()
    assert (values.diff(dim=0) >= -1e-8).all()


def test_pull_is_the_sum_of_the_gradient_of_each_log_probability() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    inputs = rows(4).double()
    expected = torch.zeros(4, 3, dtype=torch.float64)
    for row in range(4):
        for k in range(3):
            log = network(inputs[row : row + 1]).log_softmax(dim=1)[0, k]
            slopes = torch.autograd.grad(log, list(network.parameters()))
            expected[row, k] = sum(slope.sum() for slope in slopes)

    assert torch.allclose(pull(network, inputs), expected, atol=1e-10)


def test_every_answer_pulls_the_surrogate_further_along_the_one_direction() -> None:
    inputs = rows(200)
    clean = torch.softmax(2.0 * torch.randn(200, 5, generator=torch.Generator().manual_seed(3)), 1)
    means = []
    for epsilon in (0.1, 0.5, 1.0):
        defense = GradientRedirection(epsilon=epsilon)
        defense.load(SETUP)
        answer = defense(Prediction(clean, Kind.PROBABILITIES), query(inputs), {}).values
        slopes = pull(defense.network((1, 4, 4), 5), inputs.double())
        gained = ((answer - clean) * slopes).sum(dim=1)

        assert (gained > -1e-6).all()
        assert ((answer - clean).abs().sum(dim=1) <= epsilon + 1e-5).all()
        means.append(float(gained.mean()))

    assert means[0] > 0
    assert means == sorted(means)
