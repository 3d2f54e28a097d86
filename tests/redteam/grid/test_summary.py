"""Records become lines: means over seeds, the strongest of those who adapt, clear words for bad files."""

import json
from pathlib import Path
from typing import Any

import pytest

from mantlet.errors import ConfigError
from redteam.grid import summary
from redteam.grid.summary import ADAPTIVE


def record(**changes: Any) -> dict[str, Any]:
    """A theft of which everything is said."""
    known = {
        "victim": "mnist",
        "defense": "none",
        "attack": "foreign soft",
        "attacker_data": "foreign",
        "budget": 1000,
        "seed": 0,
        "clone_accuracy": 0.8,
        "agreement": 0.8,
        "benign_accuracy": 0.99,
        "l1": 0.01,
        "added_ms": 0.02,
        "rows_until_denied": None,
    }
    return known | changes


def test_seeds_of_one_theft_are_one_line_with_mean_and_deviation() -> None:
    seeds = [record(seed=n, agreement=a) for n, a in enumerate((0.7, 0.8, 0.9))]
    (line,) = summary.lines(seeds)

    assert line.seeds == 3
    assert line.mean["agreement"] == pytest.approx(0.8)
    assert line.deviation["agreement"] == pytest.approx(0.1)
    assert line.verdict == "warning"
    assert summary.percent(line) == "80.0 ± 10.0"
    assert summary.percent(summary.lines(seeds[:1])[0]) == "70.0"
    assert summary.percent(None) == "-"


def test_rows_until_denied_are_a_median_and_never_where_most_never_are() -> None:
    sometimes = [record(seed=n, rows_until_denied=r) for n, r in enumerate((90, None, 50))]
    seldom = [record(seed=n, rows_until_denied=r) for n, r in enumerate((90, None, None))]

    assert summary.lines(sometimes)[0].denied == 90
    assert summary.lines(seldom)[0].denied is None
    assert summary.rows(None) == "never"
    assert summary.rows(1234.0) == "1,234"


def test_rows_until_denied_of_many_thieves_hide_none_that_never_is() -> None:
    def told(**denied: int | None) -> str:
        data = {"own": "own"}
        records = [
            record(attack=name, attacker_data=data.get(name, "foreign"), rows_until_denied=r)
            for name, r in denied.items()
        ]
        return summary.denied(summary.lines(records))

    assert told(soft=7, many=1201, own=None) == "7 to 1,201"
    assert told(soft=7, many=None, own=3) == "7 to never"
    assert told(soft=None, own=3) == "never"
    assert told(own=3) == "-"


def test_of_those_who_adapt_the_strongest_is_shown_and_no_weaker_than_a_plain_thief() -> None:
    found = summary.lines(
        [
            record(agreement=0.6),
            record(attack="a", adaptive=True, agreement=0.5),
            record(attack="b", adaptive=True, agreement=0.55),
            record(attack="own soft", attacker_data="own", agreement=0.95),
        ]
    )
    weaker = summary.cell(found, ADAPTIVE)
    stronger = summary.cell(found[1:], ADAPTIVE)

    assert summary.columns(found) == ["foreign soft", "own soft", ADAPTIVE]
    assert weaker is not None
    assert weaker.attack == "foreign soft"
    assert stronger is not None
    assert stronger.attack == "b"
    assert summary.cell(found[:1], ADAPTIVE) is None
    assert summary.cell(found, "own soft") == found[3]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[", "cannot be read"),
        ("{}", "no list of records"),
        ("[]", "no list of records"),
        ("[1]", "record 0 lacks victim"),
        (json.dumps([{**record(), "seed": 1}, {"victim": "v"}]), "record 1 lacks defense"),
    ],
)
def test_a_file_that_holds_no_records_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        summary.read(path)


def test_a_file_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file; run: mantlet bench"):
        summary.read(tmp_path / "none.json")
