"""Pictures of a bench: accuracy against budget, utility against protection, the grid, time to detection."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from statistics import mean
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from redteam.grid.summary import Line, cell, chosen, columns, rows, told
from redteam.measures import RESILIENT, VULNERABLE

GREY, INK, OPEN = "#8a8f98", "#33373d", "#b3261e"
PALETTE = ("#1b6ca8", "#d1732f", "#3b8f5a", "#7b3fa0", "#a0803f", "#4f6d7a", "#c2557a", "#5f5fc4")
STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "xtick.color": "#444",
    "ytick.color": "#444",
    "figure.constrained_layout.use": True,
    "savefig.dpi": 130,
}
UNDEFENDED, SHIPPED = "none", "default"
AT_ONCE = 6
"""Attackers that a picture of curves shows."""


def figures(found: Sequence[Line]) -> Iterator[tuple[str, str, Figure]]:
    """Name, caption and picture, one after the other; whoever takes one closes it."""
    for victim in told(found, "victim"):
        own = chosen(found, victim=victim)
        for name, (caption, draw) in PICTURES.items():
            with matplotlib.rc_context(STYLE):
                yield f"{victim}-{name}", f"{victim}: {caption}", draw(own)


def accuracy_against_budget(own: Sequence[Line]) -> Figure:
    """A panel an attacker: the undefended victim's curve, the shipped default's, and all others."""
    attacks = _most_tried(own)
    across = min(3, len(attacks))
    down = -(-len(attacks) // across)
    figure, panels = pyplot.subplots(
        down, across, figsize=(3.3 * across, 2.7 * down + 0.5), sharey=True, squeeze=False
    )
    for axes, attack in zip(panels.flat, attacks, strict=False):
        for line_of in _by_defense([*chosen(own, attack=attack), *_plain(own, attack)]):
            _curve(axes, line_of)
        axes.set_title(attack, fontsize=9, loc="left")
        axes.set_xscale("log")
        budgets = sorted(told(chosen(own, attack=attack), "budget"))
        axes.set_xticks(budgets, [f"{budget:,}" for budget in budgets])
        axes.minorticks_off()
        axes.set_xlabel("rows that may be sent")
        axes.grid(axis="y", color="#e6e8eb", zorder=0)
    for axes in panels.flat[len(attacks) :]:
        axes.set_axis_off()
    for start in panels[:, 0]:
        start.set_ylabel("accuracy of the clone, %")
    named = [_look(n) for n in (UNDEFENDED, SHIPPED, "")]
    for color, width, label in named:
        panels[0][0].plot([], [], color=color, lw=width, label=label)
    figure.legend(
        *panels[0][0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=3,
        frameon=False,
    )
    return figure


def _most_tried(own: Sequence[Line]) -> list[str]:
    """Attackers against most defenses first, the plain ones before those that adapt."""
    attacks = told(own, "attack")
    met = {attack: len(told(chosen(own, attack=attack), "defense")) for attack in attacks}
    plain = set(told(chosen(own, adaptive=False), "attack"))
    return sorted(attacks, key=lambda attack: (attack not in plain, -met[attack]))[:AT_ONCE]


def _plain(own: Sequence[Line], attack: str) -> list[Line]:
    """The best plain thief with such pictures on no defense, where this attacker was not tried there."""
    here = chosen(own, attack=attack)
    bare = chosen(own, defense=UNDEFENDED, data=here[0].data, adaptive=False)
    bare = [line for line in bare if line.budget in told(here, "budget")]
    if not bare or chosen(here, defense=UNDEFENDED):
        return []
    best = max(bare, key=lambda line: (line.budget, line.mean["agreement"]))
    return chosen(bare, attack=best.attack)


def _by_defense(own: Sequence[Line]) -> Iterator[list[Line]]:
    """Lines of a defense by budget; the undefended and the shipped ones last, on top of the others."""
    special = (SHIPPED, UNDEFENDED)
    for defense in sorted(
        told(own, "defense"), key=lambda d: special.index(d) + 1 if d in special else 0
    ):
        yield sorted(chosen(own, defense=defense), key=lambda line: line.budget)


def _look(defense: str) -> tuple[str, float, str]:
    looks = {
        UNDEFENDED: (OPEN, 2.2, "no defense (the best plain thief, where this one was not tried)"),
        SHIPPED: (PALETTE[0], 2.2, "the shipped default"),
    }
    return looks.get(defense, ("#b9bdc4", 1.0, "single defenses"))


def _curve(axes: Axes, own: Sequence[Line]) -> None:
    color, width, _ = _look(own[0].defense)
    budgets = [line.budget for line in own]
    values = [100 * line.mean["clone_accuracy"] for line in own]
    spread = [100 * line.deviation["clone_accuracy"] for line in own]
    axes.errorbar(budgets, values, spread, color=color, lw=width, marker="o", ms=3, capsize=2)


def utility_against_protection(own: Sequence[Line]) -> Figure:
    """A dot a defense: what honest clients keep, and what the strongest foreign attacker gets."""
    budget = max(told(own, "budget"))
    figure, axes = pyplot.subplots(figsize=(7.2, 4.2))
    axes.axvspan(0, 100 * RESILIENT, color="#e9f3ec", zorder=0)
    axes.axvspan(100 * VULNERABLE, 100, color="#f8e9e7", zorder=0)
    here = chosen(own, budget=budget)
    defenses = told(here, "defense")
    places: dict[tuple[int, int], list[tuple[float, float, str]]] = {}
    for number, defense in enumerate(defenses, start=1):
        lines = [line for line in chosen(here, defense=defense) if line.data != "own"]
        if not lines:
            continue
        worst = max(lines, key=lambda line: line.mean["agreement"])
        color = _look(defense)[0] if defense in (UNDEFENDED, SHIPPED) else INK
        x, y = 100 * worst.mean["agreement"], 100 * worst.mean["benign_accuracy"]
        axes.plot([x], [y], "o", color=color, ms=6, zorder=3)
        places.setdefault((round(x / 5), round(4 * y)), []).append((x, y, f"{number}"))
        axes.plot([], [], " ", label=f"{number} {defense}")
    _numbered(axes, places.values())
    axes.set_xlim(0, 100)
    lowest = 100 * min(line.mean["benign_accuracy"] for line in here)
    axes.set_ylim(min(lowest, 98) - 1, 100.2)
    axes.set_xlabel(
        f"agreement of the best clone without own pictures, {budget:,} rows, % (left is safer)"
    )
    axes.set_ylabel("accuracy of what honest clients get, %")
    axes.legend(
        loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=7.5, handlelength=0
    )
    return figure


def _numbered(axes: Axes, places: Iterable[Sequence[tuple[float, float, str]]]) -> None:
    """One label for (x, y, number) dots that lie on one another."""
    for dots in places:
        x, y = mean(x for x, _, _ in dots), mean(y for _, y, _ in dots)
        names = [name for _, _, name in dots]
        text = "\n".join(" ".join(names[start : start + 4]) for start in range(0, len(names), 4))
        axes.annotate(
            text, (x, y), (0, -7), textcoords="offset points", fontsize=7, ha="center", va="top"
        )


def grid(own: Sequence[Line]) -> Figure:
    """A heat table: a row a defense, a column an attacker and budget; the color is agreement."""
    defenses, budgets = told(own, "defense"), sorted(told(own, "budget"))
    heads = [(column, budget) for column in columns(own) for budget in budgets]
    heads = [
        (c, b) for c, b in heads if any(cell(chosen(own, budget=b, defense=d), c) for d in defenses)
    ]
    figure, axes = pyplot.subplots(figsize=(1.0 * len(heads) + 2.4, 0.34 * len(defenses) + 1.8))
    values = [
        [
            100 * line.mean["agreement"] if line else float("nan")
            for line in (cell(chosen(own, defense=d, budget=b), c) for c, b in heads)
        ]
        for d in defenses
    ]
    axes.imshow(values, cmap="RdYlGn_r", vmin=20, vmax=100, aspect="auto", alpha=0.8)
    for row, numbers in enumerate(values):
        for column, number in enumerate(numbers):
            text = "" if number != number else f"{number:.0f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color=INK)
    axes.set_yticks(range(len(defenses)), defenses)
    axes.set_xticks(
        range(len(heads)),
        [f"{c}\n{b:,} rows" for c, b in heads],
        rotation=45,
        ha="right",
        fontsize=7.5,
    )
    axes.set_xlabel("agreement of the clone with the victim, %")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure


def time_to_detection(own: Sequence[Line]) -> Figure:
    """A line an attacker of the shipped default: rows to the first alarm, and to the first refusal."""
    here = [line for line in own if line.defense == SHIPPED] or list(own)
    budget = max(told(here, "budget"))
    shown = chosen(here, budget=budget)
    figure, axes = pyplot.subplots(figsize=(8, 0.34 * len(shown) + 1.4))
    for place, line in enumerate(reversed(shown)):
        end = line.denied or line.budget
        axes.plot([line.alarmed or end, end], [place, place], color="#c9ced6", lw=3, zorder=1)
        for number, color in ((line.alarmed, PALETTE[1]), (line.denied, OPEN)):
            if number is not None:
                axes.plot([number], [place], "o", color=color, ms=6, zorder=3)
        text = f"  alarm: {rows(line.alarmed)}, denied: {rows(line.denied)}"
        axes.text(budget * 1.15, place, text, va="center", fontsize=7.5, color=INK)
    axes.set_yticks(range(len(shown)), [line.attack for line in reversed(shown)])
    axes.set_xscale("log")
    axes.set_xlim(1, budget * 12)
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel(
        f"rows sent by all accounts of the thief, of {budget:,} ({told(shown, 'defense')[0]})"
    )
    for label, color in (("first alarm", PALETTE[1]), ("first account denied", OPEN)):
        axes.plot([], [], "o", color=color, label=label)
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False
    )
    return figure


PICTURES: Mapping[str, tuple[str, Callable[[Sequence[Line]], Figure]]] = {
    "accuracy": ("accuracy of the clone against the rows it cost", accuracy_against_budget),
    "utility": ("what honest clients keep against what a thief gets", utility_against_protection),
    "grid": ("agreement of every clone", grid),
    "detection": ("rows until a thief is noticed", time_to_detection),
}
