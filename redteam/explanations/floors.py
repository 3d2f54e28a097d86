"""What the bench of explanations has to reach, and what it did."""

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from redteam.judging import Record, floor
from redteam.measures import spread

TEN = "display, ten probes"
ADAPTIVE = ("display, magnitudes", "display, shares", TEN, "display, jitter and prior")
"""Thieves who know the display, as the paper's attack does it."""
FELLOW = "dfme, diverse"
"""What these fall back to: DFME with their own spread over the classes."""
FELLOW_OF = {TEN: "dfme, diverse, ten probes"}
BEYOND = ("display, matched", "display and budget, matched")
USUAL, MANY = 10_000, 100_000
LITTLE = 0.02
"""By how much a display may bring ten probes nearer to the gradient than they come without any map."""
GOAL = 0.8
"""The accuracy whose price in rows is compared."""


def floors(found: Mapping[str, Any]) -> list[Record]:
    """Each with ``wanted`` in words, what was ``measured``, and whether it is ``missed``."""
    cosines = {(one["gradient"], one["displayed"]): one["cosine"] for one in found["cosines"]}
    told = [*_unit(cosines), _hidden(cosines), *_added(cosines)]
    for victim in dict.fromkeys(theft["victim"] for theft in found["thefts"]):
        own = [theft for theft in found["thefts"] if theft["victim"] == victim]
        told += [
            _ahead(victim, own, arm, fellow)
            for arm, fellow in product(("top class", "matched"), ("dfme", FELLOW))
        ]
        told += _alike(victim, own)
    return [*told, *_people(found["people"]), _alarm(found["alarm"]), _latency(found["latency"])]


def scores(own: Sequence[Record], arm: str, budget: int) -> tuple[float, float]:
    """Mean and deviation of the clones' accuracy over seeds; NaN where there are none."""
    values = [t["clone_accuracy"] for t in own if t["arm"] == arm and t["budget"] == budget]
    return spread(values) if values else (math.nan, math.nan)


def rows_to(own: Sequence[Record], arm: str, goal: float = GOAL) -> float:
    """Rows at which the mean accuracy reaches the goal, along a line in log rows; infinite where it never does."""
    budgets = sorted({t["budget"] for t in own if t["arm"] == arm})
    points = [(budget, scores(own, arm, budget)[0]) for budget in budgets]
    for number, (budget, score) in enumerate(points):
        if score < goal:
            continue
        if not number:
            return float(budget)
        before, low = points[number - 1]
        share = (goal - low) / (score - low)
        return float(before * (budget / before) ** share)
    return math.inf


def _unit(cosines: Mapping[tuple[str, bool], float]) -> list[Record]:
    """The cosine check of the gradient, within a tenth."""
    wanted = {
        "one probe": math.sqrt(2 / (math.pi * 784)),
        "ten probes": math.sqrt(10 / 794),
        "any class, logit": 1.0,
        "any class, log-probability": 1.0,
        "any class, probability": 1.0,
    }
    return [
        floor(
            f"cosine of {name} {value:.3f} within 10 %",
            f"{cosines[name, False]:.4f}",
            met=abs(cosines[name, False] / value - 1) <= 0.1,
        )
        for name, value in wanted.items()
    ]


def _hidden(cosines: Mapping[tuple[str, bool], float]) -> Record:
    behind = {name: value for (name, displayed), value in cosines.items() if displayed}
    worst = max(behind, key=lambda name: abs(behind[name]))
    return floor(
        "displayed, no way to the gradient has a cosine over 0.05",
        f"{behind[worst]:.4f} ({worst})",
        met=abs(behind[worst]) <= 0.05,
    )


def _added(cosines: Mapping[tuple[str, bool], float]) -> list[Record]:
    """What ten probes gain by the display, beside ten along the slope that the thief's own activation has."""
    base = cosines["ten probes, by the activation's slope", False]
    return [
        floor(
            f"{name} come no nearer than without a map, by {LITTLE}",
            f"{cosines[name, True]:.4f} against {base:.4f}",
            met=cosines[name, True] <= base + LITTLE,
        )
        for name in ("magnitudes on ten probes", "shares on ten probes")
    ]


def _ahead(victim: str, own: Sequence[Record], arm: str, fellow: str) -> Record:
    """Undefended, explanations put a thief ahead of DFME: as the paper has it, and matched."""
    budgets = {a: {t["budget"] for t in own if t["arm"] == a} for a in (arm, fellow)}
    budget = max(budgets[arm] & budgets[fellow], default=0)
    points = 100 * (scores(own, arm, budget)[0] - scores(own, fellow, budget)[0])
    ours, theirs = (rows_to(own, a) for a in (arm, fellow))
    ratio = ours / min(theirs, max(budgets[fellow], default=math.nan))  # not reached took more
    return floor(
        f"{victim}: {arm} 3 points over {fellow} at {MANY:,} rows, or 80 % with 0.7 of its rows",
        f"{points:+.1f} points at {budget:,} rows; 80 %: {_rows(ours)}, {fellow}: {_rows(theirs)}",
        met=(budget == MANY and points >= 3) or ratio <= 0.7,
    )


def _alike(victim: str, own: Sequence[Record]) -> list[Record]:
    """Defended, nobody is ahead of DFME by more than a deviation: after few rows, and where maps pay undefended."""
    told = []
    for budget, arm in product((USUAL, MANY), (*ADAPTIVE, *BEYOND)):
        fellow = FELLOW_OF.get(arm, FELLOW)
        (score, own_spread), (base, deviation) = (scores(own, a, budget) for a in (arm, fellow))
        count = sum((t["arm"], t["budget"]) == (arm, budget) for t in own)  # seeds
        if math.isnan(score) or math.isnan(base):
            continue
        told.append(
            floor(
                f"{victim}: {arm} within one s.d. of {fellow} at {budget:,} rows",
                f"{score:.3f} ± {own_spread:.3f} ({count}) against {base:.3f} ± {deviation:.3f}",
                met=score <= base + max(own_spread, deviation),
            )
        )
    return told


def _people(records: Sequence[Record]) -> list[Record]:
    told = []
    for record in records:
        name = record["pictures"]
        if "pointing" in record:
            true, served = record["pointing"]
            told.append(
                floor(
                    "the pointing game within 2 points of true maps",
                    f"{served:.1%} against {true:.1%}",
                    met=served >= true - 0.02,
                )
            )
            continue
        rank = record["rank_correlation"]
        told.append(floor(f"{name}: ranks correlate by 0.8", f"{rank:.3f}", met=rank >= 0.8))
        for area in ("deletion", "insertion"):
            true, served = record[area]
            told.append(
                floor(
                    f"{name}: {area} area within 10 % of true maps",
                    f"{served:.3f} against {true:.3f}",
                    met=abs(served / true - 1) <= 0.1,
                )
            )
    return told


def _alarm(records: Sequence[Record]) -> Record:
    rows = [record["rows_to_alarm"] for record in records]
    return floor(
        "the shipped default's detectors alarm on the generator within 50 rows",
        ", ".join(map(str, rows)),
        met=all(row is not None and row <= 50 for row in rows),
    )


def _latency(record: Record) -> Record:
    return floor(
        "the display adds at most 10 % to an explanation",
        f"{record['added']:+.1%}",
        met=record["added"] <= 0.1,
    )


def _rows(number: float) -> str:
    return f"{number:,.0f} rows" if math.isfinite(number) else "not reached"
