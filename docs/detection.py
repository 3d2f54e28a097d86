"""Tables of the detection bench, from its records."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

from redteam.judging import upper_bound

RESULTS = Path(__file__).parent / "results"
Record = Mapping[str, Any]
TITLES = {"mnist": "MNIST", "fashion": "Fashion-MNIST"}
PUBLISHED = {"prada-published": 0.9, "prada-0.96": 0.96}
"""PRADA's thresholds by the names of the records."""
BEYOND = ("accounts", "enrolled", "of rows", "after honest")
"""What the names of attacks say that are no plain ones."""


@cache
def records(part: str = "") -> Sequence[Record]:
    """What the bench wrote; nothing where it never ran."""
    path = RESULTS / f"detection{part}.json"
    found: list[Record] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    return found


def chosen(found: Iterable[Record], **wanted: object) -> list[Record]:
    """Records that say all of this."""
    return [record for record in found if wanted.items() <= record.items()]


def told(found: Iterable[Record], key: str) -> list[Any]:
    """The different values of a field, in the order of their first record."""
    return list(dict.fromkeys(record[key] for record in found if key in record))


def alarmed(found: Sequence[Record]) -> tuple[int, int]:
    """How many streams were alarmed, of how many, over all seeds."""
    return sum(r["detected"] for r in found), sum(r["streams"] for r in found)


def middle(found: Sequence[Record], field: str) -> float:
    """The median over seeds of a number of rows; infinite where most never came to an alarm."""
    return median(math.inf if r[field] is None else r[field] for r in found)


def rows(number: float) -> str:
    """A number of rows, or a dash for never."""
    return f"{number:,.0f}" if math.isfinite(number) else "-"


def delays(found: Sequence[Record]) -> str:
    """Who was alarmed, and after how many rows: the median and the 90th percentile."""
    if not found:
        return ""
    detected, streams = alarmed(found)
    if not detected:
        return f"0 of {streams}"
    times = [rows(middle(found, f"rows_to_alarm_{q}")) for q in ("median", "p90")]
    share = "" if detected == streams else f" ({detected} of {streams})"
    return f"{times[0]} / {times[1]}{share}"


def thieves(attacks: Sequence[str]) -> list[tuple[str, ...]]:
    """A row an attack and victim: all detectors together, then each alone."""
    found = [r for r in records() if r["attack"] in attacks]
    names = columns(found)
    table = [("attack", "victim", *names)]
    for attack in attacks:
        for victim in told(chosen(found, attack=attack), "victim"):
            own = chosen(found, attack=attack, victim=victim)
            cells = [delays(chosen(own, detector=name)) for name in names]
            seen = next((f" ({r['family']})" for r in own if "family" in r), "")
            table.append((attack + seen, TITLES[victim], *cells))
    return table


def columns(found: Iterable[Record]) -> list[str]:
    """Detectors, all of them together first; those that never alarm by themselves are left out."""
    names = [n for n in told(found, "detector") if n not in ("all", "campaign", *PUBLISHED)]
    return ["all", *(name for name in names if alarmed(chosen(records(), detector=name))[0])]


def published() -> list[tuple[str, ...]]:
    """A row an attack or condition: PRADA with its published settings, and its W."""
    head = [f"alarmed at delta {delta}" for delta in PUBLISHED.values()]
    table = [("stream", "victim", "median W", *head)]
    found = chosen(records(), detector="prada-published")
    for title, where in _streams(found):
        for victim in told(chosen(found, **where), "victim"):
            own = chosen(records(), victim=victim, **where)
            cells = [delays(chosen(own, detector=name)) for name in PUBLISHED]
            table.append((title, TITLES[victim], _mean(w(own), 3), *cells))
    return table


def _streams(found: Sequence[Record]) -> Iterator[tuple[str, dict[str, str]]]:
    """Honest conditions and plain attacks, by title, and what their records say."""
    for condition in told(found, "condition"):
        yield f"honest: {condition}", {"attack": "none", "condition": condition}
    for attack in plain_attacks():
        yield attack, {"attack": attack}


