"""Pictures of the detection bench, drawn from its records by ``python -m docs.pictures``."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from docs import detection, explained
from docs.detection import TITLES, alarmed, chosen, middle, records, told
from redteam.grid.figures import GREY, STYLE

FOLDER = Path(__file__).parent / "pictures"
COLORS = {"mnist": "#1b6ca8", "fashion": "#d1732f"}
CURVES = {
    "knockoff notmnist": "#b3261e",
    "knockoff notmnist, 20% of rows": "#e07b39",
    "jbda": "#7b3fa0",
    "in-distribution thief": GREY,
    "none": "#1b6ca8",
}


def draw(folder: Path = FOLDER) -> None:
    """Write every picture; nothing where the bench never ran."""
    if not records():
        return
    folder.mkdir(exist_ok=True)
    with matplotlib.rc_context(STYLE):
        for name, make in PICTURES.items():
            figure = make()
            figure.savefig(folder / f"{name}.png", metadata={"Software": None})
            pyplot.close(figure)


def rows_to_alarm() -> Figure:
    """A line an attack, from the median to the 90th percentile, for both victims."""
    attacks = detection.plain_attacks() + detection.diluted_attacks()
    figure, axes = pyplot.subplots(figsize=(8, 0.32 * len(attacks) + 1))
    for place, attack in enumerate(reversed(attacks)):
        for victim, offset in zip(TITLES, (0.14, -0.14), strict=True):
            own = chosen(records(), attack=attack, victim=victim, detector="all")
            if own:
                _span(axes, own, place + offset, COLORS[victim])
    axes.set_yticks(range(len(attacks)), list(reversed(attacks)))
    axes.set_xscale("log")
    axes.set_xlim(1, 20_000)
    axes.set_ylim(-0.6, len(attacks) - 0.4)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel(
        "rows of the attack before the alarm (dot: median, line: to the 90th percentile)"
    )
    axes.grid(axis="x", color="#e6e8eb", zorder=0)
    for victim, title in TITLES.items():
        axes.plot([], [], "o", color=COLORS[victim], label=title)
    axes.legend(frameon=False, loc="upper center")
    return figure


def _span(axes: Axes, own: list[detection.Record], place: float, color: str) -> None:
    left, right = (middle(own, f"rows_to_alarm_{q}") for q in ("median", "p90"))
    if not math.isfinite(left):
        detected, streams = alarmed(own)
        text = "never" if not detected else f"{detected} of {streams}"
        axes.text(19_000, place, text, color=color, ha="right", va="center", fontsize=7.5)
        return
    axes.plot([left, min(right, 20_000)], [place, place], color=color, lw=2, zorder=2)
    axes.plot([left], [place], "o", color=color, ms=5, zorder=3)


def evidence() -> Figure:
    """The joint suspicion of some clients, row by row."""
    shown = [v for v in TITLES if chosen(records("-curves"), victim=v)]
    figure, panels = pyplot.subplots(
        1, len(shown), figsize=(4.4 * len(shown), 3.2), sharey=True, squeeze=False
    )
    for axes, victim in zip(panels[0], shown, strict=True):
        for attack, color in CURVES.items():
            condition = {"condition": "natural"} if attack == "none" else {}
            for curve in chosen(records("-curves"), victim=victim, attack=attack, **condition)[:1]:
                label = "honest clients" if attack == "none" else attack
                for number, suspicion in enumerate(curve["suspicion"]):
                    axes.plot(
                        curve["rows"], suspicion, color=color, lw=1.3, label="_" * number + label
                    )
        axes.axhline(1, color="#444", lw=0.8, ls=":")
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.set_xlabel("rows that the client has sent")
        axes.set_title(TITLES[victim], fontsize=9, loc="left")
    panels[0][0].set_ylabel("suspicion (1: alarm)")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


def false_alarms() -> Figure:
    """Share of honest clients that PRADA as published, and all detectors together, ever alarm."""
    found = chosen(records(), attack="none")
    conditions = [c for c in told(found, "condition") if "tolerated" not in c]
    figure, panels = pyplot.subplots(1, 2, figsize=(8.8, 3.2), sharey=True)
    sides = {
        "prada-0.96": (GREY, "PRADA as published, delta 0.96"),
        "all": (COLORS["mnist"], "Mantlet"),
    }
    for axes, (victim, title) in zip(panels, TITLES.items(), strict=True):
        for (name, (color, label)), offset in zip(sides.items(), (0.2, -0.2), strict=True):
            axes.barh([], [], color=color, label=label)
            for place, condition in enumerate(reversed(conditions)):
                own = chosen(found, victim=victim, condition=condition, detector=name)
                if own:
                    detected, streams = alarmed(own)
                    share = 100 * detected / streams
                    axes.barh(place + offset, share, 0.36, color=color)
                    text = f"{share:.0f} %" if detected else f"0 of {streams}"
                    axes.text(share + 1, place + offset, text, va="center", fontsize=7.5)
        axes.set_yticks(range(len(conditions)), list(reversed(conditions)))
        axes.set_xlim(0, 115)
        axes.set_xlabel("honest clients ever alarmed, %")
        axes.set_title(title, fontsize=9, loc="left")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return figure


PICTURES: Mapping[str, Callable[[], Figure]] = {
    "rows-to-alarm": rows_to_alarm,
    "evidence": evidence,
    "false-alarms": false_alarms,
    "explanations": explained.clones,
}

if __name__ == "__main__":
    draw()
