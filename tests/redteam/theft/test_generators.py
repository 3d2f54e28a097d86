"""A theft of a generator from a real gateway: what it brings home, and what is told before a row is sent."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from mantlet import architectures, weights
from mantlet.errors import ConfigError, MantletError
from redteam.attacks.attack import silent
from redteam.cli import app
from redteam.client.over_http import OverHttp
from redteam.theft.attacking import CLONE, REPORT, TAPE
from redteam.theft.generators import SHEET, Generates, Seeds, prepared, run
from redteam.theft.order import Order
from tests.e2e.harness import ROOT, Running

TINY = (
    "training.latent=4",
    "training.width=2",
    "training.discriminator_width=2",
    "training.steps=3",
    "training.batch=16",
)


@pytest.fixture
def options(running: Running, tmp_path: Path) -> dict[str, Any]:
    """Options without a mistake."""
    return {
        "name": "gan",
        "target": running.url,
        "model": "drawn",
        "key": (running.new_key(),),
        "out": tmp_path / "out",
        "budget": 96,
        "batch": 16,
        "set": TINY,
    }


def bought(options: dict[str, Any], **changes: Any) -> dict[str, Any]:
    order = Order.of(**options | changes)
    return run(*prepared(order), order.out, progress=silent)


@pytest.mark.parametrize("by", ["latents", "seeds"])
def test_a_clone_is_bought_and_written_with_a_sheet_and_its_distance(
    options: dict[str, Any], by: str
) -> None:
    done: list[tuple[int, int]] = []
    order = Order.of(
        **options, by=by, features=ROOT / "configs/models/mnist-lenet.safetensors", concurrency=2
    )
    told = run(*prepared(order), order.out, progress=silent, learning=lambda *now: done.append(now))
    about = weights.metadata(order.out / CLONE)
    clone = architectures.build(about["architecture"], json.loads(about["settings"]))
    weights.load_into(clone, order.out / CLONE, "dcgan")

    assert told == json.loads((order.out / REPORT).read_bytes())
    assert (told["rows"], told["pictures"], told["rows_learned"]) == (96, 96, 96)
    assert told["floats"] == 96 * 784
    assert (told["ended"], told["by"]) == ("budget spent", by)
    assert told["fid_clone_victim"] > 10, "three updates teach nothing"
    assert told["seconds"] > 0
    assert done == [(1, 3), (2, 3), (3, 3)]
    assert clone(torch.zeros(2, 4)).shape == (2, 1, 28, 28)
    assert about["attack"] == "gan"
    with Image.open(order.out / SHEET) as sheet:
        assert sheet.size == (298, 298), "ten rows of ten: bought ones above, drawn ones below"


def test_what_is_bought_is_what_the_model_draws(running: Running, options: dict[str, Any]) -> None:
    """The same key is asked for a seed as the thief asked, by way of the tape."""
    with OverHttp(running.url, "drawn", key=options["key"][0]) as account:
        by_rows = Generates(Seeds(account)).generate(7, 5)

        assert torch.equal(by_rows, account.generate(7, 5))


@pytest.mark.parametrize("by", ["latents", "seeds"])
def test_a_second_run_sends_no_row_again_and_makes_the_same_clone(
    running: Running, options: dict[str, Any], by: str
) -> None:
    first = bought(options, by=by, average=2)
    clone, asked = (options["out"] / CLONE).read_bytes(), running.computed()
    second = bought(options, by=by, average=2)

    assert (first["rows"], first["pictures"]) == (96, 48)
    assert second | {"seconds": 0} == first | {"rows_taped": 96, "seconds": 0}
    assert running.computed() == asked
    assert (options["out"] / CLONE).read_bytes() == clone


@pytest.mark.parametrize("by", ["latents", "seeds"])
def test_a_ban_midway_keeps_what_came_and_a_clone_is_made_of_it(
    options: dict[str, Any], by: str
) -> None:
    told = bought(options, model="drawn-denying", budget=400, by=by)

    assert told["ended"].startswith("refused: ")
    assert 80 <= told["pictures"] < told["rows"] < 200
    assert told["rows_taped"] == 0
    assert (options["out"] / CLONE).is_file()
    assert (
        bought(options, model="drawn-denying", budget=400, by=by)["rows_taped"] == told["pictures"]
    )


def test_too_few_pictures_for_a_batch_end_it_and_stay_on_the_tape(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="16 pictures, and a batch is 64"):
        bought(options, budget=16, set=())

    assert json.loads((options["out"] / REPORT).read_bytes())["rows"] == 16
    assert (options["out"] / TAPE).is_file()


def test_of_one_picture_a_clone_is_kept_without_a_distance(
    options: dict[str, Any], files: Path
) -> None:
    mostly_real = {"surrogate": files / "own.npz", "set": (*TINY, "real_share=0.97")}
    features = ROOT / "configs/models/mnist-lenet.safetensors"
    told = bought(options, budget=1, features=features, **mostly_real)

    assert (told["pictures"], told["fid_clone_victim"]) == (1, None)
    assert (options["out"] / CLONE).is_file()


def test_real_pictures_are_mixed_in(options: dict[str, Any], files: Path) -> None:
    told = bought(options, set=(*TINY, "real_share=0.25"), surrogate=files / "own.npz")

    assert (told["pictures"], told["rows_learned"]) == (96, 128)


def test_a_clone_may_be_of_another_architecture(options: dict[str, Any]) -> None:
    told = bought(options, clone="gan_mlp", clone_set=("hidden=8",))

    assert told["clone"] == {"gan_mlp": {"latent": 4, "hidden": 8}}
    assert weights.metadata(options["out"] / CLONE)["architecture"] == "gan_mlp"


@pytest.mark.parametrize(
    ("change", "telling"),
    [
        (
            {"model": "mnist"},
            r"'mnist' takes \(1, 28, 28\) and classifies; attack 'gan' is for one",
        ),
        ({"model": "labels"}, "draws nothing of latents; attack 'gan' is for one that generates"),
        ({"model": "enlarged"}, "draws nothing of latents"),
        ({"model": "drwan"}, "did you mean 'drawn'"),
        ({"label_only": True}, "does not use --label-only;"),
        ({"cover": Path("own.npz")}, "does not use --cover;"),
        ({"jitter": 0.1}, "does not use --jitter;"),
        ({"eval": Path("eval.npz")}, "does not use --eval;"),
        ({"ask_eval": True}, "does not use --ask-eval;"),
        ({"by": "names"}, "--by names: Input should be 'latents' or 'seeds'"),
        ({"set": ("stepps=3",)}, "stepps: is no setting"),
        ({"set": ("real_share=0.5",)}, "give them with --surrogate"),
        ({"clone_set": ("width=3",)}, "name it with --clone"),
        ({"clone": "dcgam"}, "did you mean 'dcgan'"),
        ({"clone": "lenet"}, "'lenet' does not take"),
        ({"clone": "dcgan", "clone_set": ("channels=3",)}, r"draws \(3, 28, 28\) of 4 numbers"),
        ({"features": ROOT / "configs/models/superres-x2.safetensors"}, "has no embed"),
        ({"features": Path("none.safetensors")}, "none.safetensors"),
        ({"key": ("mk_wrong",)}, r"refuses the key \(401"),
    ],
)
def test_mistakes_are_told_before_a_row_is_sent(
    running: Running, options: dict[str, Any], change: dict[str, Any], telling: str
) -> None:
    asked = running.computed()
    with pytest.raises(MantletError, match=telling):
        prepared(Order.of(**options | change))

    assert running.computed() == asked
    assert not options["out"].exists()


def test_the_command_tells_pictures_and_their_distance(options: dict[str, Any]) -> None:
    words = ["attack", "gan", "--by", "seeds", "--budget", "32"]
    for name in ("target", "model", "out"):
        words += [f"--{name}", str(options[name])]
    for setting in TINY:
        words += ["--set", setting]
    done = CliRunner().invoke(app, [*words, "--key", options["key"][0]])

    assert done.exit_code == 0, done.output
    assert "fid clone victim" in done.output
    assert "agreement" not in done.output
