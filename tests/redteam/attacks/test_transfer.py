"""What attacks bring home, and the substitute they train."""

import torch

from redteam.attacks.transfer import Transfer, substitute, train
from tests.helpers import rows


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_substitute_follows_its_generator_and_leaves_the_global_one_alone() -> None:
    before = torch.random.get_rng_state()
    weights = [next(substitute(generator(seed)).parameters()) for seed in (1, 1, 2)]

    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_training_learns_the_answers() -> None:
    inputs = rows(64, shape=(1, 28, 28))
    inputs[:32] *= 0.2  # dark ones are of class 3, bright ones of class 7
    answers = torch.eye(10)[[3] * 32 + [7] * 32]
    network = substitute(generator())
    train(network, Transfer(inputs, answers), epochs=20, generator=generator())

    assert torch.equal(network(inputs).argmax(dim=1), answers.argmax(dim=1))
