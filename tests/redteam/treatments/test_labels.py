"""Labels alone."""

import torch

from redteam.learning import Means, Transfer
from redteam.treatments.labels import Labels
from tests.redteam.thieves import bands, pictures


def test_answers_become_their_top_class() -> None:
    inputs = pictures(20)
    answers = bands(inputs)
    got = Labels().apply(Transfer(inputs, answers), Means(inputs), torch.Generator())

    assert torch.equal(got.inputs, inputs)
    assert torch.equal(got.answers.argmax(dim=1), answers.argmax(dim=1))
    assert set(got.answers.unique().tolist()) == {0.0, 1.0}
