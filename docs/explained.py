"""What the page on explanations shows of its bench: thefts, ways to the gradient, floors, and a picture."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.figure import Figure

from docs.tables import table
from redteam.measures import spread

RESULTS = Path(__file__).parent / "results"
TITLES = {"mnist": "MNIST", "fashion": "Fashion"}
USUAL = 10_000
PLAIN, OPEN, SHOWN = "#8a8f98", "#b3261e", "#1b6ca8"
"""Colors of thieves without explanations, with those of an undefended model, and with displayed ones."""
Record = Mapping[str, Any]


@cache
def found() -> Mapping[str, Any]:
    """What the bench wrote; nothing where it never ran."""
    path = RESULTS / "explanations.json"
    parts = ("thefts", "cosines", "search", "floors")
    empty: dict[str, Any] = {part: [] for part in parts}
    return empty | (json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {})


def thefts() -> str:
    """Clones by thief and budget: means and deviations over seeds, with what came back."""
    own: Sequence[Record] = found()["thefts"]
    cases = dict.fromkeys((t["victim"], t["arm"]) for t in own)
    budgets = sorted({t["budget"] for t in own})
    head = ("model", "thief", *(f"{b:,} rows" for b in budgets), f"numbers for {USUAL:,} rows")
    order = {arm: number for number, arm in enumerate(dict.fromkeys(arm for _, arm in cases))}
    rows = []
    for victim, arm in sorted(cases, key=lambda case: (case[0] != "mnist", order[case[1]])):
        mine = [t for t in own if (t["victim"], t["arm"]) == (victim, arm)]
        floats = next((f"{t['floats']:,}" for t in mine if t["budget"] == USUAL), "")
        rows.append((TITLES[victim], arm, *(_cell(mine, b) for b in budgets), floats))
    return table(head, rows)


def _cell(own: Sequence[Record], budget: int) -> str:
    """Accuracy in percent, and how many seeds it is of; a single one has no deviation."""
    scores = [100 * t["clone_accuracy"] for t in own if t["budget"] == budget]
    if not scores:
        return ""
    middle, deviation = spread(scores)
    about = f" ± {deviation:.1f}" if len(scores) > 1 else ""
    return f"{middle:.1f}{about} ({len(scores)})"


def cosines() -> str:
    """How near each way comes to the gradient."""
    rows = [
        (
            one["gradient"],
            "displayed" if one["displayed"] else "as they are",
            f"{one['cosine']:.3f}",
        )
        for one in found()["cosines"]
    ]
    return table(("way to the gradient", "maps", "cosine with it"), rows)


def settings() -> str:
    """Each setting that was tried: the worst of what it costs people, and how near ten probes come by it."""
    head = (
        "setting",
        "ranks correlate",
        "deletion",
        "insertion",
        "pointing",
        "ten probes, as shown",
        "with the exponent undone",
    )
    rows = []
    for one in found()["search"]:
        ranked = [record for record in one["people"] if "pointing" not in record]
        (drawn,) = (record for record in one["people"] if "pointing" in record)
        rows.append(
            (
                one["setting"],
                f"{min(record['rank_correlation'] for record in ranked):.2f}",
                *(_change(ranked, area) for area in ("deletion", "insertion")),
                f"{100 * (drawn['pointing'][1] - drawn['pointing'][0]):+.1f}",
                f"{one['as_shown']:.3f}",
                f"{one['undone']:.3f}",
            )
        )
    return table(head, rows)


def _change(records: Sequence[Record], area: str) -> str:
    """The largest change of an area by the defense, in percent of that of true maps."""
    changes = [100 * (record[area][1] / record[area][0] - 1) for record in records]
    return f"{max(changes, key=abs):+.0f} %"


def floors() -> str:
    """What had to be reached, and what was."""
    rows = [
        (one["wanted"], one["measured"], "**missed**" if one["missed"] else "reached")
        for one in found()["floors"]
    ]
    return table(("wanted", "measured", ""), rows)


def clones() -> Figure:
    """A bar a thief: its clone after as many rows as all had, and the deviation over seeds."""
    own: Sequence[Record] = [t for t in found()["thefts"] if t["budget"] == USUAL]
    arms = list(dict.fromkeys(t["arm"] for t in own))[::-1]
    figure, panels = pyplot.subplots(1, 2, figsize=(8.8, 3.6), sharey=True)
    for axes, (victim, title) in zip(panels, TITLES.items(), strict=True):
        for place, arm in enumerate(arms):
            scores = [
                100 * t["clone_accuracy"] for t in own if (t["victim"], t["arm"]) == (victim, arm)
            ]
            if not scores:
                continue
            middle, deviation = spread(scores)
            axes.barh(place, middle, 0.62, xerr=deviation, color=_color(arm), capsize=2)
            axes.text(2, place, f"{middle:.0f} %", va="center", fontsize=7.5, color="white")
        axes.set_yticks(range(len(arms)), arms)
        axes.set_xlim(0, 100)
        axes.set_xlabel(f"accuracy of the clone after {USUAL:,} rows, %")
        axes.set_title(title, fontsize=9, loc="left")
    return figure


def _color(arm: str) -> str:
    if arm.startswith("dfme"):
        return PLAIN
    return SHOWN if arm.startswith("display") else OPEN
