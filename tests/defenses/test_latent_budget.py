import pytest
import torch

from defenses.latent_budget import LatentBudget
from tests.helpers import SETUP, query


@pytest.mark.parametrize(("rows", "different"), [(200, 163), (2000, 499)])
def test_the_budget_is_collected_like_coupons(rows: int, different: int) -> None:
    """500 latents: what n rows bring is 500 (1 - exp(-n / 500)), within four deviations."""
    defense = LatentBudget(latents=500)
    defense.load(SETUP)
    asked = torch.randn(rows, 16, generator=torch.Generator().manual_seed(0))
    found = torch.unique(defense(query(asked)).inputs, dim=0)

    assert abs(len(found) - 500 * (1 - 2.718281828 ** (-rows / 500))) < 4 * 500**0.5 / 3
    assert abs(len(found) - different) < 30
