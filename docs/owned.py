"""Tables of the ownership bench, from its records."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

RESULTS = Path(__file__).parent / "results"
Record = Mapping[str, Any]
Row = tuple[str, ...]
TITLES = {"mnist": "MNIST", "notmnist": "notMNIST", "omniglot": "Omniglot"}
WORDS = {
    "plain": "learns from the answers",
    "labels": "from the labels alone",
    "jittered": "asks noisy copies (0.03)",
    "voting": "five noisy copies (0.1) a picture, mean",
    "moving": "five copies moved by a pixel, mean",
    "turning": "five copies turned by up to 20 degrees, mean",
    "sceptical": "drops rows that a first clone contradicts",
    "tuning": "tunes on 1,000 true labels",
}


@cache
def records() -> Sequence[Record]:
    """What the bench wrote; nothing where it never ran."""
    path = RESULTS / "ownership.json"
    found: list[Record] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    return found


def chosen(**wanted: object) -> list[Record]:
    """Records that say all of this."""
    return [record for record in records() if wanted.items() <= record.items()]


def thieves() -> list[Row]:
    """What is found in clones; shares are means over seeds, the p-value is that of the worst seed."""
    head = (
        "pictures",
        "rate",
        "thief",
        "answers changed",
        "marked rows that the clone names so",
        "p-value, worst seed",
        "clone's accuracy (unmarked)",
        "p-value by other pictures, best seed",
    )
    clones = [r for r in records() if r["model"] == "clone" and r["rate"] > 0]
    cases = dict.fromkeys((r["pool"], r["rate"], r["thief"]) for r in clones)
    return [head, *(_thief(*case) for case in sorted(cases, key=_order))]


def _order(case: tuple[str, float, str]) -> tuple[int, int, float]:
    pool, rate, thief = case
    return list(TITLES).index(pool), list(WORDS).index(thief), rate


def _thief(pool: str, rate: float, thief: str) -> Row:
    about = {"pool": pool, "rate": rate, "thief": thief, "model": "clone"}
    found = chosen(**about, evidence="submitted")
    others = chosen(**about, evidence="others")
    plain = chosen(pool=pool, rate=0.0, thief="plain", model="clone", evidence="submitted")
    named = sum(r["named"] for r in found) / max(1, sum(r["marked"] for r in found))
    accuracy = f"{mean(r['clone_accuracy'] for r in found):.1%}"
    unmarked = f" ({mean(r['clone_accuracy'] for r in plain):.1%})" if plain else ""
    return (
        TITLES[pool],
        f"{rate:.1%}",
        WORDS[thief],
        f"{mean(r['changed'] for r in found):.1%}",
        f"{named:.0%}",
        number(max(r["p"] for r in found)),
        accuracy + unmarked,
        number(min(r["p"] for r in others)) if others else "",
    )


def controls() -> list[Row]:
    """What is found where no mark can be."""
    head = ("model", "tests", "p-value at most 0.05", "smallest p-value")
    independent = chosen(model="independent", evidence="submitted")
    unmarked = chosen(model="clone", evidence="submitted", rate=0.0)
    wrong = chosen(model="clone, wrong keys")
    keys = sum(r["keys"] for r in wrong)
    rejected = sum(r["keys"] * r["p_to_005"] for r in wrong) / max(1, keys)
    least = number(min((r["p"] for r in wrong), default=1.0))
    return [
        head,
        _control("trained on true labels, right key", independent),
        _control("clone of unmarked answers, right key", unmarked),
        ("any of the clones, wrong keys", f"{keys:,}", f"{rejected:.1%}", least),
    ]


def _control(what: str, found: Sequence[Record]) -> Row:
    rejected = sum(r["p"] <= 0.05 for r in found) / max(1, len(found))
    least = number(min((r["p"] for r in found), default=1.0))
    return (what, f"{len(found):,}", f"{rejected:.1%}", least)


def number(p: float) -> str:
    """A p-value as short as it may be.

    >>> number(0.25), number(3.2e-19)
    ('0.25', '3e-19')
    """
    return f"{p:.2g}" if p >= 1e-3 else f"{p:.0e}"
