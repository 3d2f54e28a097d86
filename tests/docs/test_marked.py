"""Tables of the watermark bench say what its records say."""

import pytest

from docs import marked
from docs.marked import Record
from redteam.watermarks import rivals


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[Record]:
    """Records of one of each part."""
    levels = {
        f"at_most_{level}": n for level, n in zip(marked.LEVELS, (900, 80, 5, 0, 0), strict=True)
    }
    record = {"psnr": 40.12, "psnr_least": 38.04, "bits": 0.99}
    many: list[Record] = [
        {"part": "nulls", "of": "g", "what": "unmarked", "draws": 10_000, "p_least": 2e-4} | levels,
        {
            "part": "generated",
            "of": "g",
            "distortion": "none",
            "p_median": 1e-20,
            "p_most": 1e-9,
            "p_least": 1e-30,
        }
        | record,
        {
            "part": "traced",
            "of": "g",
            "traces": 400,
            "right": 0.995,
            "p_median": 1e-6,
            "p_most": 0.01,
            "p_honest_least": 0.2,
        },
        {"part": "set_nulls", "of": "g", "what": "64", "draws": 2_000, "p_least": 2e-4} | levels,
        {"part": "missed", "of": "all", "lines": ["one", "two"]},
        {
            "part": "washed",
            "of": "g",
            "wash": "black",
            "pictures": 2_000,
            "p_median": 1e-4,
            "p_most": 0.2,
            "p_least": 1e-9,
            "psnr": 41.04,
        },
        {
            "part": "colluding",
            "of": "g",
            "accounts": 2,
            "how": "mean",
            "leaks": 200,
            "right": 0.9,
            "p_median": 0.2,
            "p_honest_least": 0.001,
            "p_model_most": 1e-20,
        },
        {"part": "fidelity", "of": "g", "fid_clean_real": 2.0, "fid_served_real": 2.1},
        {"part": "copied", "of": "g", "shown": 2_000, "p": 1e-13, "p_wrong_key": 0.4},
        {"part": "photographs", "of": "mantlet", "distortion": "none"} | record,
        {"part": "photographs", "of": "rivagan", "distortion": "none"} | record | {"bits": 0.97},
        {"part": "speed", "of": "all", "what": "read 256x256, mantlet", "ms": 10.0},
        {"part": "speed", "of": "all", "what": "read 256x256, rivagan", "ms": 800.0},
    ]
    monkeypatch.setattr(marked, "records", lambda: many)
    return many


@pytest.mark.usefixtures("found")
def test_each_table_shows_its_records() -> None:
    assert marked.nulls()[1] == ("unmarked", "g", "10,000", "900", "80", "5", "0", "0", "2e-04")
    assert marked.generated()[1] == ("none", "g (38.04 or more)", "1e-20", "1e-09", "1e-30")
    assert marked.traced()[1] == ("g", "400", "99.5%", "1e-06", "0.01", "0.2")
    assert marked.faithful()[1] == ("g", "2.000", "2.100", "5.0%")
    assert marked.copied()[1] == ("g", "2,000", "1e-13", "0.4")
    assert marked.nulls()[2][:3] == ("64", "g", "2,000")
    assert marked.washed()[1] == ("black", "g", "2,000", "1e-04", "0.2", "1e-09", "41.0")
    assert marked.colluding()[1] == ("g", "2", "mean", "200", "90.0%", "0.2", "0.001", "1e-20")
    assert marked.missed() == "Missed:\n* one\n* two"
    assert marked.photographs() == [
        ("done to the pictures", "Mantlet (40.1 dB)", "RivaGAN (40.1 dB)"),
        ("none", "99.00%", "97.00%"),
    ]
    assert marked.speed()[2] == ("read 256x256, rivagan", "800.0", "80.0")


def test_without_records_tables_are_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marked, "records", list)

    tables = [
        marked.nulls,
        marked.generated,
        marked.traced,
        marked.faithful,
        marked.speed,
        marked.copied,
        marked.washed,
        marked.colluding,
    ]
    assert marked.missed() == "Missed: nothing."
    assert all(len(made()) == 1 for made in [*tables, marked.photographs])


def test_every_method_has_a_title() -> None:
    assert marked.METHODS.keys() == {"mantlet", *rivals.METHODS}
