"""Tables of the bench of generators say what its records say."""

from typing import Any

import pytest

from docs import copying
from redteam.gan.cases import THIEVES
from redteam.gan.sheets import PANELS


def clone(**fields: object) -> dict[str, Any]:
    base: dict[str, Any] = {
        "victim": "mnist",
        "seed": 0,
        "defense": "none",
        "thief": "plain",
        "budget": 20_000,
        "model": "clone",
        "fid_clone_victim": 4.0,
        "fid_clone_real": 30.0,
        "coverage": 0.9,
        "density": 1.0,
        "fid_served_real": 15.0,
        "fid_served_real_many": 15.0,
        "fid_served_victim": 0.4,
        "coverage_served": 0.97,
        "psnr": None,
        "p": {"64": 0.5, "2000": 0.25},
    }
    return base | fields


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Results in place of those in the folder."""
    found: dict[str, Any] = {"records": [], "missed": [], "cost": {}}
    monkeypatch.setattr(copying, "whole", lambda: found)
    return found


def test_budgets_are_means_with_deviations_over_seeds(measured: dict[str, Any]) -> None:
    measured["records"] += [
        clone(budget=1_000, fid_clone_victim=8.0),
        clone(),
        clone(seed=1, fid_clone_victim=6.0),
    ]
    lines = copying.budgets().splitlines()[2:]

    assert lines == [
        "| 1,000 | digits | 1 | 8.00 | 30.00 | 90% | 1.00 | 15.00 |",
        "| 20,000 | digits | 2 | 5.00 ± 1.41 | 30.00 ± 0.00 | 90% | 1.00 | 15.00 ± 0.00 |",
    ]


def test_a_defense_is_compared_with_none_and_shows_its_price(measured: dict[str, Any]) -> None:
    served = {"fid_served_real": 20.0, "fid_served_real_many": 16.0}
    measured["records"] += [
        clone(),
        clone(defense="blur", fid_clone_victim=6.0, psnr=33.0, **served),
    ]
    none, blur = copying.defenses().splitlines()[2:]

    assert (
        none
        == "| none | digits | 1 | 4.00 | 30.00 | 90% | 1.00 | 1.00 | 0.40, 97% | 15.00 / 15.00 |  |"
    )
    assert (
        blur
        == "| blur | digits | 1 | 6.00 | 30.00 | 90% | 1.00 | 1.50 | 0.40, 97% | 20.00 / 16.00 | 33.0 |"
    )


def test_a_thief_of_marked_pictures_shows_the_worst_seed(measured: dict[str, Any]) -> None:
    marked = {"defense": "watermark", "thief": "jpeg 70"}
    measured["records"] += [
        clone(**marked, p={"64": 0.1, "2000": 1e-9}),
        clone(**marked, seed=1, p={"64": 1e-9, "2000": 1e-7}),
        clone(thief="real share"),
    ]
    washed, mixed = copying.thieves().splitlines()[2:]

    assert washed.startswith("| watermark | digits | JPEG 70 first | 2 |")
    assert washed.endswith("| 1e-07 |")
    assert mixed.endswith("|  |")


def test_proofs_take_the_worst_of_the_guilty_and_the_best_of_the_innocent(
    measured: dict[str, Any],
) -> None:
    measured["records"] += [
        clone(defense="watermark", p={"64": 1e-3, "2000": 1e-9}),
        clone(defense="watermark", seed=1, p={"64": 1e-8, "2000": 1e-7}),
        clone(),
        clone(seed=1, p={"64": 0.04, "2000": 0.7}),
    ]
    guilty, innocent = copying.proofs().splitlines()[2:]

    assert guilty == "| clone of marked digits: plain | 2 | 0.001 | 1e-07 | 2,000 |"
    assert innocent == "| clones of unmarked pictures | 2 | 0.04 | 0.25 | never |"


def test_a_proof_that_more_pictures_take_back_is_none(measured: dict[str, Any]) -> None:
    measured["records"] += [clone(defense="watermark", p={"64": 1e-9, "2000": 1e-3})]
    (row,) = copying.proofs().splitlines()[2:]

    assert row.endswith("| 1e-09 | 0.001 | never |")


def test_what_was_missed_is_listed(measured: dict[str, Any]) -> None:
    measured["cost"] = {
        "rows": 32,
        "bare_ms": 1.5,
        "json_ms": 0.5,
        "ratio": {"gaussian_noise": 1.5},
        "ratio_answered": {"gaussian_noise": 1.38},
    }

    assert copying.missed().endswith("Missed: nothing.")
    assert (
        "with a defense, times: gaussian noise 1.50. With the answer in JSON, 0.5 ms more,"
        in copying.missed()
    )
    measured["missed"] = ["one", "two"]
    assert copying.missed().endswith("Missed:\n* one\n* two")


def test_where_the_bench_never_ran_tables_are_empty(measured: dict[str, Any]) -> None:
    for part in (copying.budgets, copying.defenses, copying.thieves, copying.proofs):
        assert len(part().splitlines()) == 2


def test_every_thief_of_the_bench_has_its_words() -> None:
    assert copying.THIEVES.keys() == THIEVES.keys()
    assert "none" in PANELS
