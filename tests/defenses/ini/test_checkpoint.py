from pathlib import Path

import pytest
import torch
from torch import nn

from defenses.ini.checkpoint import Checkpoint
from mantlet.errors import ConfigError, WeightsError


def parts() -> tuple[nn.Linear, torch.optim.SGD]:
    network = nn.Linear(2, 2)
    return network, torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)


def step(network: nn.Linear, optimizer: torch.optim.SGD) -> None:
    optimizer.zero_grad()
    network(torch.ones(1, 2)).square().sum().backward()
    optimizer.step()


def test_networks_momentum_and_chance_go_on_where_they_were(tmp_path: Path) -> None:
    kept = Checkpoint(tmp_path / "c.safetensors", "settings")
    network, optimizer = parts()
    generator = torch.Generator().manual_seed(3)
    step(network, optimizer)
    torch.rand(5, generator=generator)
    kept.keep({"n": network, "o": optimizer}, generator, [{"benign": 0.5}])
    other, its_optimizer = parts()
    resumed = torch.Generator()
    history = kept.restore({"n": other, "o": its_optimizer}, resumed)
    step(network, optimizer)
    step(other, its_optimizer)

    assert history == [{"benign": 0.5}]
    assert torch.equal(network.weight, other.weight)
    assert torch.equal(torch.rand(3, generator=generator), torch.rand(3, generator=resumed))


def test_without_a_file_nothing_is_restored(tmp_path: Path) -> None:
    network, _ = parts()
    before = network.weight.clone()

    assert Checkpoint(tmp_path / "c", "s").restore({"n": network}, torch.Generator()) == []
    assert torch.equal(network.weight, before)


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    network, _ = parts()
    Checkpoint(path, "gamma 1").keep({"n": network}, torch.Generator(), [])

    with pytest.raises(ConfigError, match=f"'{path}' is of other settings or data.*remove it"):
        Checkpoint(path, "gamma 2").restore({"n": network}, torch.Generator())


def test_a_damaged_checkpoint_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    path.write_bytes(b"half")

    with pytest.raises(WeightsError, match="is it damaged"):
        Checkpoint(path, "s").restore({}, torch.Generator())


def test_a_finished_training_leaves_no_checkpoint(tmp_path: Path) -> None:
    kept = Checkpoint(tmp_path / "c.safetensors", "s")
    kept.keep({}, torch.Generator(), [])
    kept.done()
    kept.done()

    assert list(tmp_path.iterdir()) == []
