"""What the bench of translators has to reach, and what it did."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import comb
from statistics import mean
from typing import Any

from redteam.judging import Record, floor

KINDS = ("undone", "measured", "diluted", "filter in the loss", "stops then")
"""Thieves who adapt, by the end of a shield's name."""
SHIFTED, CONTROL = "cifar", "fashion"
MARKS = {"high_band_dither": "p_dither", "watermark": "p_watermark"}
ADDED = ("plain", "wavelet"), ("plain", "sam")


def floors(found: Mapping[str, Any]) -> list[Record]:
    """Each with ``wanted`` in words, what was ``measured``, and whether it is ``missed``."""
    told = [_rises(found, domain) for domain in (SHIFTED, CONTROL)]
    for budget in sorted({a["budget"] for a in found["attacks"] if a["variant"] == "wavelet"}):
        told += [_gains(found, budget), _bands(found, budget), _shrinks(found, budget, *ADDED[0])]
    most = max(a["budget"] for a in found["attacks"])
    told += [_flatter(found, most), _not_worse(found, most), _shrinks(found, most, *ADDED[1])]
    for mark in MARKS:
        told += _marked(found, mark)
    costs = {line["defense"]: _cost(found, line) for line in found["served"]}
    taken = {name: best_thief(found, name) for name in costs if name == family(name) != "none"}
    told += [_protects(name, losses, costs[name]) for name, losses in taken.items()]
    return [*told, _protection(taken, costs)]


def family(name: str) -> str:
    """The shield that a thief of this name meets."""
    for kind in KINDS:
        name = name.removesuffix(f", {kind}")
    return name


def best_thief(found: Mapping[str, Any], name: str) -> dict[str, tuple[float, str]]:
    """By domain: what a defense takes from the copy of the thief whom it costs least, in dB, and who that is."""
    told = found["defenses"]
    names = dict.fromkeys(d["defense"] for d in told if family(d["defense"]) == name)
    return {
        domain: min((_loss(found, domain, thief), thief) for thief in names)
        for domain in (SHIFTED, CONTROL)
    }


def _scores(found: Mapping[str, Any], score: str, **wanted: object) -> dict[int, float]:
    """One number of the attacks that are meant, by seed."""
    lines: Sequence[Record] = found["attacks"]
    return {line["seed"]: line[score] for line in lines if wanted.items() <= line.items()}


def _steps(
    found: Mapping[str, Any], domain: str, budget: int, without: str, added: str
) -> list[float]:
    """dB that something adds, seed by seed."""
    before, after = (
        _scores(found, "clone_victim", domain=domain, budget=budget, variant=variant)
        for variant in (without, added)
    )
    return [after[seed] - before[seed] for seed in sorted(before.keys() & after.keys())]


def _rises(found: Mapping[str, Any], domain: str) -> Record:
    """Each budget beside the one before, over the seeds that have both."""
    budgets = sorted({a["budget"] for a in found["attacks"]})
    told, rises = [], []
    for few, many in pairwise(budgets):
        before, after = (
            _scores(found, "clone_victim", domain=domain, budget=budget, variant="plain")
            for budget in (few, many)
        )
        seeds = before.keys() & after.keys()
        rises.append(mean(after[seed] - before[seed] for seed in seeds))
        told.append(f"{few:,} to {many:,}: {rises[-1]:+.2f} dB ({len(seeds)} seeds)")
    return floor(
        f"{domain}: the plain copy comes nearer with every budget",
        ", ".join(told),
        met=min(rises) >= 0.01,
    )


def _gains(found: Mapping[str, Any], budget: int) -> Record:
    steps = _steps(found, SHIFTED, budget, *ADDED[0])
    better, count = sum(step > 0 for step in steps), len(steps)
    chance = sum(comb(count, k) for k in range(better, count + 1)) / 2**count
    return floor(
        f"{SHIFTED}, {budget:,} rows: the wavelet term brings copies nearer (sign test: p <= 0.05)",
        f"{mean(steps):+.2f} dB, {better} of {count} seeds, p = {chance:.2f}",
        met=mean(steps) > 0 and chance <= 0.05,
    )


def _bands(found: Mapping[str, Any], budget: int) -> Record:
    plain, term = (
        mean(_scores(found, "high_band", domain=SHIFTED, budget=budget, variant=variant).values())
        for variant in ADDED[0]
    )
    return floor(
        f"{SHIFTED}, {budget:,} rows: and its error in high bands is 5 % less",
        f"{100 * (term / plain - 1):+.1f} %",
        met=term <= 0.95 * plain,
    )


