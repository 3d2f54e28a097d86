"""The check of a thief's gradient tells a right one from a wrong one."""

import pytest
from torch import Tensor, nn

from redteam.attacks.dfme import Dfme
from redteam.attacks.megex import Megex
from redteam.explanations.cosines import cosine
from tests.redteam.explainers import Shower

SHAPE = (1, 28, 28)


def measured(attack: Dfme, oracle: Shower, **given: object) -> float:
    return cosine(attack, oracle, oracle.network, shape=SHAPE, **given)  # type: ignore[arg-type]  # turns or clone


def test_exact_explanations_have_a_cosine_of_one_and_flipped_ones_less() -> None:
    attack = Megex(recheck=0)

    def flipped(maps: Tensor) -> Tensor:
        return -maps

    assert measured(attack, Shower()) == pytest.approx(1.0, abs=1e-4)
    assert measured(attack, Shower(view=flipped)) < 0.9


def test_a_probe_is_nearly_at_right_angles() -> None:
    assert 0 < measured(Dfme(), Shower()) < 0.05


def test_a_clone_that_is_the_victim_leaves_nothing_to_climb() -> None:
    oracle = Shower()

    class Centred(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            scores: Tensor = oracle.network(inputs)
            return scores - scores.mean(dim=1, keepdim=True)

    assert abs(measured(Dfme(), oracle, clone=Centred())) < 0.02
