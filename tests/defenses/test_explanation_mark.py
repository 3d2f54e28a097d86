"""Maps with the mark are known, others are not, and it can hardly be seen."""

import pytest
import torch

from defenses.explanation_display import ExplanationDisplay
from defenses.explanation_mark import ExplanationMark
from mantlet.plugin import Setup
from mantlet.types import Kind, Prediction
from tests.helpers import SETUP, query


def of_key(secret: bytes) -> ExplanationMark:
    defense = ExplanationMark()
    defense.load(Setup(SETUP.device, secret))
    return defense


def displayed(count: int, seed: int = 0) -> torch.Tensor:
    maps = torch.randn(count, 1, 28, 28, generator=torch.Generator().manual_seed(seed))
    prediction = Prediction(maps, Kind.ATTRIBUTIONS)
    return ExplanationDisplay()(prediction, query(maps), {}).values


def marked(defense: ExplanationMark, maps: torch.Tensor) -> torch.Tensor:
    return defense(Prediction(maps, Kind.ATTRIBUTIONS), query(maps), {}).values


def test_two_marked_maps_are_proof_and_fifty_without_it_are_none() -> None:
    ours = of_key(b"ours")

    assert ours.p_value(marked(ours, displayed(2))) < 1e-6
    assert ours.p_value(displayed(50, seed=1)) > 0.01


def test_maps_of_other_keys_are_no_proof() -> None:
    """The bound is a bound: under 1 % in no more than 1 % of 300 keys, give or take."""
    ours, maps = of_key(b"ours"), displayed(50)
    others = [marked(of_key(f"key {number}".encode()), maps) for number in range(300)]
    proofs = [ours.p_value(other) for other in others]

    assert sum(p < 0.01 for p in proofs) <= 8


def test_plug_ins_of_two_names_have_marks_of_their_own() -> None:
    ours, other = ExplanationMark(), ExplanationMark(name="other")
    for defense in (ours, other):
        defense.load(Setup(SETUP.device, b"ours"))
    maps = marked(other, displayed(50))

    assert other.p_value(maps) < 1e-6
    assert ours.p_value(maps) > 0.01


def test_it_can_hardly_be_seen_and_stays_within_the_range() -> None:
    ours, maps = of_key(b"ours"), displayed(50)
    values = marked(ours, maps)

    assert float((values - maps).abs().max()) <= 0.04
    assert float(values.max()) <= 1.0
    assert float(values.min()) >= 0.0


@pytest.mark.parametrize("maps", [torch.zeros(3, 1, 8, 8), torch.ones(3, 1, 8, 8)])
def test_maps_that_say_nothing_are_no_proof(maps: torch.Tensor) -> None:
    assert of_key(b"ours").p_value(maps) == 1.0
