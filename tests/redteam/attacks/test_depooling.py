"""The thief's own pairs of maps and gradients, defended with a key of its own."""

import torch

from redteam.attacks.depooling import Depooling
from redteam.learning import Means

MEANS = Means(torch.zeros(0, 1, 28, 28))


def test_what_comes_back_has_unit_length() -> None:
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(3, 1, 28, 28, generator=generator)
    back = Depooling(MEANS, (), generator).back(pictures, pictures)

    torch.testing.assert_close(back.flatten(1).norm(dim=1), torch.ones(3))


def test_without_defenses_it_learns_that_maps_are_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    prior = Depooling(MEANS, (), generator)
    for _ in range(60):
        pictures = torch.rand(32, 1, 28, 28, generator=generator)
        prior.learn(pictures, torch.randn(pictures.shape, generator=generator))
    pictures = torch.rand(32, 1, 28, 28, generator=generator)
    maps = torch.randn(pictures.shape, generator=generator)
    alike = torch.nn.functional.cosine_similarity(
        prior.back(pictures, maps).flatten(1), maps.flatten(1)
    )

    assert float(alike.mean()) > 0.8
