"""Tables of the red-team bench, from its records."""

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from docs.tables import table
from redteam.grid import summary
from redteam.grid.report import strongest
from redteam.grid.summary import LIMITS, Line, chosen, told

RESULTS = Path(__file__).parent / "results"
TITLES = {"mnist": "MNIST", "fashion": "Fashion-MNIST", "cifar": "CIFAR-10"}
COSTS = ("honest accuracy", "L1", "added ms", "rows until denied")
SHORT = ("none", "label_only", "mad", "ini", "default")
"""Rows of the README's table."""
PLANS = ("protection", "fashion", "cifar")
"""Tables of protection, by the name of the plan."""
UNMEASURED = "Not measured yet."


@cache
def found(name: str) -> Sequence[Line]:
    """What a bench wrote; nothing where it never ran."""
    path = RESULTS / f"{name}.json"
    return summary.lines(summary.read(path)) if path.is_file() else []


def protection() -> str:
    """A table a victim and budget: agreement of the clones, and what the defense costs."""
    return "\n\n".join(_protection()) or UNMEASURED


def short() -> str:
    """What no defense, the model alone and the shipped default leave a thief with many rows."""
    lines = chosen(found("protection"), victim="mnist")
    if not lines:
        return UNMEASURED
    here = chosen(lines, budget=max(told(lines, "budget")))
    heads = summary.columns(here)
    shown = [name for name in SHORT if name in told(here, "defense")]
    rows = [_row(chosen(here, defense=name), heads) for name in shown]
    return table(("defense", *heads, "verdict", *COSTS), rows)


def _every() -> list[Line]:
    """What was measured, each kind of pictures by a plan of its own."""
    return [line for name in PLANS for line in found(name)]


def _protection() -> Iterator[str]:
    lines = _every()
    for victim in told(lines, "victim"):
        for budget in sorted(told(chosen(lines, victim=victim), "budget")):
            here = chosen(lines, victim=victim, budget=budget)
            heads = summary.columns(here)
            yield f"### {TITLES.get(victim, victim)}, {budget:,} rows"
            yield table(
                ("defense", *heads, "verdict", *COSTS),
                (_row(chosen(here, defense=name), heads) for name in told(here, "defense")),
            )


def _row(own: Sequence[Line], heads: Sequence[str]) -> tuple[str, ...]:
    first, worst = own[0], strongest(own)
    cells = [summary.percent(summary.cell(own, head)) for head in heads]
    return (
        first.defense,
        *cells,
        worst.verdict if worst else "-",
        f"{100 * first.mean['benign_accuracy']:.2f}",
        f"{first.mean['l1']:.4f}",
        f"{first.mean['added_ms']:.3f}",
        summary.denied(own),
    )


def attackers() -> str:
    """Every attacker against the shipped default, also those that adapt."""
    own = chosen(_every(), defense="default")
    rows = [
        (
            line.attack,
            TITLES.get(line.victim, line.victim),
            f"{line.budget:,}",
            summary.percent(line),
            line.verdict,
            summary.rows(line.alarmed),
            summary.rows(line.denied),
        )
        for line in own
    ]
    head = ("attacker", "victim", "rows", "agreement, %", "verdict", "first alarm", "first denied")
    return table(head, rows) if rows else UNMEASURED


def controls() -> str:
    """What attacks get of a victim without a defense."""
    rows = [
        (
            line.attack,
            TITLES.get(line.victim, line.victim),
            f"{line.budget:,}",
            summary.percent(line, "clone_accuracy"),
            summary.percent(line),
        )
        for line in (*found("controls"), *chosen(found("cifar"), defense="none"))
    ]
    head = ("attack", "victim", "rows", "accuracy of the clone, %", "agreement, %")
    return table(head, rows) if rows else UNMEASURED


def limits() -> str:
    """What the numbers do not say."""
    return "\n".join(f"* {limit}" for limit in LIMITS)
