"""The command shows what it measured, and a mistake is one line."""

import sys
from pathlib import Path

import pytest

from mantlet.data import Images
from redteam import cli
from tests.e2e.harness import gateway
from tests.redteam import targets


def test_an_attack_shows_what_it_measured_and_a_mistake_is_one_line(
    tmp_path: Path,
    digits: Images,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    targets.write_pictures(tmp_path, digits)
    with gateway(tmp_path / "gateway", targets.CONFIG, clients=1) as running:
        words = ["mantlet", "attack", "knockoff", *targets.QUICK, "--budget", "100"]
        words += ["--target", running.url, "--model", "mnist", "--key", running.new_key()]
        words += ["--surrogate", f"{tmp_path}/own.npz", "--eval", f"{tmp_path}/eval.npz"]
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
