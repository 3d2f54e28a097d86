"""The grid: nothing is run twice, a change runs what it changes, and what fails is told."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from mantlet.data import Images
from mantlet.errors import ConfigError
from redteam.grid import bench, plan, summary
from redteam.grid.bench import Bench
from redteam.house import House
from serving.pipeline import Pipeline
from serving.policy import Level
from serving.victims.torch import TorchVictim

ROOT = Path(__file__).parents[3]
WEIGHTS = str(ROOT / "configs/models/mnist-lenet.safetensors")
PLAN: dict[str, Any] = {
    "budgets": [40],
    "training": {"steps": 4},
    "victims": {
        "digits": {
            "victim": {
                "type": "torch",
                "weights": WEIGHTS,
                "architecture": "lenet",
                "engine": "torch",
            },
            "family": "mnist-test",
            "foreign": ["mnist-test"],
            "own": ["test", "300:600"],
            "test": ["test", ":300"],
        }
    },
    "defenses": {"none": {}, "rounded": {"defenses": [{"type": "rounding", "decimals": 1}]}},
    "attackers": {"own": {"attack": "knockoff", "data": "own"}},
}


def made(tmp_path: Path, **changes: Any) -> Bench:
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(PLAN | changes))
    return Bench(plan.load(path, {}), ROOT / "tests/data", tmp_path / "work")


def counted(found: Bench, **options: Any) -> tuple[int, bench.Found]:
    """How many cells were run, and what was found."""
    before = len(bench.kept(found.done))
    result = bench.run(found, **options)
    return len(bench.kept(found.done)) - before, result


def test_a_grid_that_goes_on_recomputes_nothing(tmp_path: Path) -> None:
    ran, first = counted(made(tmp_path))
    again, second = counted(made(tmp_path))

    assert (ran, again) == (2, 0)
    assert list(first.records) == list(second.records)
    assert first.failed == first.missed == []


def test_a_changed_defense_runs_its_own_cells_anew_and_no_others(tmp_path: Path) -> None:
    counted(made(tmp_path))
    changed = {"none": {}, "rounded": {"defenses": [{"type": "rounding", "decimals": 2}]}}
    ran, found = counted(made(tmp_path, defenses=changed))
    steps, _ = counted(made(tmp_path, training={"steps": 5}))

    assert ran == 1
    assert len(found.records) == 2
    assert steps == 2


def test_an_attacker_with_a_clone_of_its_own_is_run_anew_and_steals_otherwise(
    tmp_path: Path,
) -> None:
    _, plain = counted(made(tmp_path))
    wide = {"attack": "knockoff", "data": "own", "clone": {"settings": {"width": 3}}}
    ran, found = counted(made(tmp_path, attackers={"own": wide}))

    assert ran == len(found.records) == 2
    assert found.records[0]["kl"] != plain.records[0]["kl"]
    assert found.records[0]["benign_accuracy"] == plain.records[0]["benign_accuracy"]


def test_a_record_says_what_the_clone_is_worth_and_what_honest_clients_get(tmp_path: Path) -> None:
    _, found = counted(made(tmp_path))
    none, rounded = found.records

    assert set(summary.FIELDS) <= none.keys()
    assert none["benign_accuracy"] == none["victim_accuracy"] > 0.98
    assert none["l1"] == 0
    assert 0 < rounded["l1"] < 0.1
    assert none["rows_sent"] == 40
    assert none["honest_clients"] == 2
    assert none["rows_until_denied"] is None
    assert none["agreement"] < 0.9  # four steps are not enough


def test_the_same_cell_gives_the_same_clone_in_another_process(tmp_path: Path) -> None:
    _, one = counted(made(tmp_path), only="digits/rounded")
    again = made(tmp_path)
    again.done.unlink()
    _, two = counted(again, only="digits/rounded", jobs=2)
    measured = [[r["agreement"], r["kl"], r["l1"]] for r in one.records]

    assert measured == [[r["agreement"], r["kl"], r["l1"]] for r in two.records]


def test_a_theft_that_fails_is_told_and_the_others_are_kept(tmp_path: Path) -> None:
    lacking = {"victims": {"digits": {**PLAN["victims"]["digits"]["victim"], "weights": "none"}}}
    found = made(tmp_path, defenses={"lacking": lacking, **PLAN["defenses"]})
    ran, result = counted(found)

    assert ran == 2
    assert len(result.failed) == 1
    assert result.failed[0].startswith("digits, lacking, own, 40 rows, seed 0: ")
    assert len(bench.records_of(found)) == 2


def test_a_floor_that_is_missed_is_told(tmp_path: Path) -> None:
    floor = {"defense": "none", "measure": "agreement", "least": 1.0}
    _, found = counted(made(tmp_path, floors=[floor]), only="digits/none")

    assert len(found.missed) == 1
    assert "is under 1.0" in found.missed[0]


def test_a_line_that_was_not_finished_is_run_again_and_spoils_nothing(tmp_path: Path) -> None:
    found = made(tmp_path)
    counted(found)
    lines = found.done.read_bytes().splitlines(keepends=True)
    found.done.write_bytes(lines[0] + lines[1][:20])
    ran, result = counted(found)

    assert ran == 1
    assert len(result.records) == len(bench.kept(found.done)) == 2


def test_progress_counts_what_was_done_before(tmp_path: Path) -> None:
    counted(made(tmp_path), only="digits/none")
    seen: list[tuple[int, int]] = []
    bench.run(made(tmp_path), progress=lambda done, of, what: seen.append((done, of)))

    assert seen == [(1, 2), (2, 2)]


def test_records_are_written_a_line_each(tmp_path: Path) -> None:
    found, path = made(tmp_path), tmp_path / "folder/found.json"
    nothing = bench.write(found, path)
    begun = path.exists()
    counted(found)
    count = bench.write(found, path)

    assert (nothing, begun, count) == ((0, 0), False, (2, 0))
    assert json.loads(path.read_text()) == list(bench.records_of(found).values())
    assert path.read_text().count("\n") == 4


def test_records_of_another_work_folder_stay_in_the_file_in_the_order_of_the_plan(
    tmp_path: Path,
) -> None:
    found, path = made(tmp_path), tmp_path / "found.json"
    counted(found)
    bench.write(found, path)
    before = json.loads(path.read_text())
    changed = {"none": {}, "rounded": {"defenses": [{"type": "rounding", "decimals": 2}]}}
    other = replace(made(tmp_path, defenses=changed, seeds=2), work=tmp_path / "other")
    counted(other, only="digits/rounded")
    count = bench.write(other, path)
    none, *rounded = json.loads(path.read_text())

    assert count == (3, 1)
    assert none == before[0] | {"seeds": 2}
    assert [(r["defense"], r["seed"]) for r in rounded] == [("rounded", 0), ("rounded", 1)]
    assert rounded[0]["l1"] < before[1]["l1"], "what was run again is as it was found now"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"attack": "another"}, "hold the theft 'digits, none, another, 40, 0'.*--out"),
        ({"seed": None}, "'digits, none, own, 40, None', which is not in the plan"),
    ],
)
def test_a_file_with_thefts_that_the_plan_does_not_name_is_not_written_over(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    own = {"victim": "digits", "defense": "none", "attack": "own", "budget": 40, "seed": 0}
    path = tmp_path / "found.json"
    path.write_text(json.dumps([dict.fromkeys(summary.FIELDS) | own | change]))
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=words):
        bench.write(made(tmp_path), path)

    assert path.read_bytes() == before


def test_rows_that_honest_clients_are_denied_are_no_service(
    digits: Images, shipped_victim: TorchVictim, tmp_path: Path
) -> None:
    assert digits.y is not None
    inputs, labels = torch.from_numpy(digits.x[:300]), torch.from_numpy(digits.y[:300])
    levels = (Level(name="all"), Level(name="out", rows=65, deny_s=1e9))
    given = made(tmp_path, honest=100).plan
    open_, _ = bench.honest(Pipeline(shipped_victim), inputs, labels, given)
    denying = Pipeline(shipped_victim, levels=levels, secret=b"s" * 16)
    told, house = bench.honest(denying, inputs, labels, given)

    assert (open_["honest_denied"], told["honest_denied"]) == (0, 3)
    assert len(house.denied) == told["honest_clients"] == 3
    assert open_["benign_accuracy"] == open_["victim_accuracy"] == told["victim_accuracy"] > 0.98
    assert 0.6 < told["benign_accuracy"] <= 0.64, "64 rows of each hundred are served"


def test_a_defense_takes_time_and_none_takes_next_to_none(shipped_victim: TorchVictim) -> None:
    rows = torch.rand(96, 1, 28, 28)

    assert abs(bench.added_ms(Pipeline(shipped_victim), rows)) < 1.0


def test_a_record_tells_of_the_first_account_that_is_denied_and_of_the_last_once_all_are(
    shipped_victim: TorchVictim,
) -> None:
    two = plan.Attacker.model_validate({"attack": "knockoff", "accounts": 2})
    house = House(Pipeline(shipped_victim), denied={"b": 90}, alarmed={"a": 30, "b": 20})
    some = bench._treated(house, two)
    house.denied["a"] = 40
    every = bench._treated(house, two)

    assert (some["rows_until_denied"], some["rows_until_all_denied"]) == (90, None)
    assert (every["rows_until_denied"], every["rows_until_all_denied"]) == (40, 90)
    assert (every["rows_until_alarm"], every["accounts_denied"]) == (20, 2)
