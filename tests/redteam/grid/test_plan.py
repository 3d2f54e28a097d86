"""Plans: what they expand to, and clear words for what is wrong in one."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from mantlet.errors import ConfigError
from redteam.grid import plan
from redteam.grid.plan import Cell

VICTIM = {"victim": {"type": "torch", "weights": "w.safetensors", "architecture": "lenet"}}
PLAN = {
    "budgets": [10, 20],
    "victims": {"digits": {**VICTIM, "family": "mnist", "foreign": ["glyphs"]}},
    "defenses": {"none": {"seeds": 2}, "labels": {"defenses": ["label_only"]}},
    "attackers": {
        "plain": {"attack": "knockoff"},
        "many": {"attack": "knockoff", "accounts": 4, "against": ["labels"], "budgets": [5]},
    },
}


def loaded(tmp_path: Path, **changes: object) -> plan.Plan:
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(PLAN | changes))
    return plan.load(path, {"models": None, "work": tmp_path / "work"})


def test_a_plan_is_the_product_of_its_parts_with_seeds_by_row(tmp_path: Path) -> None:
    cells = loaded(tmp_path).cells()
    plain = [cell for cell in cells if cell.attacker == "plain"]

    assert len(plain) == 2 * (2 + 1)  # budgets, seeds of both rows
    assert Cell("digits", "none", "plain", 20, 1, 2) in cells
    assert [c for c in cells if c.attacker == "many"] == [Cell("digits", "labels", "many", 5, 0, 1)]


def test_a_part_of_the_plan_can_be_run_alone(tmp_path: Path) -> None:
    found = loaded(tmp_path)

    assert {cell.defense for cell in found.cells("digits/labels")} == {"labels"}
    assert {cell.attacker for cell in found.cells("//many")} == {"many"}
    assert {cell.attacker for cell in found.cells("*/none/*")} == {"plain"}
    with pytest.raises(ConfigError, match="did you mean 'labels'"):
        found.cells("digits/label")
    with pytest.raises(ConfigError, match="VICTIM/DEFENSE/ATTACKER"):
        found.cells("a/b/c/d")


def test_paths_are_relative_to_the_plan_or_begin_with_a_folder(tmp_path: Path) -> None:
    near = loaded(tmp_path).victims["digits"].victim
    moved = {**VICTIM["victim"], "weights": "$work/w.safetensors"}
    victims = {"digits": {**PLAN["victims"]["digits"], "victim": moved}}  # type: ignore[index]
    far = loaded(tmp_path, victims=victims).victims["digits"].victim

    assert near.weights == tmp_path / "w.safetensors"  # type: ignore[attr-defined]
    assert far.weights == tmp_path / "work/w.safetensors"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"defenses": {"a": {"defenses": ["roundin"]}}}, "did you mean 'rounding'"),
        ({"attackers": {"a": {"attack": "knockof"}}}, "did you mean 'knockoff'"),
        ({"attackers": {"a": {"attack": "knockoff", "families": ["glyph"]}}}, "mean 'glyphs'"),
        ({"attackers": {"a": {"attack": "knockoff", "against": ["non"]}}}, "mean 'none'"),
        ({"attackers": {"a": {"attack": "knockoff", "cunning": 3}}}, "unknown setting"),
        ({"defenses": {"a": {"gateway": "g.yaml", "defenses": ["rounding"]}}}, "in the gateway's"),
        ({"floors": [{"defense": "non", "measure": "l1", "most": 1}]}, "did you mean 'none'"),
        ({"floors": [{"defense": "none", "measure": "l1"}]}, "neither least nor most"),
        (
            {"floors": [{"defense": "none", "attackers": ["many"], "measure": "l1", "most": 1}]},
            "no theft is held to that of 'none' for 'many'",
        ),
        ({"attackers": {"a": {"attack": "knockoff", "undo": "bayes"}}}, "'none' has no defenses"),
        ({"attackers": {"a": {"attack": "knockoff", "data": "none"}}}, "'knockoff' needs pictures"),
        (
            {"attackers": {"a": {"attack": "dfme", "data": "none", "composed": True}}},
            "composed needs",
        ),
        ({"budgets": [0]}, "budgets.0"),
        ({"victims": {}}, "victims"),
    ],
)
def test_a_mistake_in_a_plan_names_the_field_and_the_remedy(
    tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        loaded(tmp_path, **changes)


@pytest.mark.parametrize(
    ("field", "network", "said"),
    [
        ("victims.digits.victim", {"architecture": "lenett"}, "did you mean 'lenet'"),
        ("victims.digits.victim", {"settings": {"widht": 4}}, "'lenet' does not take {'widht': 4}"),
        ("defenses.own.victims.digits", {"architecture": "resnt"}, "did you mean 'resnet'"),
        ("clone", {"architecture": "lenett"}, "did you mean 'lenet'"),
        ("clone", {"architecture": "lenet", "settings": {"depth": 2}}, "'lenet' does not take"),
    ],
)
def test_a_network_that_cannot_be_built_is_told_with_the_plan_and_not_by_each_theft(
    tmp_path: Path, field: str, network: dict[str, object], said: str
) -> None:
    changes = copy.deepcopy(PLAN | {"clone": {}})
    changes["defenses"]["own"] = {"victims": {"digits": VICTIM["victim"]}}  # type: ignore[index]
    *way, last = field.split(".")
    place: Any = changes
    for name in way:
        place = place[name]
    place[last] = place[last] | network
    with pytest.raises(ConfigError) as error:
        loaded(tmp_path, **changes)

    assert str(error.value).startswith(f"{tmp_path / 'plan.yaml'}: {field}: architecture '")
    assert said in str(error.value)


def test_a_plan_that_is_no_plan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        plan.load(tmp_path / "none.yaml", {})
    (tmp_path / "list.yaml").write_text("[1]")
    with pytest.raises(ConfigError, match="holds list"):
        plan.load(tmp_path / "list.yaml", {})
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match="cannot be read"):
        plan.load(tmp_path / "bad.yaml", {})
    (tmp_path / "folder.yaml").write_text("a: $models/w")
    with pytest.raises(ConfigError, match="give it with --models"):
        plan.load(tmp_path / "folder.yaml", {"models": None})


@pytest.mark.parametrize("name", ["smoke", "protection", "fashion", "controls", "cifar"])
def test_the_plans_that_ship_are_plans(root: Path, name: str, tmp_path: Path) -> None:
    found = plan.load(root / f"configs/bench/{name}.yaml", {"models": tmp_path, "work": tmp_path})

    assert len(found.cells()) > 5


def test_a_floor_is_missed_above_below_and_where_nothing_ever_came() -> None:
    about = {"defense": "none", "measure": "rows_until_denied"}
    floor = plan.Floor.model_validate({**about, "most": 100})
    record = {"victim": "v", "defense": "none", "attack": "a", "budget": 9}

    assert floor.misses({**record, "rows_until_denied": 100}) == ""
    assert "is over 100" in floor.misses({**record, "rows_until_denied": 101})
    assert "never came" in floor.misses({**record, "rows_until_denied": None})
    assert floor.misses({**record, "defense": "other", "rows_until_denied": None}) == ""
