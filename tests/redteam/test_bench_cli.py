"""The commands: files are written, floors decide the exit code, and a stopped bench keeps what it has."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from mantlet.errors import ConfigError
from redteam.cli import app
from redteam.grid import bench
from tests.redteam.grid.test_bench import PLAN, ROOT
from tests.redteam.grid.test_report import RECORDS


def run(tmp_path: Path, *options: str, **changes: Any) -> Any:
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(PLAN | changes))
    arguments = ["bench", f"{tmp_path}/plan.yaml", "--data", f"{ROOT}/tests/data", "--jobs", "1"]
    places = ["--work", f"{tmp_path}/work", "--out", f"{tmp_path}/found.json"]
    return CliRunner().invoke(app, [*arguments, *places, *options])


def test_bench_writes_the_records_and_fails_where_a_floor_is_missed(tmp_path: Path) -> None:
    good = run(tmp_path)
    floor = {"defense": "none", "measure": "agreement", "least": 1.0}
    bad = run(tmp_path, floors=[floor])

    assert good.exit_code == 0, good.output
    assert "found.json: 2 records" in good.output
    assert len(json.loads((tmp_path / "found.json").read_text())) == 2
    assert bad.exit_code == 1
    assert "agreement" in bad.stderr


def test_what_another_work_folder_found_stays_and_is_told(tmp_path: Path) -> None:
    run(tmp_path)
    found = run(tmp_path, "--work", f"{tmp_path}/other", "--only", "digits/none")

    assert found.exit_code == 0, found.output
    assert "found.json: 2 records" in found.output
    assert f"of these 1 stay as they were, for {tmp_path}/other has none" in found.stderr


def test_a_file_of_another_plan_is_refused_before_the_first_theft(tmp_path: Path) -> None:
    (tmp_path / "found.json").write_text(json.dumps(RECORDS))
    found = run(tmp_path)

    assert isinstance(found.exception, ConfigError)
    assert "give another file with --out" in str(found.exception)
    assert not (tmp_path / "work").exists()


def test_a_plan_with_an_unknown_network_is_refused_before_the_first_theft(tmp_path: Path) -> None:
    found = run(tmp_path, clone={"architecture": "lenett"})

    assert isinstance(found.exception, ConfigError)
    assert "plan.yaml: clone: architecture 'lenett'" in str(found.exception)
    assert not (tmp_path / "work").exists()


def test_a_bench_that_is_stopped_keeps_what_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[object] = []
    measure = bench.measure

    def stopped(rows: Any, cell: Any) -> Any:
        if done:
            raise KeyboardInterrupt
        done.append(cell)
        return measure(rows, cell)

    monkeypatch.setattr(bench, "measure", stopped)
    found = run(tmp_path)

    assert found.exit_code == 130
    assert "1 records are kept" in found.stderr
    assert len(json.loads((tmp_path / "found.json").read_text())) == 1


def test_report_writes_a_page_and_tells_where(tmp_path: Path) -> None:
    (tmp_path / "found.json").write_text(json.dumps(RECORDS))
    told = CliRunner().invoke(app, ["report", f"{tmp_path}/found.json", "--out", f"{tmp_path}/out"])

    assert told.exit_code == 0, told.output
    assert f"{tmp_path}/out/report.html" in told.output.replace("\n", "")
