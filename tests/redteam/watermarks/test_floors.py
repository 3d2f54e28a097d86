"""A floor of the mark that is missed is told in words, and one that is reached is not."""

from typing import Any

from redteam.watermarks.floors import judged, missed

OF = "mnist-dcgan, 38 dB"


def record(part: str, of: str = OF, **found: Any) -> dict[str, Any]:
    return {"part": part, "of": of} | found


def fine() -> list[dict[str, Any]]:
    """Records that reach everything."""
    kept = {"psnr_least": 38.0, "p_least": 1e-30}
    return [
        record("generated", distortion="none", p_most=1e-7, **kept),
        record("generated", distortion="mirror", p_most=1e-5, **kept),
        record("generated", distortion="none, unmarked", p_most=1.0, **kept | {"p_least": 0.01}),
        record("fidelity", fid_clean_real=10.0, fid_served_real=10.4),
        record("traced", right=0.995),
        record("nulls", what="one", draws=1_000, **{"at_most_1e-06": 0}),
        record("copied", shown=64, p=0.5),
        record("copied", shown=2_000, p=1e-9),
        record("washed", wash="black", pictures=64, p_median=1e-12, p_most=1e-9),
        record("photographs", "mantlet", distortion="crop", bits=0.99, psnr_least=40.0),
        record("photographs", "rivagan", distortion="crop", bits=0.98, psnr_least=30.0),
        record("speed", "all", what="read 256x256, mantlet", ms=2.0),
        record("speed", "all", what="read 256x256, rivagan", ms=200.0),
        record("speed", "all", what="detect 256x256, mantlet", ms=20.0),
    ]


def test_nothing_is_missed_where_all_is_reached() -> None:
    assert missed(fine()) == []
    assert judged([]) == [{"part": "missed", "of": "all", "lines": []}]


def test_each_floor_is_told_where_it_is_missed() -> None:
    for which, found, telling in (
        (0, {"p_most": 1e-5}, "none leaves p 1.0e-05 at worst; 1e-06 is wanted"),
        (1, {"p_most": 1e-3}, "mirror leaves p 1.0e-03 at worst; 0.0001 is wanted"),
        (2, {"psnr_least": 37.9}, "a picture keeps 37.90 dB; 38 are wanted"),
        (2, {"p_least": 1e-7}, "none, unmarked, p 1.0e-07"),
        (3, {"fid_served_real": 11.2}, "fid_served_real rises by 12.0%; 5% is allowed"),
        (4, {"right": 0.98}, "the right client is named in 98.0%"),
        (5, {"at_most_1e-06": 2}, "one, 2 of 1,000 p-values are 1e-06 or less"),
        (7, {"p": 1e-4}, "2,000 pictures of a copy show p 1.0e-04"),
        (8, {"p_most": 0.4}, "a wash, black, leaves p 1.0e-12 of 64 pictures, 4.0e-01 at worst"),
        (9, {"psnr_least": 39.0}, "mantlet: a picture keeps 39.00 dB; 40 are wanted"),
        (10, {"bits": 0.995}, "crop: 99.00% of the bits are right, of rivagan 99.50%"),
        (12, {"ms": 80.0}, "reading is 40 times as fast"),
        (13, {"ms": 60.0}, "detect 256x256, mantlet takes 60.0 ms"),
    ):
        records = fine()
        records[which] |= found
        (line,) = missed(records)

        assert telling in line
