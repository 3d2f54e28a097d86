"""What benchmarks measured, as the pages show it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from docs.tables import table

RESULTS = Path(__file__).parent / "results"


def serving() -> str:
    """What the serving benchmark measured, beside what it compares with."""
    found = json.loads((RESULTS / "serving.json").read_text(encoding="utf-8"))
    machine, how = found["machine"], found["settings"]
    stages = ", ".join(f"{name} {value}" for name, value in found["stages"].items())
    basis = (
        f"Medians of {how['rounds']} rounds of {how['seconds']:g} s on {machine['cores']} cores"
        f" ({machine['cpu']}), which the load generator shares. Ratios hold; absolute numbers are"
        f" this machine's. A micro-batch over the whole run, by stage: {stages}."
    )
    missed = "".join(f"\n* {miss}" for miss in found["missed"]) or " nothing."
    return "\n\n".join([_speeds(found["cases"]), _others(found), basis, f"Missed:{missed}"])


def _speeds(cases: Mapping[str, Any]) -> str:
    rows = []
    for label in (f"{body} {n}" for body in ("json", "npy") for n in (1, 8, 32, 64)):
        bare, ours = cases[f"bare {label}"], cases[f"gateway {label}"]
        row = [label.replace(" ", ", "), f"{bare['per_s']:,.0f}", f"{ours['per_s']:,.0f}"]
        row.append(f"{ours['per_s'] / bare['per_s']:.1f}x")
        row += [f"{c['p50_ms']:.2f} / {c['p99_ms']:.1f}" for c in (bare, ours)]
        rows.append(tuple(row))
    head = (
        "FastAPI req/s",
        "Mantlet req/s",
        "ratio",
        "FastAPI p50 / p99 ms",
        "Mantlet p50 / p99 ms",
    )
    return table(("body, connections", *head), rows)


def _others(found: Mapping[str, Any]) -> str:
    ratios, clients = found["ratios"], found["clients"]
    chain, full = (
        " / ".join(f"{ratios[f'{body} 32: {what} / chain off']:.2f}" for body in ("json", "npy"))
        for what in ("chain on", "all detectors")
    )
    own = "with a route for npy"
    rows = [
        ("npy over FastAPI's JSON, 32 connections", f"{ratios['npy 32: gateway / bare']:.1f}x"),
        (
            "npy over a FastAPI route that takes npy, 32 connections",
            f"{ratios[f'npy 32: gateway / bare {own}']:.1f}x",
        ),
        (
            "median latency at 1 connection over FastAPI's JSON, JSON / npy",
            " / ".join(f"{ratios[f'{b} 1: p50 gateway / bare']:.2f}" for b in ("json", "npy")),
        ),
        (
            "the same, npy over a FastAPI route that takes npy",
            f"{ratios[f'npy 1: p50 gateway / bare {own}']:.2f}",
        ),
        ("foreign, rate and rounding on over off, JSON / npy, 32 connections", chain),
        ("all detectors of the default on over off, JSON / npy, 32 connections", full),
        (
            "the same, requests of 32 rows, 1 connection",
            " / ".join(
                f"{ratios[f'{body}, 32 rows a batch: all detectors / chain off']:.2f}"
                for body in ("json", "npy")
            ),
        ),
        ("ResNet-20 over FastAPI's, 32", f"{ratios['resnet json 32: gateway / bare']:.1f}x"),
        ("a proxy over the model inside, 32", f"{ratios['json 32: proxy / model inside']:.2f}"),
        (f"{clients['in store']:,} clients in the store over few", f"{clients['ratio']:.2f}"),
        ("peak memory", f"{found['memory_mb']:.0f} MB"),
        ("state of a client", f"{clients['state bytes a client']} bytes"),
    ]
    return table(("also", "measured"), rows)


def redis() -> str:
    """What a batch costs with few and with many clients in Redis."""
    found = json.loads((RESULTS / "redis.json").read_text(encoding="utf-8"))
    how = found["settings"]
    few, many = how["clients"]
    rows = [
        (
            f"`{fsync}`",
            " / ".join(f"{ms:.2f}" for ms in measured["load ms"]),
            " / ".join(f"{ms:.2f}" for ms in measured["swap ms"]),
            f"{measured['ratio of load and swap']:.2f}",
            f"{measured['bytes of Redis a client']:,}",
        )
        for fsync, measured in found["appendfsync"].items()
    ]
    head = ("appendfsync", "load ms", "swap ms", "ratio", "bytes of Redis a client")
    basis = (
        f"Medians of {how['batches']:,} batches of {how['clients a batch']} clients with"
        f" {how['bytes of a memory']:,} bytes each, in a Redis of {few:,} / of {many:,} clients on the same"
        f" machine ({found['machine']['cores']} cores), in turns."
    )
    return "\n\n".join([table(head, rows), basis])


def faults() -> str:
    """What kill -9 in the middle of an attack cost."""
    found = json.loads((RESULTS / "faults.json").read_text(encoding="utf-8"))
    rows = [
        (
            fault["killed"],
            f"{fault['requests a second before']:,.0f}",
            f"{fault['refused']} of {fault['thieves']}",
            str(fault["thieves with more"]),
            str(fault["answered after the refusal"]),
            str(fault["answers without defense"]),
            f"{fault['rows of a budget lost']} of {fault['rows of a budget answered']:,}",
            f"{fault['not answered or 503, s']} s",
        )
        for fault in found["faults"]
    ]
    head = (
        "killed",
        "requests a second",
        "thieves refused",
        "refused too late",
        "answered after a refusal",
        "answers without defense",
        "rows of budgets lost",
        "until all is answered again",
    )
    return table(head, rows)


def table_of(rows: Sequence[tuple[str, ...]]) -> str:
    """A table whose first row is its head."""
    return table(rows[0], rows[1:])