def _shrinks(found: Mapping[str, Any], budget: int, without: str, added: str) -> Record:
    shifted, control = (
        mean(_steps(found, domain, budget, without, added)) for domain in (SHIFTED, CONTROL)
    )
    return floor(
        f"{budget:,} rows: what the {added} term gains under the shift shrinks in the control",
        f"{shifted:+.2f} and {control:+.2f} dB",
        met=shifted > 0 and control < shifted,
    )


def _flatter(found: Mapping[str, Any], budget: int) -> Record:
    rises = _scores(found, "rise_1", domain=SHIFTED, budget=budget, variant="sam")
    plain = _scores(found, "rise_1", domain=SHIFTED, budget=budget, variant="plain")
    before = mean(plain[seed] for seed in rises)
    return floor(
        f"{SHIFTED}, {budget:,} rows: sam makes the copy flatter under noise of 1 %",
        f"{before:.2%} to {mean(rises.values()):.2%}",
        met=mean(rises.values()) < before,
    )


def _not_worse(found: Mapping[str, Any], budget: int) -> Record:
    steps = _steps(found, SHIFTED, budget, *ADDED[1])
    return floor(
        f"{SHIFTED}, {budget:,} rows: and no further from the victim",
        f"{mean(steps):+.2f} dB",
        met=mean(steps) >= 0,
    )


def _marked(found: Mapping[str, Any], mark: str) -> list[Record]:
    """In copies, in pictures that stay good, and in no other network."""
    score = MARKS[mark]
    copies = [d[score] for d in found["defenses"] if d["defense"] == mark]
    alone = [line[score] for line in found["independent"]]
    least = next(line["victim_least"] for line in found["served"] if line["defense"] == mark)
    return [
        floor(
            f"`{mark}` is in every copy at p <= 1e-6",
            f"{min(copies):.1g} to {max(copies):.1g}, {len(copies)} copies",
            met=max(copies) <= 1e-6,
        ),
        floor(
            f"`{mark}`: no picture under 38 dB to the clean one", f"{least:.1f}", met=least >= 38
        ),
        floor(
            f"`{mark}`: networks that know nothing of the victim stay at p > 0.01",
            f"{min(alone):.1g} to {max(alone):.1g}, {len(alone)} networks",
            met=min(alone) > 0.01,
        ),
    ]


def _cost(found: Mapping[str, Any], line: Record) -> float:
    cost: float = found["victim"]["truth"] - line["truth"]
    return cost


def _loss(found: Mapping[str, Any], domain: str, thief: str) -> float:
    """dB to the clean victim, against the undefended copies of the same seeds."""
    most = max(a["budget"] for a in found["attacks"])
    before = _scores(found, "clone_victim", domain=domain, budget=most, variant="wavelet")
    told = [d for d in found["defenses"] if (d["defense"], d["domain"]) == (thief, domain)]
    loss: float = mean(before[d["seed"]] - d["clone_victim"] for d in told)
    return loss


def _protects(name: str, losses: Mapping[str, tuple[float, str]], cost: float) -> Record:
    return floor(
        f"`{name}` takes more from its best thief's copy than from clients, in both domains",
        ", ".join(f"{loss:.2f} ({_told(name, who)}; {d})" for d, (loss, who) in losses.items())
        + f" and {max(0.0, cost):.2f} dB",
        met=all(loss > cost for loss, _ in losses.values()),
    )


def _told(name: str, thief: str) -> str:
    return thief.removeprefix(name).removeprefix(", ") or "who does not adapt"


def _protection(
    taken: Mapping[str, Mapping[str, tuple[float, str]]], costs: Mapping[str, float]
) -> Record:
    """With the thief's own pictures of the victim's kind: what protects at all protects there."""
    cheap = {name: losses[CONTROL] for name, losses in taken.items() if costs[name] <= 0.3}
    name, (loss, thief) = max(cheap.items(), key=lambda item: item[1][0])
    return floor(
        "some defense takes 1.5 dB from its best thief's copy, and at most 0.3 dB from clients",
        f"at most {loss:.2f} dB (`{name}`, {_told(name, thief)})",
        met=loss >= 1.5,
    )
