"""One page that a manager can read, from the records of a bench; it needs no network."""

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mantlet.errors import ConfigError
from redteam.grid import summary
from redteam.grid.summary import FIELDS, LIMITS, Line, Record, cell, chosen, told
from redteam.measures import verdict

PAGE = Path(__file__).with_name("report.html")
EXTRAS = ("relative", "kl", "ece", "rows_until_alarm", "rows_sent", "accounts", "seeds")
"""What the page shows of a record beside what every record has."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure in the page."""

    caption: str
    data: str


def write(results: Path, folder: Path) -> list[Path]:
    """Write ``report.html`` and the PNG files of its pictures; tells what was written.

    Raises `ConfigError` for results that are none, and where the extra ``pictures`` is not installed.
    """
    for library in ("jinja2", "matplotlib"):
        if find_spec(library) is None:
            raise ConfigError(f"a report needs {library}; run: pip install 'mantlet[pictures]'")
    records = summary.read(results)
    found = summary.lines(records)
    folder.mkdir(parents=True, exist_ok=True)
    written, pictures = [], {}
    for name, caption, drawn in _drawn(found):
        path = folder / f"{name}.png"
        path.write_bytes(drawn)
        written.append(path)
        pictures[name] = Picture(caption, base64.b64encode(drawn).decode())
    page = folder / "report.html"
    page.write_text(rendered(records, found, pictures), encoding="utf-8")
    return [page, *written]


def _drawn(found: Sequence[Line]) -> Iterator[tuple[str, str, bytes]]:
    from matplotlib import pyplot

    from redteam.grid.figures import figures

    for name, caption, figure in figures(found):
        file = io.BytesIO()
        figure.savefig(file, format="png", metadata={"Software": None})
        pyplot.close(figure)
        yield name, caption, file.getvalue()


def rendered(records: Sequence[Record], found: Sequence[Line], pictures: dict[str, Picture]) -> str:
    """The page; whatever stands in the records is text there and nothing else."""
    from jinja2 import Environment, StrictUndefined

    fields = [*FIELDS, *(name for name in EXTRAS if any(name in record for record in records))]
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(
        PAGE.read_text(encoding="utf-8")
    )
    return template.render(
        fields=fields,
        records=[
            {
                "told": [_shown(record.get(field)) for field in fields],
                "verdict": verdict(record["agreement"]),
            }
            for record in records
        ],
        headlines=list(headlines(found)),
        limits=LIMITS,
        victims=[
            {
                "name": victim,
                "tables": [
                    _table(chosen(found, victim=victim), budget)
                    for budget in sorted(told(chosen(found, victim=victim), "budget"))
                ],
                "figures": [p for name, p in pictures.items() if name.startswith(f"{victim}-")],
            }
            for victim in told(found, "victim")
        ],
    )


def headlines(found: Sequence[Line]) -> Iterator[str]:
    """What a manager should remember, a sentence a victim and budget."""
    for victim in told(found, "victim"):
        for budget in sorted(told(chosen(found, victim=victim), "budget")):
            here = chosen(found, victim=victim, budget=budget)
            parts = []
            for defense, words in (
                ("none", "without a defense"),
                ("default", "behind the default"),
            ):
                foreign = strongest(chosen(here, defense=defense))
                if foreign is not None:
                    share = summary.percent(foreign)
                    parts.append(f"{words} {share} % ({foreign.verdict}, {foreign.attack})")
            own = [line for line in here if line.data == "own" and line.defense == "default"]
            if own:
                parts.append(
                    f"a thief with pictures of the model's own kind gets {summary.percent(own[0])} %"
                    f" ({own[0].verdict})"
                )
            if parts:
                yield f"{victim}, {budget:,} rows: the best clone agrees {'; '.join(parts)}."


def strongest(found: Sequence[Line]) -> Line | None:
    """The attacker without pictures of the victim's own kind whose clone agrees most."""
    foreign = [line for line in found if line.data != "own"]
    return max(foreign, key=lambda line: line.mean["agreement"], default=None)


def _table(found: Sequence[Line], budget: int) -> dict[str, Any]:
    heads = summary.columns(chosen(found, budget=budget))
    here = chosen(found, budget=budget)
    rows = [
        _row(defense, chosen(here, defense=defense), heads) for defense in told(here, "defense")
    ]
    return {"budget": budget, "heads": heads, "rows": rows}


def _row(defense: str, found: Sequence[Line], heads: Sequence[str]) -> dict[str, Any]:
    first, worst = found[0], strongest(found)
    cells = [cell(found, head) for head in heads]
    return {
        "defense": defense,
        "cells": [
            {
                "text": summary.percent(line),
                "verdict": line.verdict if line else "",
                "who": line.attack if line else "",
            }
            for line in cells
        ],
        "verdict": worst.verdict if worst else "-",
        "honest": summary.percent(replace(first, seeds=1), "benign_accuracy"),
        "l1": f"{first.mean['l1']:.4f}",
        "added": f"{first.mean['added_ms']:.3f}",
        "denied": summary.denied(found),
        "seeds": max(line.seeds for line in found),
    }


def _shown(value: object) -> str:
    """A value of a record as text."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
