"""A victim of the bench is trained once, served as it is, and changed by its defense alone."""

from pathlib import Path

import pytest
import torch

from mantlet.gan_training import drawn
from redteam.gan.cases import SMALL
from redteam.gan.house import Bench, House
from redteam.pools import Pools

DATA = Path(__file__).parents[2] / "data"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    return House(Bench(Pools(DATA), tmp_path_factory.mktemp("work"), SMALL), "mnist-test", 0)


def test_a_victim_is_trained_once_and_is_the_same_when_opened_again(house: House) -> None:
    latents = torch.randn(4, 64)
    first = drawn(house.gan.generator, latents)
    written = house.path.stat().st_mtime_ns
    again = House(house.bench, house.family, house.seed)

    assert torch.equal(drawn(again.gan.generator, latents), first)
    assert house.path.stat().st_mtime_ns == written


def test_what_is_served_undefended_is_what_the_network_draws(house: House) -> None:
    served = house.asked("none", seed=5)
    latents = torch.randn(128, 64, generator=torch.Generator().manual_seed(1005))

    assert torch.allclose(served, drawn(house.gan.generator, latents), atol=1e-4)


def test_a_defense_changes_what_clients_get_and_clients_get_their_own(house: House) -> None:
    clean = house.asked("none", seed=5)
    marked = house.asked("watermark", seed=5)
    one, other = (house.asked("latent_budget", seed=5, clients=n) for n in (1, 2))

    assert 0 < float((marked - clean).square().mean()) < 10**-3.7
    assert not torch.allclose(one, clean, atol=0.1)
    assert not torch.allclose(one, other, atol=0.1)


def test_real_pictures_come_from_rows_that_nobody_else_has(house: House) -> None:
    size = house.bench.size

    assert size.learned <= size.known
    assert size.known + size.compared <= size.unseen
    assert house.unseen.shape == (128, 1, 28, 28)
    assert house.compared.shape == (128, 84)
    assert house.clean_features.shape == (128, 84)
