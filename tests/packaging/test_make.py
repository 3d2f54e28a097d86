"""The Makefile and the script of CI: few targets, all of them real, and nothing left out."""

import os
import re
import subprocess
from pathlib import Path


def targets(root: Path) -> list[str]:
    lines = (root / "Makefile").read_text().splitlines()
    return [line.partition(":")[0] for line in lines if re.match(r"^[a-z][a-z0-9-]*:", line)]


def dry_run(root: Path, target: str, *variables: str) -> str:
    """The commands of a target, in an environment that is set up already."""
    done = subprocess.run(
        ["make", "-n", "-o", ".venv/tested", "-o", ".venv/served", target, *variables],
        capture_output=True,
        text=True,
        cwd=root,
        env={"PATH": os.environ["PATH"]},  # make may be running us, and would say so
    )

    assert done.returncode == 0, done.stderr
    return done.stdout


def test_there_are_at_most_twenty_targets_and_each_is_phony(root: Path) -> None:
    phony = re.search(r"^\.PHONY: (.*)$", (root / "Makefile").read_text(), re.MULTILINE)

    assert phony
    assert sorted(phony[1].split()) == sorted(targets(root))
    assert len(targets(root)) <= 20


def test_every_target_says_what_it_would_do(root: Path) -> None:
    assert all(dry_run(root, target) for target in targets(root))


def test_serve_passes_its_variables_on(root: Path) -> None:
    commands = dry_run(root, "serve", "CONFIG=mine.yaml", "PORT=9000", "WORKERS=2")

    assert "mantlet serve mine.yaml" in commands
    assert "--set listen.port=9000 --set listen.workers=2" in commands


def test_serve_leaves_a_config_as_it_is_unless_told(root: Path) -> None:
    commands = dry_run(root, "serve")

    assert "mantlet serve configs/gateway/default.yaml" in commands
    assert "--set" not in commands


def test_ci_runs_every_check_and_ends_with_all_tests(root: Path) -> None:
    *checks, last = dry_run(root, "ci").strip().splitlines()

    assert last == ".venv/bin/python -m pytest -q"
    for tool in (
        "ruff format --check",
        "ruff check",
        "codespell",
        "hadolint",
        "lint-imports",
        "mypy",
    ):
        assert any(tool in check for check in checks), tool


def test_tests_on_a_developers_machine_need_no_registry(root: Path) -> None:
    assert dry_run(root, "test").strip().endswith('pytest -q -m "not external"')


def test_script_of_ci_runs_make_ci_and_the_smoke_bench_and_is_executable(root: Path) -> None:
    script = root / ".ci/run"

    assert script.read_text().splitlines()[-3:] == [
        "make ci",
        "make bench-smoke",
        "make bench-gan SMOKE=1",
    ]
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", script]).returncode == 0
