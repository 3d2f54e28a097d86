"""A budget sized from the measured curve: what it allows, and when nothing can be said."""

import json
from pathlib import Path

import pytest

from detectors.coverage import Coverage
from mantlet.errors import ConfigError
from serving.budget import SPREAD, curve_of, read_curve, sized, table
from serving.policy import Level
from serving.settings import Model
from serving.victims.torch import TorchVictim

ROWS = [25, 100, 400]
POOLS = [
    {"rows": ROWS, "cells": [20, 70, 200], "agreement": [0.5, 0.8, 0.9]},
    {"rows": ROWS, "cells": [9, 30, 50], "agreement": [0.2, 0.85, 0.84]},
]


def written(folder: Path, pools: object = POOLS) -> Path:
    path = folder / "curve.json"
    path.write_text(json.dumps({"planes": 12, "pools": pools}))
    return path


def model(curve: Path | None, *levels: Level) -> Model:
    victim = TorchVictim(weights=Path("w.safetensors"), architecture="lenet")
    first = Level(name="normal")
    return Model(victim=victim, detectors=(Coverage(curve=curve),), policy=(first, *levels))


def test_the_pool_that_gives_the_best_clone_sizes_the_budget(tmp_path: Path) -> None:
    """At 100 rows it is the second pool, at 400 the first; halfway in log rows lies 200."""
    curve = read_curve(written(tmp_path))

    assert [curve.rows_for(share + SPREAD) for share in (0.5001, 0.85, 0.875)] == [25, 100, 200]


def test_what_no_clone_reached_allows_no_more_rows_than_were_measured(tmp_path: Path) -> None:
    assert read_curve(written(tmp_path)).rows_for(0.99) == 400


def test_less_than_the_least_measured_budget_gives_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"25 rows may already give an agreement of 0\.550, and 0\.4"
    ):
        read_curve(written(tmp_path)).rows_for(0.4)


def test_a_level_for_an_agreement_becomes_one_for_rows(tmp_path: Path) -> None:
    spent = Level(name="spent", agreement=0.9, tiers=("free",), deny_s=60)
    levels = sized(model(written(tmp_path), spent))

    assert levels[1] == spent.model_copy(update={"rows": 100, "agreement": None})


def test_levels_without_an_agreement_need_no_curve() -> None:
    levels = sized(model(None, Level(name="spent", rows=7)))

    assert [level.rows for level in levels] == [None, 7]


def test_an_agreement_without_a_curve_says_how_to_measure_one() -> None:
    with pytest.raises(ConfigError, match=r"python -m redteam\.detection\.curve CONFIG"):
        curve_of(model(None, Level(name="spent", agreement=0.8)))


@pytest.mark.parametrize(
    "pools",
    [
        [],
        [{"rows": [5], "agreement": [0.5]}],
        [POOLS[0], {"rows": [1, 2, 3], "agreement": [0.1, 0.2, 0.3]}],
        [{"rows": [0, 9], "agreement": [0.5, 0.6]}],
        "none",
    ],
)
def test_a_damaged_curve_is_named(tmp_path: Path, pools: object) -> None:
    path = written(tmp_path, pools)

    with pytest.raises(ConfigError, match=r"curve '.*curve\.json' cannot be read"):
        read_curve(path)


def test_a_level_sizes_its_budget_once() -> None:
    with pytest.raises(ValueError, match="'rows' and 'agreement' both size a budget"):
        Level(name="spent", rows=5, agreement=0.5)


def test_the_table_tells_of_what_was_measured_and_admits_what_was_not(tmp_path: Path) -> None:
    rows_for = table(read_curve(written(tmp_path)))

    assert (rows_for[0.5], rows_for[0.9], rows_for[0.95]) == (None, 100, 400)
