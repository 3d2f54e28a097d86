"""``mantlet ownership verify``: what it prints, where, and its exit codes."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from defenses.dawn import Dawn
from defenses.watermark.mark import Mark
from mantlet import architectures, weights
from mantlet.data import Images
from mantlet.plugin import Setup
from serving import cli
from tests.e2e.harness import GENERATOR
from tests.helpers import config, write_config
from tests.redteam.targets import TRANSLATOR

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


@pytest.fixture
def digits_gateway(root: Path, tmp_path: Path) -> Path:
    """A config of a generator whose pictures are marked."""
    raw = config(root, tmp_path, secret=SECRET)
    raw["models"] = {"digits": GENERATOR | {"defenses": [{"type": "watermark"}]}}
    return write_config(tmp_path / "gan.yaml", raw)


def test_a_generator_is_known_by_its_pictures(
    digits_gateway: Path,
    digits: Images,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    clean = torch.from_numpy(digits.x[:100])
    marked = Mark(SECRET.encode(), "digits").embed(clean, ["ann"] * 100)
    np.save(tmp_path / "marked.npy", marked.numpy())
    other = GENERATOR["victim"]["weights"]
    words = ("--suspect", tmp_path / "marked.npy", "--independent", other, "--range=-1:1")

    assert mantlet(monkeypatch, digits_gateway, *words, "--pictures", 64) == 0
    said = capsys.readouterr().out
    assert "of 64 pictures (16: " in said
    assert "proven from" in said
    assert "carry the mark" in said

    assert mantlet(monkeypatch, digits_gateway, *words, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["found"]
    assert found["sound"]
    assert found["suspect"]["pictures"] == 100
    assert found["independent"][0]["pictures"] == 2000
    assert found["needed"] == 16


def test_split_and_rows_choose_what_is_read_of_a_suspects_array(
    digits_gateway: Path,
    digits: Images,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    clean = torch.from_numpy(digits.x[:80])
    marked = Mark(SECRET.encode(), "digits").embed(clean, ["ann"] * 80)
    np.savez(tmp_path / "a.npz", x_train=clean.numpy(), x_test=marked.numpy())
    words = ("--suspect", tmp_path / "a.npz", "--json")
    found = []
    for more in ((), ("--split", "test"), ("--split", "test", "--rows", "10:74")):
        assert mantlet(monkeypatch, digits_gateway, *words, *more) == 0
        found.append(json.loads(capsys.readouterr().out))

    assert [one["found"] for one in found] == [False, True, True]
    assert [one["suspect"]["pictures"] for one in found] == [80, 80, 64]


@pytest.mark.parametrize(
    ("words", "telling"),
    [
        (("--suspect", "none.npz"), "no such file"),
        (("--suspect", "none.txt"), "and no folder of pictures"),
        (("--suspect", ""), "suspect '' is no"),
        (("--suspect", "none.npz", "--range", "black"), "write BLACK:WHITE"),
        (("--suspect", "none.npz", "--range=-inf:1"), "two finite numbers"),
        (("--suspect", "none.npz", "--range=nan:1"), "two finite numbers"),
        (("--suspect", "none.npz", "--range", "1:1"), "two finite numbers"),
    ],
)
def test_mistakes_about_a_suspect_generator_are_one_line(
    digits_gateway: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    telling: str,
) -> None:
    assert mantlet(monkeypatch, digits_gateway, *words) == 2
    assert telling in capsys.readouterr().err


def test_a_classifier_needs_queries(
    gateway: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mantlet(monkeypatch, gateway, "--suspect", "clone.onnx") == 2
    assert "--queries is missing" in capsys.readouterr().err


def test_a_translator_is_asked_about_pictures(
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    raw = config(root, tmp_path, secret=SECRET)
    defenses = [{"type": "high_band_dither"}, {"type": "watermark"}]
    raw["models"] = {"enlarged": TRANSLATOR | {"defenses": defenses}}
    gateway = write_config(tmp_path / "superres.yaml", raw)
    coloured = np.random.default_rng(0).integers(0, 256, (20, 3, 12, 12), dtype=np.uint8)
    np.savez(tmp_path / "pairs.npz", a_test=coloured)
    words = ("--suspect", root / "configs/models/superres-x2.safetensors", "--architecture")
    words += ("superres", "--setting", "channels=3", "--setting", "width=32", "--setting")
    words += ("depth=2", "--split", "test", "--pictures", 18)
    asked = (*words, "--queries", tmp_path / "pairs.npz")

    assert mantlet(monkeypatch, gateway, *asked) == 0
    said = capsys.readouterr().out
    assert " of 18 pictures (16: " in said
    assert "The filter is not shown" in said

    assert mantlet(monkeypatch, gateway, *asked, "--json") == 0
    assert json.loads(capsys.readouterr().out)["suspect"]["pictures"] == 18

    assert mantlet(monkeypatch, gateway, *words) == 2
    assert "of one that translates, give --queries" in capsys.readouterr().err
