"""``mantlet ownership verify``: what it prints, where, and its exit codes."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from defenses.dawn import Dawn
from mantlet import architectures, weights
from mantlet.data import Images
from mantlet.plugin import Setup
from serving import cli
from tests.helpers import config, write_config

SECRET = "the secret of the owner"


def mantlet(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """The exit code of a command, run as the shell would, in this process."""
    monkeypatch.setattr(sys, "argv", ["mantlet", "ownership", "verify", *map(str, words)])
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.fixture
def gateway(root: Path, tmp_path: Path) -> Path:
    """A config whose answers are marked."""
    raw = config(root, tmp_path, secret=SECRET)
    raw["models"]["mnist"].pop("policy")
    raw["models"]["mnist"]["defenses"] = [{"type": "dawn", "rate_alarmed": 0.2}]
    return write_config(tmp_path / "gateway.yaml", raw)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model that has learned nothing."""
    path = tmp_path / "model.safetensors"
    with torch.random.fork_rng():
        torch.random.manual_seed(0)  # layers draw their weights from the global generator
        weights.save(architectures.build("lenet", {"width": 4}), path, {})
    return path


@pytest.fixture
def queries(tmp_path: Path, digits: Images) -> Path:
    np.savez(tmp_path / "queries.npz", x=(digits.x[:300, 0] * 255).astype(np.uint8))
    return tmp_path / "queries.npz"


def test_numbers_and_words_go_to_standard_output(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    gateway: Path,
    model: Path,
    queries: Path,
) -> None:
    about = ["--architecture", "lenet", "--setting", "width=4"]
    code = mantlet(
        monkeypatch, gateway, "--suspect", model, "--queries", queries, *about, "--rows", ":200"
    )
    shown = capsys.readouterr()

    assert code == 0
    assert f"suspect {model}: names the mark on " in shown.out
    assert " p = " in shown.out
    assert "200 queries fall in" in shown.out
    assert "does not clear the suspect" in shown.out
    assert "never sole proof" in shown.out
    assert shown.err == ""


def test_json_has_every_number(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    gateway: Path,
    model: Path,
    queries: Path,
    digits: Images,
) -> None:
    words = ["--architecture", "lenet", "--setting", "width=4", "--independent", model, "--json"]
    code = mantlet(monkeypatch, gateway, "--suspect", model, "--queries", queries, *words)
    found = json.loads(capsys.readouterr().out)
    dawn = Dawn(rate_alarmed=0.2)
    dawn.load(Setup(torch.device("cpu"), SECRET.encode()))
    marked = dawn.marks(torch.from_numpy(digits.x[:300]), 10).draws < 0.2

    assert code == 0
    assert (found["queries"], found["rate"]) == (300, 0.2)
    assert found["suspect"]["marked"] == int(marked.sum())
    assert found["independent"] == [found["suspect"]]
    assert found["found"] is False
    assert found["sound"] is (found["suspect"]["p"] > 0.01)


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["--queries", "/none.npz"], "/none.npz"),
        (["--suspect", "/none.safetensors"], "/none.safetensors"),
        (["--setting", "width"], "write it as name=value"),
        (["--header", "=x"], "write it as name=value"),
        (["--model", "mnst"], "did you mean"),
    ],
)
def test_a_mistake_is_one_clear_line_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    gateway: Path,
    model: Path,
    queries: Path,
    extra: list[str],
    said: str,
) -> None:
    usual = ["--suspect", model, "--queries", queries, "--architecture", "lenet"]
    code = mantlet(monkeypatch, gateway, *usual, *extra)
    shown = capsys.readouterr()

    assert (code, shown.out) == (2, "")
    assert shown.err.startswith("mantlet: ")
    assert said in shown.err
    assert len(shown.err.splitlines()) == 1
