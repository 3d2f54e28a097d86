"""What the page on attacks shows: the attacks there are, and what those of another project got."""

import inspect
import json
from collections.abc import Iterable, Mapping
from itertools import groupby
from pathlib import Path
from statistics import mean
from typing import Any

from docs.tables import table
from redteam import attacks

RESULTS = Path(__file__).parent / "results" / "art.json"


def listed() -> str:
    """Every attack by its name, and what it needs."""
    rows = [
        (f"`{name}`", _told(attack), "pictures" if attack.needs_pool else "nothing")
        for name, attack in sorted(attacks.known().items())
    ]
    return table(("attack", "what it does", "the thief has"), rows)


def _told(attack: type) -> str:
    """Where it comes from and what it does, in the words of its file."""
    return (inspect.getdoc(inspect.getmodule(attack)) or "").partition("\n")[0]


def art(records: Iterable[Mapping[str, Any]] | None = None) -> str:
    """Clones of the toolbox's attacks: means over seeds, by attack, budget and defense."""
    if records is None:
        records = json.loads(RESULTS.read_text(encoding="utf-8"))
    ordered = sorted(records, key=_cell)
    rows = []
    for (attack, budget, defense), cell in groupby(ordered, _cell):
        found = list(cell)
        scores = (_mean(found, name) for name in ("clone_accuracy", "agreement"))
        rows.append((f"`{attack}`", f"{budget:,}", defense, *scores, str(len(found))))
    return table(("attack", "rows", "defense", "clone accuracy", "agreement", "seeds"), rows)


def _cell(record: Mapping[str, Any]) -> tuple[str, int, str]:
    return record["attack"], record["budget"], record["defense"]


def _mean(records: Iterable[Mapping[str, Any]], name: str) -> str:
    """In percent; a dash where every thief was denied."""
    known = [record[name] for record in records if record[name] is not None]
    return f"{100 * mean(known):.1f} %" if known else "-"
