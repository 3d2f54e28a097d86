"""A clone's weights follow a generator, and it learns what it is shown."""

import torch

from redteam.learning import Means, Training, Transfer, answers_of, train
from tests.helpers import rows


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def means(classes: int = 10) -> Means:
    return Means(torch.zeros(0, 1, 28, 28), classes=classes)


def test_a_clone_follows_its_generator_and_leaves_the_global_one_alone() -> None:
    before = torch.random.get_rng_state()
    weights = [next(means().network(generator(seed)).parameters()) for seed in (1, 1, 2)]

    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_clone_has_as_many_classes_as_the_target() -> None:
    network = means(classes=7).network(generator())

    assert means().shape == (1, 28, 28)
    assert answers_of(network.eval(), rows(3, shape=(1, 28, 28))).shape == (3, 7)


def test_training_learns_the_answers_and_again_gives_the_same_weights() -> None:
    inputs = rows(64, shape=(1, 28, 28))
    inputs[:32] *= 0.2  # dark ones are of class 3, bright ones of class 7
    answers = torch.eye(10)[[3] * 32 + [7] * 32]
    networks = [means().network(generator()) for _ in range(2)]
    for network in networks:
        train(network, Transfer(inputs, answers), Training(steps=30), generator())
    found = answers_of(networks[0], inputs)

    assert torch.equal(found.argmax(dim=1), answers.argmax(dim=1))
    assert torch.equal(found, answers_of(networks[1], inputs))


def test_few_rows_are_seen_again_until_the_steps_are_done() -> None:
    inputs = rows(3, shape=(1, 28, 28))
    network = means().network(generator())
    train(network, Transfer(inputs, torch.eye(10)[:3]), Training(steps=80), generator())

    assert answers_of(network, inputs).argmax(dim=1).tolist() == [0, 1, 2]
