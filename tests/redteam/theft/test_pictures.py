"""A theft of a translator from a real gateway: what it brings home, and what is told before a row is sent."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from mantlet import architectures, weights
from mantlet.errors import ConfigError
from redteam.attacks.attack import silent
from redteam.cli import app
from redteam.theft.attacking import CLONE, REPORT, TAPE
from redteam.theft.order import Order
from redteam.theft.pictures import prepared, run
from tests.e2e.harness import Running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``own.npz`` and ``eval.npz`` of coloured fields, ``grey.npz`` and ``small.npz`` of others."""
    path, rng = tmp_path_factory.mktemp("colours"), np.random.default_rng(0)
    fields = rng.integers(20, 235, (80, 3, 4, 4), dtype=np.uint8).repeat(4, 2).repeat(4, 3)
    np.savez(path / "own.npz", x_train=fields[:60])
    np.savez(path / "eval.npz", x_test=fields[60:])
    np.savez(path / "grey.npz", x=fields[:, :1])
    np.savez(path / "small.npz", x=fields[..., :12])
    return path


@pytest.fixture
def options(running: Running, folder: Path, tmp_path: Path) -> dict[str, Any]:
    """Options without a mistake."""
    return {
        "name": "i2i",
        "target": running.url,
        "model": "enlarged",
        "key": (running.new_key(),),
        "surrogate": folder / "own.npz",
        "eval": folder / "eval.npz",
        "out": tmp_path / "out",
        "budget": 48,
        "batch": 16,
        "set": ("steps=120", "batch=8", "lr=0.005"),
        "clone_set": ("width=8",),
    }


def test_a_clone_comes_near_to_the_target_and_is_written(
    running: Running, options: dict[str, Any]
) -> None:
    order = Order.of(**options, eval_key=running.new_key())
    told = run(*prepared(order), order.out, ask_with=order.asks_with, progress=silent)
    about = weights.metadata(order.out / CLONE)
    clone = architectures.build(about["architecture"], json.loads(about["settings"]))
    weights.load_into(clone, order.out / CLONE, "superres")

    assert told == json.loads((order.out / REPORT).read_bytes())
    assert (told["rows"], told["rows_learned"], told["rows_asked_to_judge"]) == (48, 48, 20)
    assert told["floats"] == 48 * 3 * 32 * 32
    assert told["psnr_to_target"] > 24
    assert told["psnr_learned"] > 24
    assert told["psnr_unchanged"] > 15
    assert clone(torch.zeros(1, 3, 5, 5)).shape == (1, 3, 10, 10)
    assert about["attack"] == "i2i"


def test_a_second_run_sends_no_row_again_and_makes_the_same_clone(
    running: Running, options: dict[str, Any]
) -> None:
    order = Order.of(**options | {"set": ("steps=3", "batch=8")})
    first = run(*prepared(order), order.out, progress=silent)
    clone, asked = (order.out / CLONE).read_bytes(), running.computed()
    second = run(*prepared(order), order.out, progress=silent)

    assert first["psnr_to_target"] is None
    assert second == first | {"rows_taped": 48}
    assert running.computed() == asked
    assert (order.out / CLONE).read_bytes() == clone


@pytest.mark.parametrize(
    ("change", "telling"),
    [
        ({"label_only": True}, "does not use --label-only; leave it out"),
        ({"surrogate": None}, "give --surrogate"),
        ({"surrogate": Path("none.npz")}, "no such file"),
        ({"model": "mnist"}, "makes no pictures of pictures"),
        ({"model": "digits"}, "makes no pictures of pictures"),
        ({"model": "enlargd"}, "did you mean 'enlarged'"),
        ({"set": ("stepps=3",)}, "stepps: is no setting; did you mean 'steps'"),
        ({"set": ("wavelet=-1",)}, "wavelet: Input should be greater than or equal to 0"),
        ({"clone": "lenet", "clone_set": ()}, "the clone 'lenet'"),
        ({"clone_set": ("channels=1",)}, "does not take pictures of shape"),
        ({"key": ("mk_wrong",)}, r"refuses the key \(401"),
        ({"eval_rows": "ten"}, "write START:STOP"),
    ],
)
def test_mistakes_are_told_before_a_row_is_sent(
    running: Running, options: dict[str, Any], change: dict[str, Any], telling: str
) -> None:
    asked = running.computed()
    with pytest.raises(ConfigError, match=telling):
        prepared(Order.of(**options | change))

    assert running.computed() == asked
    assert not options["out"].exists()


@pytest.mark.parametrize(
    ("option", "name", "telling"),
    [
        ("surrogate", "grey", r"surrogate .* shape \(1, 16, 16\); the target's model takes"),
        ("eval", "grey", r"eval .* shape \(1, 16, 16\); the target's model takes"),
        ("cover", "small", r"cover has pictures of \(3, 16, 12\).*one size"),
    ],
)
def test_pictures_that_do_not_fit_are_named(
    folder: Path, options: dict[str, Any], option: str, name: str, telling: str
) -> None:
    with pytest.raises(ConfigError, match=telling):
        prepared(Order.of(**options | {option: folder / f"{name}.npz"}))


def test_a_clone_of_another_scale_says_so(options: dict[str, Any]) -> None:
    order = Order.of(**options | {"clone_set": ("width=4", "scale=4")})
    with pytest.raises(ConfigError, match="give it the target's scale"):
        run(*prepared(order), order.out, progress=silent)

    assert (order.out / TAPE).is_file()
    assert json.loads((order.out / REPORT).read_bytes())["rows"] == 48


def test_the_command_tells_decibels_in_place_of_agreement(options: dict[str, Any]) -> None:
    words = ["attack", "i2i", "--set", "steps=2", "--budget", "16", "--ask-eval"]
    for name in ("target", "model", "surrogate", "eval", "out"):
        words += [f"--{name}", str(options[name])]
    done = CliRunner().invoke(app, [*words, "--key", options["key"][0]])

    assert done.exit_code == 0, done.output
    assert "psnr to target" in done.output
    assert "agreement" not in done.output
