"""Records of a bench as a reader wants them: means and spreads over seeds, and the strongest attacker."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from mantlet.errors import ConfigError
from redteam.measures import spread, verdict

Record = Mapping[str, Any]
FIELDS = [
    "victim",
    "defense",
    "attack",
    "attacker_data",
    "budget",
    "seed",
    "clone_accuracy",
    "agreement",
    "benign_accuracy",
    "l1",
    "added_ms",
    "rows_until_denied",
]
"""What every record has."""
MEANS = ("clone_accuracy", "agreement", "benign_accuracy", "l1", "added_ms")
ADAPTIVE = "adaptive (the strongest)"
LIMITS = (
    "A thief with pictures of the victim's own kind sends what honest clients send. No detector tells"
    " it from them, and no answer that serves them fails to serve it: what limits it are budgets, labels"
    " in place of probabilities, and a mark that proves the theft.",
    "Agreement is measured on the victim's own test pictures, and the verdict is that of one budget: with"
    " more rows, better pictures or a larger clone a thief gets more.",
    "The adaptive attackers are those that are listed. Another one may do better; a claim of protection"
    " holds for what was tried.",
    "Everything runs in one process with small networks and small pictures. Rows come one a second and"
    " the patrol looks every 600 rows; accounts cost the thief nothing.",
    "A spread of one seed is not known and shown as none. Differences under two standard deviations of"
    " the seeds say nothing.",
    "Added milliseconds are processor time of one thread on the machine that ran the bench.",
)


@dataclass(frozen=True, slots=True)
class Line:
    """All seeds of one theft; ``mean`` and ``deviation`` of the fields in `MEANS`."""

    victim: str
    defense: str
    attack: str
    data: str
    budget: int
    adaptive: bool
    seeds: int
    mean: Mapping[str, float]
    deviation: Mapping[str, float]
    alarmed: float | None
    denied: float | None

    @property
    def verdict(self) -> str:
        """By the mean agreement."""
        return verdict(self.mean["agreement"])


def read(path: Path) -> list[Record]:
    """The records of a file; raises `ConfigError` where it holds something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"results '{path}': no such file; run: mantlet bench PLAN") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"results '{path}' cannot be read: {error}") from error
    if not isinstance(found, list) or not found:
        raise ConfigError(f"results '{path}' hold no list of records; run: mantlet bench PLAN")
    for number, record in enumerate(found):
        lacking = [f for f in FIELDS if f not in record] if isinstance(record, dict) else FIELDS
        if lacking:
            raise ConfigError(f"results '{path}': record {number} lacks {', '.join(lacking)}")
    return found


def lines(records: Iterable[Record]) -> list[Line]:
    """A line a victim, defense, attack and budget, in the order of their first record."""
    groups: dict[tuple[object, ...], list[Record]] = {}
    for record in records:
        key = tuple(record[name] for name in ("victim", "defense", "attack", "budget"))
        groups.setdefault(key, []).append(record)
    return [_line(group) for group in groups.values()]


def _line(group: Sequence[Record]) -> Line:
    first = group[0]
    both = {name: spread(record[name] for record in group) for name in MEANS}
    return Line(
        victim=first["victim"],
        defense=first["defense"],
        attack=first["attack"],
        data=first["attacker_data"],
        budget=first["budget"],
        adaptive=bool(first.get("adaptive")),
        seeds=len(group),
        mean={name: pair[0] for name, pair in both.items()},
        deviation={name: pair[1] for name, pair in both.items()},
        alarmed=_middle(record.get("rows_until_alarm") for record in group),
        denied=_middle(record["rows_until_denied"] for record in group),
    )


def _middle(rows: Iterable[float | None]) -> float | None:
    """The median over seeds; nothing where most seeds never came to it."""
    known = [float("inf") if row is None else float(row) for row in rows]
    middle = median(known)
    return None if middle == float("inf") else middle


def chosen(found: Iterable[Line], **wanted: object) -> list[Line]:
    """Lines of which all of this holds."""
    return [line for line in found if all(getattr(line, name) == v for name, v in wanted.items())]


def told(found: Iterable[Line], name: str) -> list[Any]:
    """The different values of a field, in the order of their first line."""
    return list(dict.fromkeys(getattr(line, name) for line in found))


def columns(found: Sequence[Line]) -> list[str]:
    """The attackers of a table: plain ones by name, and one column for all that adapt."""
    plain = told(chosen(found, adaptive=False), "attack")
    return [*plain, ADAPTIVE] if chosen(found, adaptive=True) else plain


def cell(found: Sequence[Line], column: str) -> Line | None:
    """The line of a column among the lines of a row and a budget: of those that adapt the strongest.

    A plain attacker that does better than all that adapt is what an adaptive one would do.
    """
    if column != ADAPTIVE:
        return next((line for line in found if line.attack == column), None)
    adaptive = chosen(found, adaptive=True)
    if not adaptive:
        return None
    kinds = {line.data for line in adaptive}
    rivals = [line for line in found if line.data in kinds]
    return max(rivals, key=lambda line: line.mean["agreement"])


def percent(line: Line | None, name: str = "agreement") -> str:
    """``74.1``, or with seeds ``74.1 ± 0.6``, in percent; a dash for nothing."""
    if line is None:
        return "-"
    text = f"{100 * line.mean[name]:.1f}"
    return text if line.seeds == 1 else f"{text} ± {100 * line.deviation[name]:.1f}"


def rows(number: float | None) -> str:
    """A number of rows, or never."""
    return "never" if number is None else f"{number:,.0f}"


def denied(found: Iterable[Line]) -> str:
    """Rows until thieves without own pictures are denied, from the one who is first to the one who is last.

    ``7 to 1,201``, or ``7 to never`` where some thief is never denied.
    """
    known = [line.denied for line in found if line.data != "own"]
    ends = [
        rows(number) for number in sorted(known, key=lambda n: float("inf") if n is None else n)
    ]
    if not ends:
        return "-"
    return ends[0] if ends[0] == ends[-1] else f"{ends[0]} to {ends[-1]}"
