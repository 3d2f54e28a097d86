"""Tables of the bench of translators, from its records."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

from redteam.measures import spread
from redteam.translation.bench import DOMAINS, SHIELDS, VARIANTS

RESULTS = Path(__file__).parent / "results" / "i2i.json"
TITLES = {
    "cifar": "CIFAR-10 in grey (shifted)",
    "fashion": "Fashion-MNIST, the other half (control)",
}
Row = tuple[str, ...]
Record = Mapping[str, Any]


@cache
def found() -> Mapping[str, Any]:
    """What the bench wrote."""
    told: Mapping[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))
    return told


def _of(lines: Sequence[Record], name: str, **wanted: object) -> dict[int, float]:
    """One number of all records that say this, by seed."""
    return {line["seed"]: line[name] for line in lines if wanted.items() <= line.items()}


def _pairs(before: Mapping[int, float], after: Mapping[int, float]) -> list[tuple[float, float]]:
    """Both numbers of the seeds that have both."""
    return [(before[seed], after[seed]) for seed in sorted(before.keys() & after.keys())]


def attacks() -> list[Row]:
    """How near copies of the undefended victim come to it: dB, means and deviations over seeds."""
    told = found()["attacks"]
    rows: list[Row] = [("the thief's pictures", "rows", *VARIANTS)]
    for domain in DOMAINS:
        for budget in sorted({line["budget"] for line in told}):
            cells = []
            for variant in VARIANTS:
                scores = _of(told, "clone_victim", domain=domain, budget=budget, variant=variant)
                middle, deviation = spread(scores.values()) if scores else (0.0, 0.0)
                cells.append(f"{middle:.2f} ± {deviation:.2f}" if scores else "-")
            rows.append((TITLES[domain], f"{budget:,}", *cells))
    return rows


ADDED = (
    ("plain", "wavelet"),
    ("plain", "wavelet, 4 times"),
    ("plain", "sam"),
    ("wavelet", "wavelet and sam"),
)


def gains() -> list[Row]:
    """What the wavelet term and sharpness-aware minimisation add, seed by seed against the same without."""
    head = ("the thief's pictures", "rows", "added", "dB, mean", "better in", "error in high bands")
    rows: list[Row] = [(*head, "rise of the loss, 1 % noise")]
    for domain in DOMAINS:
        for without, added in ADDED:
            told = [a for a in found()["attacks"] if a["variant"] == added]
            for budget in sorted({a["budget"] for a in told}):
                cells = _gain(domain, budget, without, added)
                rows.append((TITLES[domain], f"{budget:,}", f"{added} to {without}", *cells))
    return rows


def _gain(domain: str, budget: int, without: str, added: str) -> Row:
    def pairs(name: str) -> list[tuple[float, float]]:
        told, of = found()["attacks"], {"domain": domain, "budget": budget}
        before, after = (_of(told, name, variant=v, **of) for v in (without, added))
        return _pairs(before, after)

    steps = [after - before for before, after in pairs("clone_victim")]
    bands, rises = (
        [mean(side) for side in zip(*pairs(n), strict=True)] for n in ("high_band", "rise_1")
    )
    return (
        f"{mean(steps):+.2f}",
        f"{sum(step > 0 for step in steps)} of {len(steps)}",
        f"{100 * (bands[1] / bands[0] - 1):+.1f} %",
        f"{100 * rises[0]:.2f} % to {100 * rises[1]:.2f} %",
    )


def shields() -> list[Row]:
    """What each defense costs clients and what it costs copies, in dB; means over seeds."""
    told = found()
    served = {line["defense"]: line for line in told["served"]}
    budget = max(line["budget"] for line in told["attacks"])
    head = ("defense", "served to truth", "served to clean", "similarity")
    head += tuple(f"copy to victim, {name}" for name in DOMAINS)
    rows: list[Row] = [(*head, "copy to truth, fashion")]
    truth = told["victim"]["truth"]
    for name in SHIELDS:
        given = served[name]
        cells = [
            f"{given['truth'] - truth:+.2f}",
            f"{given['victim']:.1f}",
            f"{given['similarity']:.3f}",
        ]
        for domain, score in (*((d, "clone_victim") for d in DOMAINS), ("fashion", "clone_truth")):
            after = _of(told["defenses"], score, defense=name, domain=domain)
            before = _of(told["attacks"], score, domain=domain, budget=budget, variant="wavelet")
            cells.append(f"{mean(b - a for a, b in _pairs(before, after)):+.2f}")
        rows.append((f"`{name}`", *cells))
    return rows


def alone() -> list[Row]:
    """How near networks come to the victim that know nothing of it: dB."""
    trained = {"own": "the victim's own half", **TITLES}
    rows: list[Row] = [("trained on the truth of", "seed", "to the victim", "to the truth")]
    for line in found()["independent"]:
        near = (f"{line[score]:.2f}" for score in ("clone_victim", "clone_truth"))
        rows.append((trained[line["data"]], str(line["seed"]), *near))
    return rows


def floors() -> list[Row]:
    """What had to be reached, and what was."""
    rows: list[Row] = [("wanted", "measured", "")]
    for one in found()["floors"]:
        verdict = "**missed**" if one["missed"] else "reached"
        rows.append((one["wanted"], one["measured"], verdict))
    return rows


def marks() -> list[Row]:
    """The largest and the smallest p-values of both marks in suspects."""
    told = found()
    marked = {
        f"copies of `{name}`, {domain}": [
            line for line in told["defenses"] if (line["defense"], line["domain"]) == (name, domain)
        ]
        for name, shield in SHIELDS.items()
        if shield.marked
        for domain in DOMAINS
    }
    served = {
        f"served by `{line['defense']}`": [line]
        for line in told["served"]
        if line["defense"] in ("high_band_dither", "watermark")
    }
    alone = {"networks trained on the truth": told["independent"]}
    rows: list[Row] = [("pictures of", "suspects", "p of the dither", "p of the watermark")]
    for name, lines in (served | marked | alone).items():
        if lines:
            spans = (_span([line[mark] for line in lines]) for mark in ("p_dither", "p_watermark"))
            rows.append((name, str(len(lines)), *spans))
    return rows


def _span(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.1g}" if low == high else f"{low:.1g} to {high:.1g}"
