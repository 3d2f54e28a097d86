"""JBDA goes towards the victim's label."""

import torch
from torch import nn

from redteam.attacks.jbda import Jbda
from redteam.learning import Transfer
from tests.redteam.thieves import bands, pictures


def test_a_new_row_scores_higher_in_the_label_of_its_old_one() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    transfer = Transfer(pictures(30), bands(pictures(30)))
    new = Jbda().augmented(network, transfer, torch.Generator())
    label = transfer.answers.argmax(dim=1)[:, None]
    gain = network(new).gather(1, label) - network(transfer.inputs).gather(1, label)

    assert bool((gain > 0).all())
