import numpy as np
import pytest
import torch
from scipy import stats

from defenses.anchors import chosen
from defenses.latent_budget import LatentBudget
from mantlet.types import Query
from tests.helpers import SETUP


def loaded(shared: str = "identity", latents: int = 40) -> LatentBudget:
    defense = LatentBudget.model_validate({"shared": shared, "latents": latents})
    defense.load(SETUP)
    return defense


def rewritten(defense: LatentBudget, client: str, identity: str = "", rows: int = 500) -> set[str]:
    """The different latents that a client's rows get."""
    drawn = torch.randn(rows, 8, generator=torch.Generator().manual_seed(len(client)))
    identities = [identity] * rows if identity else ()
    answer = defense(Query([client] * rows, drawn, 0.0, (), identities)).inputs
    return {str(row) for row in answer.tolist()}


def test_accounts_of_one_identity_share_their_anchors() -> None:
    defense = loaded()
    first = rewritten(defense, "one", "acme")

    assert len(first) == 40
    assert rewritten(defense, "another account", "acme") == first
    assert not rewritten(defense, "one", "umbrella") & first


def test_a_client_without_an_identity_pays_for_itself() -> None:
    defense = loaded()

    assert not rewritten(defense, "one") & rewritten(defense, "two")
    assert rewritten(defense, "acme") == rewritten(defense, "one", "acme")


def test_everybody_may_share_them() -> None:
    defense = loaded("everybody")

    assert rewritten(defense, "one", "acme") == rewritten(defense, "two", "umbrella")


def test_anchors_are_standard_normal() -> None:
    """Kolmogorov-Smirnov on 100,000 numbers, and no correlation of an anchor with the next one."""
    defense = loaded()
    drawn = defense.drawn(["client"] * 2000, np.arange(2000), 50)

    assert stats.kstest(drawn.flatten(), "norm").pvalue > 0.01
    assert abs(np.corrcoef(drawn[:-1].flatten(), drawn[1:].flatten())[0, 1]) < 0.02


@pytest.mark.parametrize("many", [1, 2, 7, 10**12])
def test_every_number_is_chosen_as_often_and_none_beyond(many: int) -> None:
    dice = np.linspace(0, 1, 1401)[1:-1]
    numbers = chosen(np.append(dice, np.nextafter(1.0, 0.0)), many)

    assert numbers.min() >= 0
    assert numbers.max() == many - 1
    if many <= 7:
        assert np.ptp(np.bincount(numbers)) <= 2
