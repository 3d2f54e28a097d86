"""What counts as reached, from records."""

import math
from typing import Any

import pytest

from redteam.explanations.floors import floors, rows_to, scores


def theft(arm: str, budget: int, *accuracies: float) -> list[dict[str, Any]]:
    return [
        {"victim": "mnist", "arm": arm, "budget": budget, "seed": seed, "clone_accuracy": accuracy}
        for seed, accuracy in enumerate(accuracies)
    ]


ARMS = (
    "display, magnitudes",
    "display, jitter and prior",
    "display, matched",
    "display and budget, matched",
)

WEIGHED = ("magnitudes on ten probes", "shares on ten probes")


def found(**changes: Any) -> dict[str, Any]:
    """Records of a bench in which everything was reached."""
    defended = [record for arm in ARMS for record in theft(arm, 10_000, 0.70, 0.72)]
    cosines = {
        "one probe": 0.028,
        "ten probes": 0.11,
        "ten probes, by the activation's slope": 0.14,
        "any class, logit": 1.0,
        "any class, log-probability": 1.0,
        "any class, probability": 1.0,
    }
    whole = {
        "thefts": [
            *theft("dfme", 10_000, 0.5, 0.5),
            *theft("dfme", 100_000, 0.9, 0.9),
            *theft("top class", 10_000, 0.85, 0.85),
            *theft("matched", 100_000, 0.94, 0.94),
            *theft("dfme, diverse", 10_000, 0.69, 0.75),
            *theft("dfme, diverse", 100_000, 0.85, 0.85),
            *defended,
        ],
        "cosines": [
            *({"gradient": n, "displayed": False, "cosine": c} for n, c in cosines.items()),
            *({"gradient": n, "displayed": True, "cosine": -0.04} for n in WEIGHED),
        ],
        "people": [
            {
                "pictures": "mnist",
                "rank_correlation": 0.9,
                "deletion": [0.2, 0.21],
                "insertion": [0.8, 0.78],
            },
            {"pictures": "drawn", "pointing": [0.85, 0.84]},
        ],
        "alarm": [{"seed": 0, "rows_to_alarm": 8}],
        "latency": {"added": 0.02},
    }
    return whole | changes


def missed(**changes: Any) -> list[str]:
    return [one["wanted"] for one in floors(found(**changes)) if one["missed"]]


def test_nothing_is_missed_where_everything_is_reached() -> None:
    assert missed() == []


AHEAD = (("top class", 10_000), ("dfme, diverse", 100_000))
SPOILED: dict[str, tuple[dict[str, Any], str]] = {
    "a defended thief is ahead": (
        {
            "thefts": [t for t in found()["thefts"] if t["arm"] != "display, matched"]
            + theft("display, matched", 10_000, 0.95, 0.94)
        },
        "display, matched within",
    ),
    "a defended thief is ahead where maps pay undefended": (
        {"thefts": found()["thefts"] + theft("display, shares", 100_000, 0.90, 0.91)},
        "display, shares within one s.d. of dfme, diverse at 100,000 rows",
    ),
    "explanations help no more than a spread over the classes does": (
        {
            "thefts": [
                t
                for t in found()["thefts"]
                if (t["arm"], t["budget"]) not in AHEAD and t["arm"] != "matched"
            ]
            + theft("top class", 100_000, 0.94, 0.94)
            + theft("matched", 100_000, 0.98, 0.98)
            + theft("dfme, diverse", 100_000, 0.93, 0.93)
        },
        "top class 3 points over dfme, diverse",
    ),
    "a way to the gradient": (
        {
            "cosines": [
                *found()["cosines"],
                {"gradient": "x", "displayed": True, "cosine": -0.06},
            ]
        },
        "cosine over 0.05",
    ),
    "no alarm": ({"alarm": [{"seed": 0, "rows_to_alarm": None}]}, "alarm on the generator"),
    "slow": ({"latency": {"added": 0.2}}, "adds at most"),
    "off the mark": ({"people": [{"pictures": "drawn", "pointing": [0.85, 0.8]}]}, "pointing game"),
}


@pytest.mark.parametrize("what", SPOILED)
def test_what_is_not_reached_is_called_missed(what: str) -> None:
    changes, words = SPOILED[what]
    (told,) = missed(**changes)

    assert words in told


def test_ten_probes_along_a_map_are_held_against_ten_without_one() -> None:
    seen = [{"gradient": WEIGHED[1], "displayed": True, "cosine": 0.17}]
    told = missed(cosines=[*found()["cosines"], *seen])

    assert told == [
        "displayed, no way to the gradient has a cosine over 0.05",
        "shares on ten probes come no nearer than without a map, by 0.02",
    ]


def test_scores_are_of_an_arm_at_a_budget() -> None:
    own = theft("dfme", 10, 0.4, 0.6) + theft("dfme", 20, 0.9)

    assert scores(own, "dfme", 10) == pytest.approx((0.5, 0.1414), abs=1e-3)
    assert all(map(math.isnan, scores(own, "dfme", 30)))


def test_rows_to_a_goal_lie_between_the_budgets_on_either_side() -> None:
    own = theft("dfme", 10, 0.4) + theft("dfme", 1000, 0.8)

    assert rows_to(own, "dfme", 0.6) == pytest.approx(100)
    assert rows_to(own, "dfme", 0.3) == 10
    assert rows_to(own, "dfme", 0.9) == math.inf
