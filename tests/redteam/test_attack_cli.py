"""The command shows what it measured, and a mistake is one line."""

import sys
from pathlib import Path

import pytest

from redteam import cli
from tests.e2e.harness import Running
from tests.redteam import targets


def test_an_attack_shows_what_it_measured_and_a_mistake_is_one_line(
    running: Running,
    files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["mantlet", "attack", "knockoff", *targets.QUICK, "--budget", "100"]
    words += ["--target", running.url, "--model", "mnist", "--key", running.new_key()]
    words += ["--surrogate", f"{files}/own.npz", "--eval", f"{files}/eval.npz"]
    words += ["--out", f"{tmp_path}/out", "--ask-eval"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit, match="0"):
        cli.main()
    shown = capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [*words, "--seed", "1"])
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    told = capsys.readouterr().err

    assert [line.split()[1] for line in shown.splitlines() if "│" in line][:2] == ["ended", "rows"]
    assert "│ rows           │ 100 " in shown
    assert told.startswith(f"mantlet: '{tmp_path}/out' holds another run: seed was 0 and is 1;")
    assert told.count("\n") == 1
