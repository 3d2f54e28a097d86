"""The disagreement of DFME is of logits."""

import torch

from redteam.attacks.dfme import Dfme


def test_scores_that_are_the_centred_logits_agree_whatever_was_lost_in_the_softmax() -> None:
    logits = torch.tensor([[2.0, -1.0, -1.0], [0.5, 0.5, -1.0]])
    answers = torch.softmax(logits + 7, dim=1)
    apart = Dfme().disagreement(logits, answers)
    further = Dfme().disagreement(logits + torch.tensor([3.0, 0.0, 0.0]), answers)

    torch.testing.assert_close(apart, torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(further, torch.ones(2))


def test_answers_of_zero_leave_it_finite() -> None:
    apart = Dfme().disagreement(torch.zeros(1, 3), torch.tensor([[1.0, 0.0, 0.0]]))

    assert bool(torch.isfinite(apart).all())
