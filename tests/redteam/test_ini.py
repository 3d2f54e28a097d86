"""The bench of trained victims, at the size of a toy."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from defenses.ini.recipe import IniRecipe
from mantlet.data import Images
from mantlet.errors import ConfigError
from redteam import ini
from redteam.ini import Bench
from redteam.learning import Training
from redteam.pools import FILES, Pools


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, digits: Images) -> Bench:
    folder = tmp_path_factory.mktemp("data")
    assert digits.y is not None
    x, y = (255 * digits.x[:, 0]).astype(np.uint8), digits.y.astype(np.uint8)
    rng = np.random.default_rng(0)
    for family in ("mnist", "fashion", "notmnist", "omniglot", "cifar"):
        pictures = x[:400] if family == "mnist" else rng.integers(0, 256, (400, 28, 28), np.uint8)
        split = {"x_train": pictures[:300], "y_train": y[:300]}
        held = {"x_test": pictures[300:], "y_test": y[300:400]}
        np.savez(folder / FILES[family], **split, **held)  # type: ignore[arg-type]  # the stub takes a flag by name as well
    recipe = IniRecipe(
        kind="ini",
        architecture="lenet",
        settings={"width": 2},
        drawn=("strokes",),
        drawn_rows=100,
        epochs=1,
        batch=50,
        foreign_batch=20,
        holdout=100,
        output=folder / "out" / "m.safetensors",
    )
    work = tmp_path_factory.mktemp("work")
    said: list[str] = []
    return Bench(Pools(folder), work, recipe, (0,), 50, Training(steps=2, batch=10), said.append)


@pytest.fixture(scope="module")
def found(bench: Bench) -> dict[str, Any]:
    return ini.measure(bench)


def test_every_victim_is_robbed_by_every_family(found: dict[str, Any]) -> None:
    thefts = {(r["victim"], r["attacker_data"], r["label_only"]) for r in found["records"]}

    assert len(thefts) == len(found["records"]) == 2 * 4 * 2
    assert ("ini", "own", False) in thefts
    assert [v["victim"] for v in found["victims"]] == ["plain", "ini"]


def test_what_was_measured_is_not_measured_again(bench: Bench, found: dict[str, Any]) -> None:
    said: list[str] = []
    again = ini.measure(replace(bench, say=said.append))

    assert again["records"] == found["records"]
    assert not [line for line in said if line.startswith(("training", "ini-", "plain-"))]


def test_each_term_is_left_alone_once_beside_none_and_all(bench: Bench) -> None:
    arms = ["none", "gamma only", "delta only", "epsilon only", "all"]
    found = ini.ablated(replace(bench, seeds=(0, 1)))

    assert [v["victim"] for v in found["victims"]] == arms
    assert {(r["victim"], r["attacker_data"], r["seed"]) for r in found["records"]} == {
        (arm, family, seed) for arm in arms for family in ("notmnist", "cifar") for seed in (0, 1)
    }
    assert len({bench.weights_of(arm).read_bytes() for arm in arms}) == len(arms)


def test_the_command_keeps_the_part_of_the_results_that_it_was_not_asked_for(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "ini.json"
    out.write_text('{"records": ["kept"], "ablation": "old"}')
    monkeypatch.setattr(ini, "Bench", lambda *_, **__: bench)
    given = ["--data", str(bench.pools.folder), "--work", str(bench.work), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["ini", *given, "--ablate"])
    ini.main()
    written = json.loads(out.read_text())

    assert written["records"] == ["kept"]
    assert len(written["ablation"]["records"]) == len(ini.ARMS) * 2


def test_a_victim_of_clothes_is_trained_on_clothes(bench: Bench, tmp_path: Path) -> None:
    clothes = replace(bench, family="fashion", work=tmp_path)

    assert clothes.weights_of("plain").read_bytes() != bench.weights_of("plain").read_bytes()
    assert len(clothes.pool(ini.OWN)) == bench.recipe.holdout


def test_the_table_has_a_line_a_thief(found: dict[str, Any]) -> None:
    rows = ini.table(found)

    assert len(rows) == 8
    assert list(rows[0]) == ["thief's pictures", "answers", "clone of plain", "clone of ini"]


def test_a_folder_without_the_data_is_one_clear_error(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        ini.measure(replace(bench, pools=Pools(tmp_path)))
