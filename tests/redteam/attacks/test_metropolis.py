"""A leaked discriminator's picks follow the ratio that it knows of, and its calibration finds that ratio."""

import pytest
import torch
from torch import Tensor, nn

from mantlet.errors import ConfigError
from redteam.attacks.metropolis import LARGEST, calibrated, selected


class Mean(nn.Module):
    """Says the mean pixel."""

    def forward(self, pictures: Tensor) -> Tensor:
        return pictures.flatten(1).mean(dim=1)


def shaded(values: Tensor) -> Tensor:
    """Pictures whose mean, in [-1, 1], is as given."""
    return ((values + 1) / 2).clamp(0, 1)[:, None, None, None].expand(-1, 1, 2, 2)


def draws(count: int, mean: float, generator: torch.Generator) -> Tensor:
    return 0.2 * torch.randn(count, generator=generator) + mean


def test_calibration_finds_the_log_of_the_ratio_of_the_densities() -> None:
    generator = torch.Generator().manual_seed(0)
    real, made = draws(20_000, 0.1, generator), draws(5_000, -0.1, generator)
    odds = calibrated(Mean(), shaded(real), shaded(made))
    at = torch.tensor([-0.3, 0.0, 0.3])
    # of two normal densities: (x - m)^2 / 2s^2 of one less that of the other
    wanted = 0.2 * at / 0.2**2

    assert torch.allclose(odds(shaded(at)).float(), wanted, atol=0.15)


def test_scores_that_part_the_kinds_completely_give_finite_odds() -> None:
    ones = shaded(torch.ones(5))
    odds = calibrated(Mean(), ones, 1 - ones)

    assert 1 < float(odds(ones).max()) <= LARGEST
    with pytest.raises(ConfigError, match="1 real and 5 made"):
        calibrated(Mean(), ones[:1], ones)


def test_states_of_the_chains_are_distributed_as_the_real_ones() -> None:
    generator = torch.Generator().manual_seed(1)
    made = torch.rand(60_000, generator=generator).double()
    # what is wanted has density 2x: its odds are 2x to 1
    at = selected((2 * made).log(), chains=600, every=5, generator=generator)

    assert abs(float(made[at].mean()) - 2 / 3) < 0.02
    assert abs(float(made.mean()) - 1 / 2) < 0.01


def test_equal_odds_take_every_proposal() -> None:
    at = selected(torch.zeros(12), chains=2, every=3, generator=torch.Generator())

    assert at.tolist() == [2, 8, 5, 11]


def test_a_chain_begins_at_its_first_proposal_and_stays_where_all_else_is_worse() -> None:
    odds = torch.tensor([0.0, -1e9, -1e9, -1e9, -1e9, 0.0, 0.0, 0.0])
    at = selected(odds, chains=2, every=2, generator=torch.Generator())

    assert at.tolist() == [0, 5, 0, 7]
    assert len(selected(odds[:1], chains=2, every=2, generator=torch.Generator())) == 0
