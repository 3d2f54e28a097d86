"""The terms against their formulas, computed another way."""

import math

import pytest
import torch
from torch import Tensor, nn

from defenses.ini import losses
from defenses.ini.losses import Direction


def student() -> nn.Linear:
    with torch.random.fork_rng():
        torch.random.manual_seed(0)
        return nn.Linear(4, 3)


def rows(count: int, size: int, seed: int) -> Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed))


def test_centred_log_probabilities_are_centred_logits() -> None:
    logits = rows(5, 3, 1)

    assert torch.allclose(losses.centred(logits), logits - logits.mean(dim=1, keepdim=True))


def test_the_distance_is_nought_where_the_victim_answers_as_the_student() -> None:
    logits = rows(5, 3, 1)
    balanced = logits - logits.mean(dim=1, keepdim=True)

    assert float(losses.distance(balanced, logits + 7)) == pytest.approx(0, abs=1e-6)
    assert float(losses.distance(balanced + 0.5, logits)) == pytest.approx(0.5, abs=1e-6)


def test_the_student_gets_no_gradient_of_the_distance() -> None:
    own, victim = rows(5, 3, 1).requires_grad_(), rows(5, 3, 2).requires_grad_()
    losses.distance(own, victim).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped

    assert own.grad is None
    assert victim.grad is not None


def test_the_entropy_is_largest_where_all_classes_are_alike() -> None:
    assert float(losses.negative_entropy(torch.zeros(2, 3))) == pytest.approx(-math.log(3))


def test_the_useless_answer_has_one_label_and_its_share() -> None:
    """Descent on the term alone ends there."""
    logits = rows(4, 5, 3).requires_grad_()
    optimizer = torch.optim.Adam([logits], 0.1)
    for _ in range(400):
        loss = losses.useless(logits, favourite=2, share=0.4)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()
    answer = logits.softmax(dim=1)

    assert torch.allclose(answer[:, 2], torch.full((4,), 0.4), atol=0.01)
    assert torch.allclose(answer[:, 0], torch.full((4,), 0.15), atol=0.01)


@pytest.mark.parametrize("how", ["published", "attacker"])
def test_the_thiefs_gradient_is_that_of_the_divergence(how: Direction) -> None:
    """Against finite differences in the student's bias."""
    thief, inputs, victim = student().double(), rows(6, 4, 1).double(), rows(6, 3, 2).double()
    found = losses.thief_gradient(thief, inputs, victim, how)[1]

    def divergence(step: Tensor) -> float:
        mine = nn.functional.linear(inputs, thief.weight, thief.bias + step).log_softmax(1)
        theirs = victim.log_softmax(1)
        # kl_div(a, b) is KL[b : a]
        pair = (theirs, mine) if how == "published" else (mine, theirs)
        found = nn.functional.kl_div(*pair, reduction="batchmean", log_target=True)
        return found.item()

    steps = 1e-5 * torch.eye(3, dtype=torch.float64)
    slope = [(divergence(step) - divergence(-step)) / 2e-5 for step in steps]

    assert found.tolist() == pytest.approx(slope, abs=1e-6)


def test_the_victim_can_follow_the_thiefs_gradient() -> None:
    """The second order: descent on its size makes the victim answer what the student does."""
    thief, inputs = student(), rows(6, 4, 1)
    victim = rows(6, 3, 2).requires_grad_()
    useful = losses.useful_gradient(thief, inputs, torch.tensor([0, 1, 2, 0, 1, 2]))
    optimizer = torch.optim.Adam([victim], 0.05)
    sizes = []
    for _ in range(300):
        size = losses.relative_size(
            losses.thief_gradient(thief, inputs, victim, "published"), useful
        )
        sizes.append(size.item())
        optimizer.zero_grad()
        size.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()

    assert sizes[-1] < 0.1 * sizes[0]


def test_the_cosine_is_that_of_one_long_vector() -> None:
    first = [torch.tensor([1.0, 0.0]), torch.tensor([[2.0]])]
    second = [torch.tensor([0.0, 3.0]), torch.tensor([[1.0]])]

    assert float(losses.cosine(first, first)) == pytest.approx(1)
    assert float(losses.cosine(first, second)) == pytest.approx(2 / math.sqrt(5 * 10))


def test_the_relative_size_does_not_depend_on_how_many_parameters_there_are() -> None:
    few, many = [torch.full((2,), 0.5)], [torch.full((200,), 0.5)]

    assert float(losses.size(few)) == float(losses.size(many)) == 0.5
    assert float(losses.relative_size(few, few)) == float(losses.relative_size(many, many)) == 1
