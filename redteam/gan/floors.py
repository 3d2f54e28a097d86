"""What the bench of generators must find; in words, what it does not."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import mean
from typing import Any

from redteam.gan.cases import FAINT, MARKED, UNDEFENDED
from redteam.judging import Record

RAISED, LOST = 1.5, 0.10
"""What interpolation does to ``fid_clone_victim``, at least, and takes from coverage."""
HARDLY = 1.2
"""What faint noise does to it, at most."""
PROVEN, INNOCENT = 1e-6, 0.01
WORSE = 1.05
"""What a mark does to ``fid_served_real``, at most."""
COST = 1.15
LOOK = "2000"
"""How many pictures are looked at: the number that `mantlet ownership verify` takes, chosen before any was seen."""
INTERPOLATED = ("linear_interpolation", "semantic_interpolation")


class Found:
    """Means over seeds of the records of one family."""

    def __init__(self, records: Sequence[Record], family: str, largest: int) -> None:
        self.records = [r for r in records if r["victim"] == family]
        self.clones = [r for r in self.records if r["model"] == "clone"]
        self._largest = largest

    def of(
        self, measure: str, defense: str = UNDEFENDED, thief: str = "plain", budget: int = 0
    ) -> float | None:
        """The mean of a measure, where it was measured."""
        wanted = {"defense": defense, "thief": thief, "budget": budget or self._largest}
        values = [r[measure] for r in self.clones if wanted.items() <= r.items()]
        return mean(values) if values else None

    def interpolated(self) -> list[str]:
        """Interpolation as it was tried, with as many anchors as its name says."""
        names = dict.fromkeys(r["defense"] for r in self.clones)
        return [name for name in names if name.startswith(INTERPOLATED)]

    def ratio(self, measure: str, defense: str) -> float | None:
        """Over the undefended one, of the seeds that both were measured on."""
        pair = [self._by_seed(measure, name) for name in (defense, UNDEFENDED)]
        seeds = pair[0].keys() & pair[1].keys()
        below = sum(pair[1][seed] for seed in seeds)
        return sum(pair[0][seed] for seed in seeds) / below if below else None

    def _by_seed(self, measure: str, defense: str) -> dict[int, float]:
        wanted = {"defense": defense, "thief": "plain", "budget": self._largest}
        return {r["seed"]: r[measure] for r in self.clones if wanted.items() <= r.items()}


def missed(records: Sequence[Record], costs: Mapping[str, Any], largest: int) -> list[str]:
    """A line for each floor that was not reached; what was not measured is not judged."""
    lines: list[str] = []
    for family in dict.fromkeys(r["victim"] for r in records):
        found = Found(records, family, largest)
        for judge in (_budgets, _interpolation, _faint, _leak, _utility, _proofs, _innocents):
            lines += [f"{family}: {line}" for line in judge(found)]
    for name, ratio in costs.get("ratio", {}).items():
        if name == MARKED and ratio > COST:
            lines.append(f"{name} takes {ratio:.2f}x of a batch's time; at most {COST} is wanted")
    return lines


def _budgets(found: Found) -> Iterator[str]:
    own = [r for r in found.clones if (r["defense"], r["thief"]) == (UNDEFENDED, "plain")]
    budgets = sorted({r["budget"] for r in own})
    fids = [found.of("fid_clone_victim", budget=n) or 0.0 for n in budgets]
    if fids != sorted(fids, reverse=True):
        told = ", ".join(f"{b:,}: {fid:.2f}" for b, fid in zip(budgets, fids, strict=True))
        yield f"fid_clone_victim does not fall over budgets ({told})"
    victim, real = found.of("fid_clone_victim"), found.of("fid_clone_real")
    if victim is not None and real is not None and victim >= real:
        yield f"the clone is not nearer to the API ({victim:.2f}) than to real pictures ({real:.2f})"


def _interpolation(found: Found) -> Iterator[str]:
    for name in found.interpolated():
        ratio = found.ratio("fid_clone_victim", name)
        if ratio is not None and ratio < RAISED:
            yield f"{name} raises fid_clone_victim {ratio:.2f}x; {RAISED}x is wanted"
        before, after = found.of("coverage"), found.of("coverage", name)
        if before is not None and after is not None and before - after < LOST:
            yield f"{name} takes {100 * (before - after):.1f} points of coverage; 10 are wanted"


def _faint(found: Found) -> Iterator[str]:
    for name in FAINT:
        ratio = found.ratio("fid_clone_victim", name)
        if ratio is not None and ratio > HARDLY:
            yield f"{name} raises fid_clone_victim {ratio:.2f}x; so faint a change should stay under {HARDLY}x"


def _leak(found: Found) -> Iterator[str]:
    plain, leaked = (
        found.of("fid_clone_real", thief=thief) for thief in ("plain", "leaked discriminator")
    )
    if plain is not None and leaked is not None and leaked >= plain:
        yield f"the leaked discriminator brings fid_clone_real to {leaked:.2f}, and not under {plain:.2f}"


def _utility(found: Found) -> Iterator[str]:
    for name in found.interpolated():
        gain, price = (found.ratio(m, name) for m in ("fid_clone_real", "fid_served_real_many"))
        if gain is not None and price is not None and gain <= price:
            yield f"{name} costs more ({price:.2f}x fid_served_real_many) than it brings ({gain:.2f}x fid_clone_real)"
    price = found.ratio("fid_served_real", MARKED)
    if price is not None and price > WORSE:
        yield f"{MARKED} raises fid_served_real {price:.3f}x; {WORSE}x is wanted"


def looked(record: Record) -> float:
    """The p-value that counts: that of `LOOK` pictures, and where fewer were shown that of all."""
    told: Mapping[str, float] = record["p"]
    return told[LOOK] if LOOK in told else list(told.values())[-1]


def _proofs(found: Found) -> Iterator[str]:
    for record in found.clones:
        p = looked(record)
        if record["defense"] == MARKED and p > PROVEN:
            yield f"seed {record['seed']}, {record['thief']}: no proof that a clone of marked pictures is one (p {p:.1e})"


def _innocents(found: Found) -> Iterator[str]:
    for record in found.records:
        p = looked(record)
        if record["defense"] != MARKED and record["model"] != "the API, marked" and p <= INNOCENT:
            who = f"{record['model']}, {record['defense']}, {record.get('thief', 'no thief')}"
            yield f"seed {record['seed']}: p {p:.1e} of what never saw a mark ({who})"
