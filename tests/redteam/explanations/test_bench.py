"""The bench of explanations on a small scale: its thieves, its cells, and going on where it stopped."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from redteam.attacks.dfme import Dfme
from redteam.attacks.megex import Megex
from redteam.client.oracle import InProcess, Withheld
from redteam.explanations import bench as explanations
from redteam.explanations.bench import ARMS, DISPLAY, FEW, MANY, USUAL, Arm, Bench, Case, Rationed
from redteam.explanations.explainable import served
from redteam.learning import Training
from redteam.pools import Pools
from tests.helpers import rows

TINY = {"training": Training(steps=2), "batch": 8}
TOP = TINY | {"classes": "top"}
SMALL = {
    "dfme": Arm(Dfme(**TINY), budgets=(20,)),
    "display, matched": Arm(Megex(**TOP, matching=1.0), defended=True),
    "display and budget, matched": Arm(Megex(**TOP, matching=1.0), defended=True, ration=16),
    "any class, logit": Arm(Megex(**TINY, explains="logit"), once=True),
}


@pytest.fixture
def bench(pools: Pools, tmp_path: Path) -> Bench:
    return Bench(pools, tmp_path, (0, 1), ("mnist",), (USUAL, 20), SMALL)


def test_every_thief_meets_the_usual_budget_and_some_have_a_curve(bench: Bench) -> None:
    found = list(explanations.cases(replace(bench, arms=ARMS, budgets=(USUAL, FEW, MANY))))
    usual = {(c.arm, c.seed) for c in found if c.budget == USUAL}

    assert {arm for arm, _ in usual} == set(ARMS)
    assert ("any class, logit", 1) not in usual
    assert len([c for c in found if c.arm == "any class, logit"]) == 1
    many = {c.arm for c in found if c.budget == MANY}
    assert {"dfme", "dfme, diverse", "top class", "matched", "display, shares"} < many
    assert many & {c.arm for c in found if explanations.ARMS[c.arm].once} == set()
    assert len(found) == len(set(found))


def test_a_theft_counts_rows_and_numbers_and_is_not_run_again(bench: Bench) -> None:
    case = Case("mnist", "display, matched", 48, 0)
    record = explanations.stolen(bench, case)
    (path,) = bench.work.iterdir()
    path.write_bytes(path.read_bytes().replace(b'"rows":48', b'"rows":49'))

    assert (record["rows"], record["arm"], record["budget"]) == (48, "display, matched", 48)
    assert record["floats"] > 10 * 48 + 784 * 8
    assert 0 <= record["clone_accuracy"] <= 1
    assert explanations.stolen(bench, case)["rows"] == 49


def test_the_same_case_gives_the_same_record(bench: Bench, tmp_path: Path) -> None:
    case = Case("mnist", "any class, logit", 120, 0)
    elsewhere = replace(bench, work=tmp_path / "other")
    elsewhere.work.mkdir()

    assert explanations.stolen(bench, case) == explanations.stolen(elsewhere, case)


def test_beyond_its_budget_nobody_is_explained_and_everybody_answered() -> None:
    oracle = Rationed(InProcess(served("mnist")), 10)
    pictures = rows(8, shape=(1, 28, 28))
    told = oracle.explain(pictures)
    with pytest.raises(Withheld, match="budget of explanations"):
        oracle.explain(pictures)

    assert torch.equal(oracle.query(pictures), told.answers)
    assert (oracle.rows, oracle.floats) == (16, 2 * 8 * 10 + 8 * 784)


def test_the_shipped_default_is_alarmed_by_the_generator_at_once() -> None:
    (record,) = explanations.alarms((3,))

    assert record["rows_to_alarm"] <= 50


def test_latency_is_that_of_one_run(pools: Pools) -> None:
    found = explanations.latency(pools, rounds=2)

    assert found["plain_ms"] > 0
    assert found["added"] == pytest.approx(found["displayed_ms"] / found["plain_ms"] - 1, abs=1e-2)


def test_ways_to_the_gradient_are_tried_with_and_without_the_display() -> None:
    defended = {name for name, _, defense in explanations.ANGLES if defense == DISPLAY}

    assert {"learned prior", "shares on one probe", "mean of 8 jittered"} < defended
    assert len(explanations.ANGLES) > len(defended) > 0
