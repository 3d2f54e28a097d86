"""What the watermark bench must find; in words, what it does not."""

from collections.abc import Iterator, Sequence

from redteam.judging import Record

PROVEN, DISTORTED = 1e-6, 1e-4
"""The largest p-values of 64 pictures as they left, and of distorted ones; the first is that of a copy's, too."""
KEPT = {"38 dB": 38.0, "43 dB": 43.0, "mantlet": 40.0}
"""What pictures keep at least, in dB, by a part of what a record is of."""
WORSE = 1.05
"""What a mark does to ``fid_served_real``, at most."""
NAMED = 0.99
READ_MS, FASTER, EMBED_MS = 50.0, 50.0, 0.2 * 32
"""Milliseconds to read a picture of 256x256, how many times those RivaGAN needs, and to mark 32 of 28x28."""


def judged(records: Sequence[Record]) -> list[Record]:
    """The records, and last what they miss."""
    return [*records, {"part": "missed", "of": "all", "lines": missed(records)}]


def missed(records: Sequence[Record]) -> list[str]:
    """A line for each floor that was not reached; what was not measured is not judged."""
    judges = (_found, _kept, _price, _named, _innocent, _copied, _washed, _rivals, _speed)
    return [line for judge in judges for line in judge(records)]


def _of(records: Sequence[Record], *parts: str) -> Iterator[Record]:
    return (record for record in records if record["part"] in parts)


def _found(records: Sequence[Record]) -> Iterator[str]:
    for r in _of(records, "generated"):
        what, wanted = r["distortion"], PROVEN if r["distortion"] == "none" else DISTORTED
        if what in ("none, unmarked", "none, wrong key"):
            if r["p_least"] <= PROVEN:
                yield f"{r['of']}: {what}, p {r['p_least']:.1e}"
        elif r["p_most"] > wanted:
            yield f"{r['of']}: {what} leaves p {r['p_most']:.1e} at worst; {wanted:g} is wanted"


def _kept(records: Sequence[Record]) -> Iterator[str]:
    kept = {r["of"]: r["psnr_least"] for r in _of(records, "generated", "photographs")}
    for of, least in kept.items():
        wanted = next((w for end, w in KEPT.items() if end in of), 0.0)
        if least < wanted:
            yield f"{of}: a picture keeps {least:.2f} dB; {wanted:g} are wanted"


def _price(records: Sequence[Record]) -> Iterator[str]:
    for r in _of(records, "fidelity"):
        ratio = r["fid_served_real"] / r["fid_clean_real"]
        if ratio > WORSE:
            yield f"{r['of']}: fid_served_real rises by {ratio - 1:.1%}; {WORSE - 1:.0%} is allowed"


def _named(records: Sequence[Record]) -> Iterator[str]:
    for r in _of(records, "traced"):
        if r["right"] < NAMED:
            yield f"{r['of']}: the right client is named in {r['right']:.1%}; {NAMED:.0%} is wanted"


def _innocent(records: Sequence[Record]) -> Iterator[str]:
    for r in _of(records, "nulls", "set_nulls"):
        if r["at_most_1e-06"]:
            told = f"{r['at_most_1e-06']} of {r['draws']:,}"
            yield f"{r['of']}: {r['what']}, {told} p-values are 1e-06 or less"


def _copied(records: Sequence[Record]) -> Iterator[str]:
    """Of the most pictures of each copy."""
    for r in {r["of"]: r for r in _of(records, "copied")}.values():
        if r["p"] > PROVEN:
            yield f"{r['of']}: {r['shown']:,} pictures of a copy show p {r['p']:.1e}; {PROVEN:g} is wanted"


def _washed(records: Sequence[Record]) -> Iterator[str]:
    for r in _of(records, "washed"):
        if r["p_most"] > PROVEN:
            told = (
                f"p {r['p_median']:.1e} of {r['pictures']:,} pictures, {r['p_most']:.1e} at worst"
            )
            yield f"{r['of']}: a wash, {r['wash']}, leaves {told}; {PROVEN:g} proves"


def _rivals(records: Sequence[Record]) -> Iterator[str]:
    photographs = {(r["of"], r["distortion"]): r["bits"] for r in _of(records, "photographs")}
    for (of, what), bits in photographs.items():
        ours = photographs.get(("mantlet", what))
        if ours is not None and ours < bits:
            yield f"photographs, {what}: {ours:.2%} of the bits are right, of {of} {bits:.2%}"


def _speed(records: Sequence[Record]) -> Iterator[str]:
    took = {r["what"]: r["ms"] for r in _of(records, "speed")}
    for what, most in (
        ("detect 256x256, mantlet", READ_MS),
        ("embed 32 of 28x28, mantlet", EMBED_MS),
    ):
        if took.get(what, 0.0) > most:
            yield f"{what} takes {took[what]:.1f} ms; {most:g} are wanted"
    ours, theirs = (took.get(f"read 256x256, {name}") for name in ("mantlet", "rivagan"))
    if ours and theirs and theirs < FASTER * ours:
        yield f"reading is {theirs / ours:.0f} times as fast as by RivaGAN; {FASTER:g} times is wanted"
