"""What is left to people is measured of true maps and of served ones alike."""

import pytest

from defenses.explanation_display import ExplanationDisplay
from redteam.explanations.people import drawn_task, for_people
from redteam.pools import Pools


def test_the_display_keeps_what_people_see(pools: Pools) -> None:
    found = for_people(pools, "mnist", (ExplanationDisplay(),), 40)

    assert found["rank_correlation"] > 0.9
    assert found["deletion"][1] == pytest.approx(found["deletion"][0], rel=0.1)
    assert found["insertion"][1] == pytest.approx(found["insertion"][0], rel=0.1)


def test_one_cell_points_nowhere_and_undefended_maps_point_as_true_ones() -> None:
    (true, undefended), (_, flat) = (
        drawn_task(chain)["pointing"] for chain in ((), (ExplanationDisplay(cell=256),))
    )

    assert undefended == true > 0.7
    assert flat < true / 2
