from itertools import product

import pytest
import torch
from torch import Tensor, nn

from defenses.mad import Mad, turned
from mantlet.types import Kind, Prediction
from tests.helpers import SETUP, query, rows


def some(count: int, classes: int, sharpness: float, seed: int) -> Tensor:
    """(count, classes) float64 probabilities."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, classes, generator=generator, dtype=torch.float64)
    return torch.softmax(sharpness * noise, dim=1)


def cosine(answer: Tensor, clean: Tensor, believed: Tensor) -> Tensor:
    return torch.cosine_similarity(answer - believed, clean - believed, dim=1)


@pytest.mark.parametrize("bias", [True, False])
def test_the_angle_is_that_between_the_gradients_of_the_last_layer(bias: bool) -> None:
    """Equation 4 of the paper with the Jacobian of a real network, by automatic differentiation."""
    with torch.random.fork_rng():
        torch.random.manual_seed(
            0
        )  # a network whose every hidden unit is off for a row has no angle
        network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4, bias=bias)).double()
    (last,) = (m for m in network if isinstance(m, nn.Linear) and m.out_features == 4)
    inputs, clean = some(5, 6, 1.0, 1), some(5, 4, 2.0, 2)
    believed = network(inputs).softmax(dim=1).detach()
    answer = turned(clean, believed, 0.8)
    for row in range(5):
        log = network(inputs[row]).log_softmax(dim=0)
        slopes = [
            torch.cat(
                [g.flatten() for g in torch.autograd.grad(k, last.parameters(), retain_graph=True)]
            )
            for k in log
        ]
        jacobian = torch.stack(slopes)  # (C, D)
        angle = torch.cosine_similarity(jacobian.T @ answer[row], jacobian.T @ clean[row], dim=0)

        assert float(angle) == pytest.approx(float(cosine(answer, clean, believed)[row]), abs=1e-9)


@pytest.mark.parametrize("epsilon", [0.1, 0.7, 2.0])
def test_no_vertex_that_keeps_the_label_leads_further(epsilon: float) -> None:
    clean, believed = some(20, 6, 2.0, 3), some(20, 6, 0.5, 4)
    reached = cosine(turned(clean, believed, epsilon), clean, believed)
    for row in range(20):
        y, p, top = clean[row], believed[row], int(clean[row].argmax())
        best = 1.0
        for members in product((0.0, 1.0), repeat=6):
            if members[top]:
                vertex = torch.tensor(members, dtype=torch.float64)
                way = vertex / vertex.sum() - y
                moved = y + min(1.0, epsilon / float(way.abs().sum())) * way
                best = min(best, float(torch.cosine_similarity(moved - p, y - p, dim=0)))

        assert float(reached[row]) == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("classes", [2, 10, 40])
def test_a_larger_budget_turns_the_gradient_further_and_is_kept(classes: int) -> None:
    clean, believed = some(100, classes, 3.0, 5), some(100, classes, 0.3, 6)
    means = [1.0]
    for epsilon in (0.2, 0.6, 1.2):
        answer = turned(clean, believed, epsilon)
        means.append(float(cosine(answer, clean, believed).mean()))

        assert ((answer - clean).abs().sum(dim=1) <= epsilon + 1e-9).all()
        assert (answer.gather(1, clean.argmax(1, keepdim=True)) >= answer - 1e-12).all()

    assert means == sorted(means, reverse=True)
    assert means[-1] < 0.7


def test_the_surrogate_decides_where_a_row_goes() -> None:
    clean = some(50, 5, 1.0, 7).float()
    answers = []
    for name in ("one", "another"):
        defense = Mad(name=name, epsilon=0.5)
        defense.load(SETUP)
        asked = Prediction(clean, Kind.PROBABILITIES), query(rows(50)), {}
        answers.append(defense(*asked).values)

    assert not torch.allclose(answers[0], answers[1], atol=1e-2)
    assert torch.equal(answers[0].argmax(dim=1), clean.argmax(dim=1))
