"""The disagreement of MAZE is a divergence, and it replays by default."""

import torch

from redteam.attacks.maze import Maze


def test_it_is_the_divergence_of_the_clone_from_the_victim() -> None:
    answers = torch.tensor([[0.7, 0.2, 0.1]])
    scores = torch.tensor([[0.5, 0.3, 0.2]]).log()
    expected = (answers * (answers / scores.exp()).log()).sum(dim=1)

    torch.testing.assert_close(Maze().disagreement(scores, answers), expected)
    torch.testing.assert_close(Maze().disagreement(answers.log(), answers), torch.zeros(1))


def test_answers_of_zero_leave_it_finite() -> None:
    apart = Maze().disagreement(torch.zeros(1, 3), torch.tensor([[1.0, 0.0, 0.0]]))

    assert bool(torch.isfinite(apart).all())


def test_it_asks_in_several_directions_and_replays() -> None:
    assert Maze().directions > 1
    assert Maze().replay_steps > 0
