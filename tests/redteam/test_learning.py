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


def test_mirrored_rows_teach_a_clone_the_other_side() -> None:
    inputs = torch.zeros(2, 1, 28, 28)
    inputs[0, :, :, :6] = inputs[1, :, :6, :] = 1.0  # a bar at the left, and one above
    learned = []
    for mirror in (False, True):
        network = means(classes=2).network(generator())
        training = Training(steps=100, mirror=mirror)
        train(network, Transfer(inputs, torch.eye(2)), training, generator())
        learned.append(float(answers_of(network, inputs.flip(3))[0, 0]))

    assert learned[1] > max(0.9, learned[0])


def test_maps_are_altered_with_their_rows() -> None:
    inputs = rows(4, shape=(3, 8, 8))
    seen: list[Transfer] = []

    def loss(network: torch.nn.Module, batch: Transfer, own: torch.Tensor) -> torch.Tensor:
        seen.append(batch)
        total: torch.Tensor = network(batch.inputs[own]).sum()
        return total

    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
    transfer = Transfer(inputs, torch.eye(2)[[0, 1, 0, 1]], inputs.clone())
    train(network, transfer, Training(steps=4, shift=2, mirror=True), generator(), loss)
    both = torch.cat([batch.inputs for batch in seen])

    assert not any(torch.equal(row, own) for row in both for own in inputs)
    assert torch.equal(both, torch.cat([batch.maps for batch in seen if batch.maps is not None]))


def test_half_precision_learns_the_same() -> None:
    inputs = rows(64, shape=(1, 28, 28))
    inputs[:32] *= 0.2
    answers = torch.eye(10)[[3] * 32 + [7] * 32]
    network = means().network(generator())
    train(network, Transfer(inputs, answers), Training(steps=30, bfloat16=True), generator())

    assert next(network.parameters()).dtype == torch.float32
    assert torch.equal(answers_of(network, inputs).argmax(dim=1), answers.argmax(dim=1))


def test_what_is_off_does_not_rename_a_theft() -> None:
    plain = {"steps": 1500, "batch": 64, "lr": 0.05, "weight_decay": 0.0005}

    assert Training().model_dump() == plain
    assert Training(mirror=True).model_dump() == {**plain, "mirror": True}
