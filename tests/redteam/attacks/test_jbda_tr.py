"""The targeted form goes towards other classes, in small steps."""

import pytest
import torch
from torch import nn

from redteam.attacks.jbda_tr import JbdaTr
from redteam.learning import Transfer
from tests.redteam.thieves import bands, pictures


def test_a_new_row_scores_higher_in_one_other_class_and_is_a_step_away() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    transfer = Transfer(pictures(30), bands(pictures(30)))
    drawn = [JbdaTr().augmented(network, transfer, torch.Generator().manual_seed(1)) for _ in "ab"]
    other = torch.randint(1, 10, (30,), generator=torch.Generator().manual_seed(1))
    target = (transfer.answers.argmax(dim=1) + other)[:, None] % 10
    gain = network(drawn[0]).gather(1, target) - network(transfer.inputs).gather(1, target)

    assert torch.equal(drawn[0], drawn[1])
    assert bool((gain > 0).all())
    assert float((drawn[0] - transfer.inputs).abs().amax()) == pytest.approx(0.1, abs=1e-6)
