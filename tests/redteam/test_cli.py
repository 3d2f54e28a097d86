"""The command line as it is installed: everything is in it, and a mistake is one line."""

import subprocess
import sys
import tomllib
from pathlib import Path

import typer

from redteam import cli


def test_the_installed_command_has_what_serves_and_what_attacks(root: Path) -> None:
    scripts = tomllib.loads((root / "pyproject.toml").read_text())["project"]["scripts"]
    commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]

    assert scripts == {"mantlet": "redteam.cli:main"}
    assert {"serve", "check", "attack"} <= commands.keys()


def test_it_runs_as_a_program(root: Path) -> None:
    program = subprocess.run(
        [sys.executable, "-m", "redteam.cli", "check", "/none.yaml"],
        capture_output=True,
        text=True,
        cwd=root,
        check=False,
    )

    assert program.returncode == 2
    assert program.stderr.startswith("mantlet: config '/none.yaml': no such file")
