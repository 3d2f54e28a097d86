"""The tables of protection show every defense and every attacker, and say where nothing was measured."""

import json
from pathlib import Path

import pytest

from docs import protection
from tests.redteam.grid.test_report import RECORDS


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "protection.json").write_text(json.dumps(RECORDS))
    monkeypatch.setattr(protection, "RESULTS", tmp_path)
    monkeypatch.setattr(protection, "found", protection.found.__wrapped__)


@pytest.mark.usefixtures("measured")
def test_a_row_of_the_table_is_a_defense_with_its_verdict_and_its_cost() -> None:
    text = protection.protection()

    assert text.count("### MNIST") == 2
    assert "| none | 92.5 ± 0.7 | - | - | vulnerable | 99.00 | 0.0100 | 0.020 | never |" in text
    assert "| default | 40.5 ± 0.7 | 96.5 ± 0.7 | 51.5 ± 0.7 | resilient |" in text
    assert "| 96 to 640 |" in text


@pytest.mark.usefixtures("measured")
def test_the_short_table_has_the_rows_that_were_measured() -> None:
    text = protection.short()

    assert text.count("\n") == 3, "a head, its rule, no defense, the default"
    assert "| none |" in text
    assert "| default |" in text


@pytest.mark.usefixtures("measured")
def test_every_attacker_of_the_default_has_a_row_also_those_that_adapt() -> None:
    text = protection.attackers()

    assert "| 16 accounts | MNIST | 1,000 | 51.5 ± 0.7 | resilient | never | 640 |" in text
    assert text.count("own soft") == 2


@pytest.mark.usefixtures("measured")
def test_what_was_measured_apart_stands_in_every_table(tmp_path: Path) -> None:
    apart = [{**record, "victim": "cifar"} for record in RECORDS]
    (tmp_path / "cifar.json").write_text(json.dumps(apart))

    assert protection.protection().count("### CIFAR-10") == 2
    assert "| 16 accounts | CIFAR-10 | 1,000 | 51.5 ± 0.7 |" in protection.attackers()
    assert protection.controls().count("| CIFAR-10 |") == 2


@pytest.mark.usefixtures("measured")
def test_what_was_not_measured_is_said() -> None:
    assert protection.controls() == protection.UNMEASURED
    assert protection.limits().count("\n* ") >= 4
