"""Tables of the bench of generators, from its records."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from docs.owned import number
from docs.tables import table
from redteam.gan.floors import PROVEN

RESULTS = Path(__file__).parent / "results"
Record = Mapping[str, Any]
Row = tuple[str, ...]
THIEVES = {
    "plain": "plain",
    "real share": "mixes in 10% real pictures",
    "leaked discriminator": "picks by the leaked discriminator, of five times as many",
    "jpeg 70": "JPEG 70 first",
    "blur 0.7": "blurs first (0.7 pixels)",
    "median 3": "median of 3x3 first",
    "autoencoder": "redraws by an autoencoder first",
    "black 0.05": "black below 0.05 first",
    "residue 16": "less the mean residue of 16 first",
    "10 accounts": "ten accounts in turn",
    "10 accounts, mean": "mean of what ten accounts get for each latent",
    "another architecture": "trains another network (transposed convolutions without padding)",
}


KINDS = {"mnist": "digits", "mnist-test": "digits", "fashion": "clothes"}
"""What the pictures of a family show."""


@cache
def whole() -> Mapping[str, Any]:
    """What the bench wrote; nothing where it never ran."""
    path = RESULTS / "gan.json"
    found: Mapping[str, Any] = (
        json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    )
    return found


def records(**wanted: object) -> list[Record]:
    """Records that say all of this."""
    return [r for r in whole().get("records", []) if wanted.items() <= r.items()]


def clones(**wanted: object) -> list[Record]:
    """Of clones."""
    return records(model="clone", **wanted)


def budgets() -> str:
    """The undefended victims, by budget."""
    head = ("pictures", "of", "seeds", *MEASURES, "`fid_served_real`")
    own = clones(defense="none", thief="plain")
    rows = []
    known = list(KINDS)
    for victim, budget in sorted(_kinds(own, "budget"), key=lambda k: (known.index(k[0]), k[1])):
        found = [r for r in own if (r["victim"], r["budget"]) == (victim, budget)]
        about = (f"{budget:,}", KINDS[victim], str(len(found)))
        rows.append((*about, *_measures(found), _told(found, "fid_served_real")))
    return table(head, rows)


MEASURES = ("`fid_clone_victim`", "`fid_clone_real`", "coverage", "density")


def defenses() -> str:
    """The plain thief at the largest budget, by defense, with what the defense costs honest clients."""
    head = (
        "defense",
        "of",
        "seeds",
        *MEASURES,
        "`fid_clone_victim`, times",
        "of what was served",
        "`fid_served_real`, one client / many",
        "PSNR, dB",
    )
    plain = clones(thief="plain", budget=_largest())
    return table(head, [_defended(plain, *about) for about in _kinds(plain, "defense")])


def _defended(plain: Sequence[Record], victim: str, name: str) -> Row:
    of_victim = [r for r in plain if r["victim"] == victim]
    found = [r for r in of_victim if r["defense"] == name]
    seeds = {r["seed"] for r in found}
    without = [r for r in of_victim if r["defense"] == "none" and r["seed"] in seeds]
    ratio = mean(r["fid_clone_victim"] for r in found) / mean(
        r["fid_clone_victim"] for r in without
    )
    psnr = [r["psnr"] for r in found if r["psnr"] is not None]
    repeated = mean(r["fid_served_victim"] for r in found)
    return (
        name.replace("_", " "),
        KINDS[victim],
        str(len(found)),
        *_measures(found),
        f"{ratio:.2f}",
        f"{repeated:.2f}, {mean(r['coverage_served'] for r in found):.0%}",
        f"{_told(found, 'fid_served_real')} / {_told(found, 'fid_served_real_many')}",
        f"{mean(psnr):.1f}" if psnr and mean(psnr) > 20 else "",
    )


def _kinds(found: Sequence[Record], *of: str) -> list[tuple[Any, ...]]:
    """The victims, and whatever else is named, that records tell of, each once."""
    return list(dict.fromkeys((r["victim"], *(r[name] for name in of)) for r in found))


def thieves() -> str:
    """Thieves who do more than learn."""
    head = ("defense", "of", "thief", "seeds", *MEASURES, "p-value, worst seed")
    found = [r for r in clones(budget=_largest()) if r["thief"] != "plain"]
    rows = []
    for victim, name, thief in _kinds(found, "defense", "thief"):
        own = [r for r in found if (r["victim"], r["defense"], r["thief"]) == (victim, name, thief)]
        worst = number(max(_last(r) for r in own)) if name == "watermark" else ""
        about = (name.replace("_", " "), KINDS[victim], THIEVES[thief], str(len(own)))
        rows.append((*about, *_measures(own), worst))
    return table(head, rows)


def proofs() -> str:
    """P-values of the owner's key by the number of pictures: of the worst seed for clones, of the best for others."""
    cases: list[tuple[str, list[Record], bool]] = [
        ("what the API serves, marked", records(model="the API, marked"), True)
    ]
    for victim, thief in _kinds(clones(defense="watermark"), "thief"):
        own = clones(defense="watermark", victim=victim, thief=thief)
        cases.append((f"clone of marked {KINDS[victim]}: {THIEVES[thief]}", own, True))
    others = [r for r in clones() if r["defense"] != "watermark"]
    cases += [
        ("clones of unmarked pictures", others, False),
        ("the unmarked generators", records(model="victim"), False),
        ("real pictures", records(model="real pictures"), False),
    ]
    cases = [case for case in cases if case[1]]
    counts = list(cases[0][1][0]["p"]) if cases else []
    head = ("pictures of", "sets", *(f"{int(count):,}" for count in counts), "proven from")
    rows = []
    for what, found, guilty in cases:
        pick = max if guilty else min
        along = [pick(r["p"][count] for r in found) for count in counts]
        proven = next((c for i, c in enumerate(counts) if max(along[i:]) <= PROVEN), None)
        rows.append(
            (what, str(len(found)), *map(number, along), f"{int(proven):,}" if proven else "never")
        )
    return table(head, rows)


def missed() -> str:
    """What was asked of the bench and not found, and what defenses cost."""
    found = whole()
    lines = "".join(f"\n* {line}" for line in found.get("missed", [])) or " nothing."
    cost = found.get("cost", {})
    told = ""
    if cost:
        ratios, whole_ = (
            ", ".join(f"{name.replace('_', ' ')} {r:.2f}" for name, r in cost[of].items())
            for of in ("ratio", "ratio_answered")
        )
        told = (
            f"A batch of {cost['rows']} pictures takes {cost['bare_ms']:.1f} ms of processor; with a defense, times:"
            f" {ratios}. With the answer in JSON, {cost['json_ms']:.1f} ms more, times: {whole_}."
        )
    return "\n\n".join(part for part in (told, f"Missed:{lines}") if part)


def _largest() -> int:
    return max((r["budget"] for r in clones()), default=0)


def _measures(found: Sequence[Record]) -> tuple[str, ...]:
    return (
        _told(found, "fid_clone_victim"),
        _told(found, "fid_clone_real"),
        f"{mean(r['coverage'] for r in found):.0%}",
        f"{mean(r['density'] for r in found):.2f}",
    )


def _told(found: Sequence[Record], measure: str) -> str:
    """Mean and standard deviation over seeds."""
    values = [r[measure] for r in found]
    spread = f" ± {stdev(values):.2f}" if len(values) > 1 else ""
    return f"{mean(values):.2f}{spread}"


def _last(record: Record) -> float:
    p: float = list(record["p"].values())[-1]
    return p
