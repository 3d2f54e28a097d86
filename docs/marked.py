"""Tables of the watermark bench, from its records."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from docs.owned import number

RESULTS = Path(__file__).parent / "results"
Record = Mapping[str, Any]
Row = tuple[str, ...]
METHODS = {"mantlet": "Mantlet", "rivagan": "RivaGAN", "dwt-dct-svd": "DWT-DCT-SVD"}
LEVELS = ("0.1", "0.01", "0.001", "0.0001", "1e-06")


@cache
def records() -> Sequence[Record]:
    """What the bench wrote; nothing where it never ran."""
    path = RESULTS / "watermark.json"
    found: list[Record] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    return found


def chosen(part: str) -> list[Record]:
    """Records of a part of the bench."""
    return [record for record in records() if record["part"] == part]


def nulls() -> list[Row]:
    """How often keys that never marked pictures fit them well."""
    head = ("pictures", "of", "keys", *(f"p at most {level}" for level in LEVELS), "smallest p")
    return [
        head,
        *(
            (
                r["what"],
                r["of"],
                f"{r['draws']:,}",
                *(f"{r[f'at_most_{level}']:,}" for level in LEVELS),
                number(r["p_least"]),
            )
            for r in chosen("nulls") + chosen("set_nulls")
        ),
    ]


def generated() -> list[Row]:
    """P-values of sets of pictures that generators drew."""
    head = ("done to the pictures", "drawn by", "p-value, median", "largest", "smallest")
    rows = [
        (
            r["distortion"],
            f"{r['of']} ({r['psnr_least']:.2f} or more)",
            *(number(r[f"p_{which}"]) for which in ("median", "most", "least")),
        )
        for r in chosen("generated")
    ]
    return [head, *sorted(rows, key=lambda row: row[1])]


def traced() -> list[Row]:
    """How often the right client is named."""
    head = (
        "drawn by",
        "leaks",
        "right client named",
        "p-value, median",
        "largest",
        "smallest of another",
    )
    return [
        head,
        *(
            (
                r["of"],
                f"{r['traces']:,}",
                f"{r['right']:.1%}",
                *(number(r[f"p_{which}"]) for which in ("median", "most", "honest_least")),
            )
            for r in chosen("traced")
        ),
    ]


def faithful() -> list[Row]:
    """What the mark costs in the eyes of a classifier."""
    head = ("drawn by", "unmarked", "marked", "more by")
    return [
        head,
        *(
            (
                r["of"],
                f"{r['fid_clean_real']:.3f}",
                f"{r['fid_served_real']:.3f}",
                f"{r['fid_served_real'] / r['fid_clean_real'] - 1:.1%}",
            )
            for r in chosen("fidelity")
        ),
    ]


def copied() -> list[Row]:
    """P-values of what copies draw."""
    head = ("pictures that the copy learned from", "of the copy", "p-value", "by another key")
    return [
        head,
        *(
            (r["of"], f"{r['shown']:,}", number(r["p"]), number(r["p_wrong_key"]))
            for r in chosen("copied")
        ),
    ]


def washed() -> list[Row]:
    """What thieves leave who know how the mark is made."""
    head = ("wash", "drawn by", "pictures", "p-value, median", "largest", "smallest", "PSNR, dB")
    return [
        head,
        *(
            (
                r["wash"],
                r["of"],
                f"{r['pictures']:,}",
                *(number(r[f"p_{which}"]) for which in ("median", "most", "least")),
                f"{r['psnr']:.1f}",
            )
            for r in chosen("washed")
        ),
    ]


def colluding() -> list[Row]:
    """Whom pictures name that several accounts put together."""
    head = (
        "drawn by",
        "accounts",
        "put together",
        "leaks",
        "one of them first",
        "p-value of the likeliest of them, median",
        "smallest of another",
        "of the model, largest",
    )
    return [
        head,
        *(
            (
                r["of"],
                str(r["accounts"]),
                r["how"],
                f"{r['leaks']:,}",
                f"{r['right']:.1%}",
                *(number(r[f"p_{which}"]) for which in ("median", "honest_least", "model_most")),
            )
            for r in chosen("colluding")
        ),
    ]


def missed() -> str:
    """What was asked of the bench and not found."""
    lines = [line for r in chosen("missed") for line in r["lines"]]
    return "Missed:" + ("".join(f"\n* {line}" for line in lines) or " nothing.")


def photographs() -> list[Row]:
    """Bits that are right, by method."""
    found = {(r["of"], r["distortion"]): r for r in chosen("photographs")}
    methods = [method for method in METHODS if any(of == method for of, _ in found)]
    titles = []
    for method in methods:
        first = next(r for (of, _), r in found.items() if of == method)
        titles.append(f"{METHODS[method]} ({first['psnr']:.1f} dB)")
    return [
        ("done to the pictures", *titles),
        *(
            (name, *(f"{found[method, name]['bits']:.2%}" for method in methods))
            for name in dict.fromkeys(name for _, name in found)
        ),
    ]


def speed() -> list[Row]:
    """Milliseconds, and how many times as long as ours."""
    found = chosen("speed")
    ours = next((r["ms"] for r in found if r["what"] == "read 256x256, mantlet"), 0.0)
    rows = []
    for r in found:
        ratio = f"{r['ms'] / ours:.1f}" if r["what"].startswith("read") else ""
        rows.append((r["what"], f"{r['ms']:.1f}", ratio))
    return [("what", "ms", "times ours"), *rows]