def w(found: Sequence[Record]) -> list[float | None]:
    """The median W of the last test of each crowd."""
    return [record.get("w_median") for record in found]


def plain_attacks() -> list[str]:
    """Attacks whose every row is one."""
    found = [a for a in told(records(), "attack") if a != "none" and not _is_beyond(a)]
    return sorted(found, key=lambda attack: not attack.startswith("knockoff"))


def diluted_attacks() -> list[str]:
    """Attacks among or after honest rows."""
    found = [a for a in told(records(), "attack") if any(word in a for word in BEYOND[2:])]
    return [attack for attack in found if BEYOND[0] not in attack]


def enrolled_attacks() -> list[str]:
    """Attacks by clients that have a tier of their own."""
    return [attack for attack in told(records(), "attack") if BEYOND[1] in attack]


def _is_beyond(attack: str) -> bool:
    return any(word in attack for word in BEYOND)


def honest() -> list[tuple[str, ...]]:
    """A row a condition and victim: how many clients were ever alarmed, and what that says at most."""
    found = chosen(records(), attack="none")
    names = columns(found)
    table = [("honest clients", "victim", "all: upper 95 % bound", *names)]
    for condition in told(found, "condition"):
        for victim in told(chosen(found, condition=condition), "victim"):
            own = chosen(found, condition=condition, victim=victim)
            for alpha in told(own, "alpha"):
                same = chosen(own, alpha=alpha)
                cells = ["{} of {:,}".format(*alarmed(chosen(same, detector=n))) for n in names]
                shown = [cell if not cell.startswith("0 of 0") else "" for cell in cells]
                title = TITLES.get(victim, f"simulated, alpha {alpha:g}")
                table.append((condition, title, bound(chosen(same, detector="all")), *shown))
    return table


def bound(found: Sequence[Record]) -> str:
    """Upper 95 % bound of the share of clients that are ever alarmed, all seeds together."""
    return f"{100 * upper_bound(*alarmed(found)):.2g} %"


def campaigns() -> list[tuple[str, ...]]:
    """A row a campaign: accounts that were alarmed by themselves, and how well the members are named."""
    table = [("clients", "victim", "alarmed alone", "campaign alarm", "precision", "recall")]
    found = chosen(records(), detector="campaign")
    for condition in told(found, "condition"):
        table += _campaigns(f"honest: {condition}", {"attack": "none", "condition": condition})
    for attack in told(found, "attack"):
        if attack != "none":
            table += _campaigns(attack, {"attack": attack})
    return table


def _campaigns(title: str, where: Mapping[str, str]) -> Iterator[tuple[str, ...]]:
    for victim in told(chosen(records(), detector="campaign", **where), "victim"):
        own = chosen(records(), victim=victim, **where)
        named = chosen(own, detector="campaign")
        counts = ["{} of {}".format(*alarmed(g)) for g in (chosen(own, detector="all"), named)]
        shares = [_mean(r[field] for r in named) for field in ("precision", "recall")]
        yield title, TITLES[victim], *counts, *shares


def _mean(values: Iterable[float | None], digits: int = 2) -> str:
    known = [value for value in values if value is not None]
    return f"{sum(known) / len(known):.{digits}f}" if known else "-"


def costs() -> list[tuple[str, ...]]:
    """What watching costs."""
    if not records("-cost"):
        return [("what", "measured")]
    row, batch, *each = records("-cost")
    young, old = row["earlier_rows"]
    own = [
        (
            f"of that, {one['what']}",
            f"{one['score']} and {one['fold']} µs, {one['state_bytes']:,} bytes of memory",
        )
        for one in each
    ]
    return [
        ("what", "measured"),
        (
            f"fold of one row after {young:,} and after {old:,} earlier ones",
            "{} and {} µs".format(*row["fold_us"]),
        ),
        ("ratio of the two", str(row["ratio"])),
        ("what is remembered of a client, bytes", "{:,} and {:,}".format(*row["state_bytes"])),
        (f"{batch['what']}: the model", f"{batch['predict']} µs"),
        (
            "the same: scores of all detectors, and their fold",
            f"{batch['score']} and {batch['fold']} µs",
        ),
        *own,
    ]
