"""Tables and the picture of the bench of explanations, from records."""

from collections.abc import Iterator
from typing import Any

import pytest
from matplotlib import pyplot

from docs import explained

FOUND: dict[str, Any] = {
    "thefts": [
        {
            "victim": victim,
            "arm": arm,
            "budget": budget,
            "seed": seed,
            "floats": 1_000,
            "clone_accuracy": 0.5 + 0.1 * seed,
        }
        for victim in ("fashion", "mnist")
        for arm, budget in (("dfme", 5_000), ("dfme", 10_000), ("display, matched", 10_000))
        for seed in range(1 if budget == 5_000 else 2)
    ],
    "cosines": [{"gradient": "one probe", "displayed": False, "cosine": 0.03}],
    "search": [
        {
            "setting": "2 bits",
            "people": [
                {
                    "pictures": pictures,
                    "rank_correlation": ranks,
                    "deletion": [0.2, 0.2 + worse],
                    "insertion": [0.8, 0.8 - worse],
                }
                for pictures, ranks, worse in (("mnist", 0.9, 0.01), ("fashion", 0.85, 0.04))
            ]
            + [{"pictures": "drawn", "pointing": [0.84, 0.75]}],
            "as_shown": 0.171,
            "undone": 0.192,
        }
    ],
    "floors": [
        {"wanted": "this", "measured": "0.3", "missed": True},
        {"wanted": "that", "measured": "0.9", "missed": False},
    ],
}


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(explained, "found", lambda: FOUND)
    yield
    pyplot.close("all")


@pytest.mark.usefixtures("measured")
def test_a_thief_has_a_line_with_every_budget_that_it_was_tried_with() -> None:
    lines = explained.thefts().splitlines()

    assert lines[0] == "| model | thief | 5,000 rows | 10,000 rows | numbers for 10,000 rows |"
    assert lines[2] == "| MNIST | dfme | 50.0 (1) | 55.0 ± 7.1 (2) | 1,000 |"
    assert lines[3] == "| MNIST | display, matched |  | 55.0 ± 7.1 (2) | 1,000 |"
    assert lines[4].startswith("| Fashion | dfme")


@pytest.mark.usefixtures("measured")
def test_what_was_missed_is_said_in_bold() -> None:
    assert "| one probe | as they are | 0.030 |" in explained.cosines()
    assert "| this | 0.3 | **missed** |" in explained.floors()
    assert "| that | 0.9 | reached |" in explained.floors()


@pytest.mark.usefixtures("measured")
def test_a_setting_shows_the_worst_that_it_costs_people() -> None:
    (line,) = explained.settings().splitlines()[2:]

    assert line == "| 2 bits | 0.85 | +20 % | -5 % | -9.0 | 0.171 | 0.192 |"


@pytest.mark.usefixtures("measured")
def test_the_picture_has_a_bar_a_thief() -> None:
    figure = explained.clones()

    assert [len(axes.patches) for axes in figure.axes] == [2, 2]


def test_nothing_was_measured_where_there_is_no_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    explained.found.cache_clear()
    monkeypatch.setattr(explained, "RESULTS", tmp_path)
    lines = explained.thefts().splitlines()
    explained.found.cache_clear()

    assert len(lines) == 2
